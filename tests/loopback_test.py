"""No test reaches beyond loopback, in its own process or another."""

import socket
import subprocess
import sys
import urllib.request

import pytest

from tests.conftest import BEYOND_LOOPBACK

CONNECT = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=1)"
UNWATCHED = "import socket; socket.getaddrinfo('example.invalid', 9)"


@pytest.fixture(autouse=True)
def forgiven(only_loopback):
    """What is asked for here on purpose fails no test."""
    yield
    BEYOND_LOOPBACK.write_text("")


@pytest.mark.parametrize(
    "ask",
    [
        lambda: socket.create_connection(("192.0.2.1", 9), timeout=1),
        lambda: socket.getaddrinfo("example.invalid", 80),
        lambda: urllib.request.urlopen("http://example.invalid/", timeout=1),
    ],
)
def test_a_connection_beyond_loopback_is_refused_and_told(ask):
    with pytest.raises(OSError, match="beyond loopback"):
        ask()
    assert "192.0.2.1" in (told := BEYOND_LOOPBACK.read_text()) or "example.invalid" in told


@pytest.mark.parametrize("program", [CONNECT, UNWATCHED])
def test_a_subprocess_is_kept_too(program):
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 1 and "beyond loopback" in ended.stderr
    assert "socket." in BEYOND_LOOPBACK.read_text()


def test_loopback_is_open():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=60).close()
    assert BEYOND_LOOPBACK.read_text() == ""
