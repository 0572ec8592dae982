"""Keeps this Python on loopback; `tests/conftest.py` imports it, and its subprocesses do.

An audit hook sees every connection and look-up of a name that Python makes, whichever library asks;
not those of C++ (gRPC, tensorstore). What it refuses looks to the program like a network that is
down, and is written to the file DETOX_JAX_BEYOND_LOOPBACK, for which the test then fails.
"""

import ipaddress
import os
import socket
import sys

VARIABLE = "DETOX_JAX_BEYOND_LOOPBACK"


def _is_here(host):
    if isinstance(host, bytes):
        host = host.decode("utf-8", "replace")
    if not host or host == "localhost" or host == socket.gethostname():
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _watch(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
    else:
        return
    if _is_here(host):
        return
    if name := os.environ.get(VARIABLE):
        with open(name, "a") as file:
            file.write(f"{event} {host!r} by {sys.argv[:3]}\n")
    raise ConnectionRefusedError(f"a test asked for {host!r}, which is beyond loopback ({event})")


sys.addaudithook(_watch)
