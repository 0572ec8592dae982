"""A stand-in for Google Cloud Storage on loopback: a dict behind HTTPS, and faults when told so.

TensorFlow has https://www.googleapis.com compiled in, but goes through the proxy of `https_proxy`,
as tensorstore does: this server answers CONNECT itself, with a certificate of its own, whatever the
host. Google's own client takes STORAGE_EMULATOR_HOST. It answers what TensorFlow 2.21, tensorstore
0.1.86 and google-cloud-storage 3.17 ask, and keeps in `mistakes` what it could not answer.
"""

from __future__ import annotations

import dataclasses
import email
import json
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.bucket.server import Answer, serve

_FAULTS = (503, 429, "cut before it took effect", "cut after it took effect")
_PAGE = 1000  # names in one answer to a list, Google's own limit


@dataclasses.dataclass(frozen=True)
class Object:
    """What one name holds."""

    data: bytes
    generation: int

    def describe(self, bucket: str, name: str) -> dict:
        """The object as the JSON API describes it."""
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(self.data)),
            "generation": str(self.generation),
            "metageneration": "1",
            "updated": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(self.generation / 1e6)),
        }


def _error(status: int, message: str) -> Answer:
    return Answer(status, {"error": {"code": status, "message": message}})


class Storage:
    """Buckets by name, each a dict of objects; serves from the start until `close`.

    Attributes:
      buckets: name to objects by name; a test reads and changes them as it likes.
      requests: every request so far, "METHOD /path?query", percent signs decoded.
      refused: patterns (`re.search`) of requests that are answered with 403.
      fault_share: of requests that fail with 503, 429 or a cut connection.
      faults: how many have failed so.
      hierarchical: whether the buckets say that they have a hierarchical namespace.
      mistakes: requests that this stand-in does not know, and errors of its own.
    """

    def __init__(self, directory: Path, *names: str):
        self.buckets: dict[str, dict[str, Object]] = {name: {} for name in names}
        self.requests: list[str] = []
        self.refused: list[str] = []
        self.fault_share = 0.0
        self.faults = 0
        self.hierarchical = False
        self.mistakes: list[str] = []
        self._random = random.Random(0)
        self._actions: list[tuple[str, Callable[[], object]]] = []
        self._uploads: dict[str, bytearray | None] = {}  # None once it is whole
        self._generation = time.time_ns() // 1000
        self._lock = threading.RLock()
        self._server, self._certificate = serve(self.take, directory)

    def close(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to find this for Google Cloud Storage."""
        address = f"http://127.0.0.1:{self._server.server_port}"
        return {
            "https_proxy": address,
            "no_proxy": "127.0.0.1",
            "CURL_CA_BUNDLE": str(self._certificate),  # TensorFlow
            "TENSORSTORE_CA_BUNDLE": str(self._certificate),
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",  # both
            "NO_GCE_CHECK": "true",
            "STORAGE_EMULATOR_HOST": address,  # google-cloud-storage
            "GOOGLE_CLOUD_PROJECT": "test",
        }

    def on_first(self, pattern: str, action: Callable[[], object]) -> None:
        """Calls `action` in place of the first request that matches, whose connection is cut."""
        self._actions.append((pattern, action))

    def take(self, method: str, url: str, headers: dict[str, str], body: bytes) -> Answer | None:
        """Answers a request, or None where the connection is to be cut."""
        line = f"{method} {unquote(url)}"
        with self._lock:
            self.requests.append(line)
            due = [each for each in self._actions if re.search(each[0], line)]
            self._actions = [each for each in self._actions if each not in due]
            is_faulty = self._random.random() < self.fault_share
            fault = self._random.choice(_FAULTS) if is_faulty else None
            self.faults += is_faulty
        for _, action in due:
            action()
        if due or fault == "cut before it took effect":
            return None
        if isinstance(fault, int):
            return _error(fault, "try again")
        if any(re.search(pattern, line) for pattern in self.refused):
            return _error(403, f"tpu-worker does not have access: {line}")
        with self._lock:
            try:
                answer = self._answer(method, url, headers, body)
            except Exception as error:
                self.mistakes.append(f"{line}: {error!r}")
                return _error(400, "the stand-in does not know this request")
        return None if fault else answer

    def _answer(self, method: str, url: str, headers: dict[str, str], body: bytes) -> Answer:
        parts = urlsplit(url)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(pattern, f"{method} {parts.path}"):
                bucket, *names = (unquote(group) for group in match.groups())
                if bucket not in self.buckets:
                    return _error(404, "The specified bucket does not exist.")
                request = _Request(bucket, query, headers, body)
                return answer(self, request, *names)
        raise NotImplementedError

    # --- what is asked --------------------------------------------------------------------------

    def _bucket(self, request: _Request) -> Answer:
        namespace = {"enabled": self.hierarchical}
        return Answer(body={"name": request.bucket, "hierarchicalNamespace": namespace})

    def _list(self, request: _Request) -> Answer:
        prefix, delimiter = (request.query.get(key, "") for key in ("prefix", "delimiter"))
        objects = self.buckets[request.bucket]
        entries: dict[str, dict | None] = {}  # by name or prefix, None for prefixes
        for name in sorted(objects):
            if not name.startswith(prefix):
                continue
            inner, cut, _ = name[len(prefix) :].partition(delimiter or "\0")
            if cut:
                entries[prefix + inner + delimiter] = None
            else:
                entries[name] = objects[name].describe(request.bucket, name)
        left = [name for name in entries if name > request.query.get("pageToken", "")]
        page = left[: int(request.query.get("maxResults", _PAGE))]
        answer = {
            "items": [entries[name] for name in page if entries[name]],
            "prefixes": [name for name in page if not entries[name]],
        }
        if len(page) < len(left):
            answer["nextPageToken"] = page[-1]
        return Answer(body=answer)

    def _get(self, request: _Request, name: str) -> Answer:
        found = self.buckets[request.bucket].get(name)
        if found is None:
            return _error(404, f"No such object: {request.bucket}/{name}")
        if not request.meets(found):
            return _error(304 if "ifGenerationNotMatch" in request.query else 412, "generation")
        if request.query.get("alt") != "media":
            return Answer(body=found.describe(request.bucket, name))
        return self._read(request, name)

    def _read(self, request: _Request, name: str) -> Answer:
        found = self.buckets[request.bucket].get(name)
        if found is None:
            return _error(404, f"No such object: {request.bucket}/{name}")
        size, headers = len(found.data), {"x-goog-generation": str(found.generation)}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if not asked:
            return Answer(200, found.data, headers)
        first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
        if first >= size:
            return _error(416, "out of range")
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return Answer(206, found.data[first : last + 1], headers)

    def _upload(self, request: _Request) -> Answer:
        if request.query["uploadType"] == "multipart":
            return self._upload_parts(request)
        name = request.query["name"]
        if not request.meets(self.buckets[request.bucket].get(name)):
            return _error(412, "conditionNotMet")
        if request.query["uploadType"] == "media":
            return self._store(request.bucket, name, request.body)
        upload = str(len(self._uploads))
        self._uploads[upload] = bytearray()
        # The name is in it only for `requests` and for patterns.
        path = f"/upload/storage/v1/b/{request.bucket}/o?upload_id={upload}&name={quote(name)}"
        return Answer(headers={"Location": f"https://www.googleapis.com{path}"})

    def _upload_parts(self, request: _Request) -> Answer:
        """Metadata and content in one request, as google-cloud-storage sends what is small."""
        head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
        parts = email.message_from_bytes(head + request.body).get_payload()
        metadata, content = (part.get_payload(decode=True) for part in parts)
        name = json.loads(metadata)["name"]
        if not request.meets(self.buckets[request.bucket].get(name)):
            return _error(412, "conditionNotMet")
        return self._store(request.bucket, name, content)

    def _upload_part(self, request: _Request) -> Answer:
        upload, name = request.query["upload_id"], request.query["name"]
        if (received := self._uploads[upload]) is None:
            return Answer()
        # TensorFlow sends no range with an empty file.
        span = request.headers.get("content-range", "bytes */0")
        sent = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", span)
        assert sent, span
        if sent[1]:
            received[int(sent[1]) :] = request.body
        if len(received) == int(sent[2]):
            self._uploads[upload] = None
            return self._store(request.bucket, name, bytes(received))
        held = {"Range": f"bytes=0-{len(received) - 1}"} if received else {}
        return Answer(308, headers=held)

    def _copy(self, request: _Request, name: str, to_bucket: str, to_name: str) -> Answer:
        found = self.buckets[request.bucket].get(name)
        if found is None or to_bucket not in self.buckets:
            return _error(404, f"No such object: {request.bucket}/{name}")
        copied = self._store(to_bucket, to_name, found.data)
        return Answer(body={"done": True, "resource": copied.body})

    def _delete(self, request: _Request, name: str) -> Answer:
        found = self.buckets[request.bucket].get(name)
        if found is None:
            return _error(404, f"No such object: {request.bucket}/{name}")
        if not request.meets(found):
            return _error(412, "conditionNotMet")
        del self.buckets[request.bucket][name]
        return Answer(204)

    def _store(self, bucket: str, name: str, data: bytes) -> Answer:
        self._generation += 1
        self.buckets[bucket][name] = Object(data, self._generation)
        return Answer(body=self.buckets[bucket][name].describe(bucket, name))


@dataclasses.dataclass(frozen=True)
class _Request:
    bucket: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes

    def meets(self, found: Object | None) -> bool:
        """Whether the object is of the generation that the request is on condition of."""
        generation = str(found.generation) if found else "0"
        wanted = self.query.get("ifGenerationMatch", generation)
        return wanted == generation != self.query.get("ifGenerationNotMatch")


_API = "/storage/v1/b/([^/]+)"
_ROUTES = [
    (f"GET {_API}(?:/storageLayout)?", Storage._bucket),
    (f"GET {_API}/o", Storage._list),
    (f"GET (?:/download)?{_API}/o/([^/]+)", Storage._get),
    (f"POST {_API}/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)", Storage._copy),
    (f"DELETE {_API}/o/([^/]+)", Storage._delete),
    (f"POST /upload{_API}/o", Storage._upload),
    (f"PUT /upload{_API}/o", Storage._upload_part),
    ("GET /([^/]+)/(.+)", Storage._read),  # TensorFlow reads at https://storage.googleapis.com
]
