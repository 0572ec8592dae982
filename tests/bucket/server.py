"""HTTPS on loopback: a proxy that answers CONNECT itself, whatever the host, and HTTP beside it."""

from __future__ import annotations

import dataclasses
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Answer:
    """Status, body (JSON unless bytes) and headers."""

    status: int = 200
    body: bytes | dict = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


# Method, URL, headers by their name in lower case, and body; None cuts the connection.
Take = Callable[[str, str, dict[str, str], bytes], Answer | None]


def serve(take: Take, directory: Path) -> tuple[ThreadingHTTPServer, Path]:
    """Starts a server that lets `take` answer; also returns the certificate to trust."""
    certificate = _make_certificate(directory)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, directory / "key.pem")
    handler = type("Handler", (_Handler,), {"take": staticmethod(take), "tls": tls})
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, certificate


class _Handler(BaseHTTPRequestHandler):
    """One connection: plain, or behind CONNECT with the stand-in's certificate."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgment
    take: Take
    tls: ssl.SSLContext

    def do_CONNECT(self) -> None:  # noqa: N802
        self.send_response(200)
        self.end_headers()
        self.connection = self.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def do_GET(self) -> None:  # noqa: N802
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.take(self.command, self.path, headers, self._body())
        if answer is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = answer.body
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if answer.status in (204, 304):  # which have no body
            content = b""
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        # TensorFlow sends both headers, of which the encoding counts (RFC 9112, section 6.3).
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        chunks = []
        while size := int(self.rfile.readline() or b"-1", 16):
            if size < 0:
                raise ConnectionResetError("the client is gone in the midst of an upload")
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client is gone, as when it was killed
            pass
        finally:
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # each request of TensorFlow's is a connection of its own


def _make_certificate(directory: Path) -> Path:
    certificate = directory / "certificate.pem"
    command = "openssl req -x509 -nodes -days 2 -subj /CN=stand-in -newkey ec"
    curve = ["-pkeyopt", "ec_paramgen_curve:P-256"]
    names = "subjectAltName=DNS:www.googleapis.com,DNS:storage.googleapis.com"
    files = ["-addext", names, "-keyout", directory / "key.pem", "-out", certificate]
    subprocess.run([*command.split(), *curve, *files], check=True, capture_output=True)
    return certificate
