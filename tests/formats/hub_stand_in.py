"""A stand-in for the Hugging Face hub on loopback: data sets of files, as huggingface_hub asks."""

import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

COMMIT = "99490b59aff2f4b1e60bee95ba0c4b4c0a6a8a6f"


def _git_id(content):
    return hashlib.sha1(content).hexdigest()


@contextlib.contextmanager
def serving(repositories):
    """Serves `{repo: {file: bytes}}` of the one commit, and yields the address and what was asked.

    The revisions `main` and `v1` are that commit; any other is none.
    """
    asked = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = urllib.parse.unquote(self.path.partition("?")[0])
            asked.append(f"{self.command} {path}")
            if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                self._info(match[1], match[2] or "main")
            elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/(.+)", path):
                self._tree(match[1])
            elif match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._file(match[1], match[2], match[3])
            else:
                self._refuse("EntryNotFound")

        do_HEAD = do_GET

        def _info(self, repo, revision):
            if repo not in repositories:
                return self._refuse("RepoNotFound")
            if revision not in ("main", "v1", COMMIT):
                return self._refuse("RevisionNotFound")
            names = [{"rfilename": name} for name in repositories[repo]]
            self._send(json.dumps({"id": repo, "sha": COMMIT, "siblings": names}).encode())

        def _tree(self, repo):
            files = [
                {"type": "file", "path": name, "size": len(content), "oid": _git_id(content)}
                for name, content in repositories[repo].items()
            ]
            self._send(json.dumps(files).encode())

        def _file(self, repo, revision, name):
            content = repositories.get(repo, {}).get(name)
            if content is None or revision != COMMIT:
                return self._refuse("EntryNotFound")
            self._send(content)

        def _send(self, content):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{_git_id(content)}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def _refuse(self, code):
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
