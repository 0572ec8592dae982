"""A stand-in for the hub's API on loopback: repositories, branches, LFS uploads and commits."""

import base64
import contextlib
import http.server
import json
import re
import threading
import urllib.parse

TOKEN = "hf_of_a_test"


class Hub:
    """What it holds, and how it fails.

    Attributes:
      files: by repository, branch and name.
      visibility: of repositories.
      commits: `(repo, branch, message, deleted names)`.
      fail: `(part of a path, status)` to answer with that status.
    """

    def __init__(self):
        self.files, self.visibility, self.commits, self.objects = {}, {}, [], {}
        self.fail = None
        self.url = ""


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args):
        del args

    def _answer(self, value=None, status=200):
        content = json.dumps({} if value is None else value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status >= 400:
            self.send_header("X-Error-Message", value["error"])
        self.end_headers()
        self.wfile.write(content)

    def _take(self):
        path = urllib.parse.unquote(self.path.partition("?")[0])
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.hub.fail is not None and self.hub.fail[0] in path:
            self._answer({"error": "as the test asked"}, self.hub.fail[1])
        elif path.startswith("/put/"):
            self.hub.objects[path.removeprefix("/put/")] = body
            self._answer()
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid username or password."}, 401)
        else:
            self._route(path, body)

    do_GET = do_POST = do_PUT = do_HEAD = _take

    def _route(self, path, body):
        hub = self.hub
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in hub.visibility:
                url = f"{hub.url}/{repo}"
                return self._answer({"error": "You already created it", "url": url}, 409)
            hub.visibility[repo] = asked.get("visibility")
            hub.files[repo] = {"main": {}}
            return self._answer({"url": f"{hub.url}/{repo}"})
        if path == "/api/validate-yaml":
            return self._answer()
        if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**o, "actions": {"upload": {"href": f"{hub.url}/put/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self._answer({"transfer": "basic", "objects": objects})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/([a-z]+)(?:/(.+))?)?", path)
        assert found, path
        repo, what, branch = found.groups()
        if repo not in hub.files:
            return self._answer({"error": "Repository not found"}, 404)
        if what == "branch":
            if branch in hub.files[repo]:
                return self._answer({"error": "Reference already exists"}, 409)
            hub.files[repo][branch] = dict(hub.files[repo]["main"])
            return self._answer()
        files = hub.files[repo][branch or "main"]
        if what == "tree":
            listed = [{"type": "file", "path": n, "size": 1, "oid": "0"} for n in sorted(files)]
            return self._answer(listed)
        if what == "preupload":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            return self._answer({"files": modes})
        if what == "commit":
            return self._commit(repo, branch, [json.loads(line) for line in body.splitlines()])
        siblings = [{"rfilename": name} for name in sorted(files)]
        return self._answer({"id": repo, "sha": "0" * 40, "siblings": siblings})

    def _commit(self, repo, branch, lines):
        files, deleted, message = self.hub.files[repo][branch], [], None
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
                deleted.append(value["path"])
        self.hub.commits.append((repo, branch, message, deleted))
        oid = f"{len(self.hub.commits):040x}"
        self._answer({"commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "commitOid": oid})


@contextlib.contextmanager
def serving():
    """Yields the stand-in while it answers at its `url`."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
