"""A service on this machine that misbehaves on demand."""

import contextlib
import functools
import http.server
import json
import os
import socket
import struct
import threading

import pytest

KEY = "AIza-not-a-real-key-0123456789"
LIMIT = 20_480


class FakeService:
    """Speaks as Perspective under /perspective and as a moderation endpoint under /moderation.

    A text with "idiot" scores 0.9, another 0.1. `plan` holds what the next requests meet instead:
    a `(status, headers, body)` to answer with, or "score", "slow", "hang" (within the body),
    "reset".
    """

    def __init__(self):
        self.plan, self.requests = [], []
        self.closing = threading.Event()
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                with contextlib.suppress(ConnectionError):  # Who waits no longer is gone.
                    service._serve(self)

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def texts(self):
        return [text for _, _, body in self.requests for text in _texts(body)]

    def _serve(self, handler):
        length = int(handler.headers["content-length"])
        body = json.loads(handler.rfile.read(length))
        self.requests.append((handler.path, dict(handler.headers), body))
        step = self.plan.pop(0) if self.plan else "score"
        if step == "reset":
            lingering = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
            handler.close_connection = True
            os.close(handler.connection.detach())
            return
        if step == "slow":
            self.closing.wait(120)
        status, headers, content = _answer(body) if isinstance(step, str) else step
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        if step == "hang":
            handler.wfile.write(content[:5])
            self.closing.wait(120)
            return
        handler.wfile.write(content)


def _texts(body):
    return [body["comment"]["text"]] if "comment" in body else body["input"]


def _answer(body):
    values = [0.9 if "idiot" in text else 0.1 for text in _texts(body)]
    if any(len(text.encode()) > LIMIT for text in _texts(body)):
        return 400, {}, google_error("INVALID_ARGUMENT", "COMMENT_TOO_LONG")
    if "comment" not in body:
        scores = [{"harassment": v, "hate": v / 2, "violence": 1.0} for v in values]
        return 200, {}, {"results": [{"category_scores": each} for each in scores]}
    (attribute,) = body["requestedAttributes"]
    score = {"summaryScore": {"value": values[0], "type": "PROBABILITY"}}
    return 200, {}, {"attributeScores": {attribute: score}}


def google_error(status, error_type=None, reason=None):
    """Google's layout; the prose quotes the key, as careless services do."""
    details = [{"errorType": error_type}] if error_type else [{"reason": reason}]
    return {"error": {"status": status, "message": f"about {KEY}", "details": details}}


@contextlib.contextmanager
def running_service(monkeypatch):
    """A `FakeService`, with keys for it in the environment."""
    import httpx  # Here, as the other scorers' tests need none.

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("PERSPECTIVE_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    # Reading the certificates of the world takes longer than everything else here.
    monkeypatch.setattr(httpx, "Client", functools.partial(httpx.Client, verify=False))
    fake = FakeService()
    yield fake
    fake.close()


@pytest.fixture
def service(monkeypatch):
    with running_service(monkeypatch) as fake:
        yield fake
