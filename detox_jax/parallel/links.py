"""Links between process 0 and all others: who has come, who is alive, who has failed.

Where a process stays away or dies, JAX ends the others late, by abort, and names nobody. So before
JAX starts, all processes call at the coordinator's port, where process 0 takes the roll; the links
stay open beside JAX's own, which it opens on the same port. A process whose link breaks, or is
silent for long, is named on all others, which end; one that fails tells them why.

The port is open to others too. Who calls there must prove that it belongs to the run, and has a few
seconds; strangers are hung up on, whatever they send, and the roll call goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from detox_jax.errors import UserError
from detox_jax.parallel.processes import PeerError

# All processes of a run may be given the same word, which nobody else knows.
RUN_VARIABLE = "DETOX_JAX_RUN"
_LONGEST_MESSAGE = 1 << 20
_LONGEST_HELLO = 1 << 12
# Who calls has so long to say who it is, and so many may be about to.
_HELLO_S = 5.0
_MOST_CALLERS = 4096
# A process that fails by itself prints its own error; the others wait this long for theirs.
_LINGER_S = 3.0
# A peer's death breaks a computation before its link is read: so long the watch may take.
_GRACE_S = 10.0


@dataclasses.dataclass(frozen=True)
class Patience:
    """Seconds until a process counts as lost.

    Attributes:
      start: for all to come.
      beat: between two signs of life.
      silence: without a sign of life. A minute is promised, so it is less.
    """

    start: float = 45.0
    beat: float = 5.0
    silence: float = 45.0


def open_links(address: str, index: int, count: int, patience: Patience) -> Links:
    """Meets all processes.

    Args:
      address: `HOST:PORT` of process 0, which listens there.
      index: which process this is, from 0.
      count: of all processes.
      patience: how long to wait for the others, and later for a sign of life.

    Raises:
      UserError: if the port cannot be opened, or processes were started with another count or the
        same index.
      PeerError: if the coordinator does not answer, or naming the processes that did not come.
    """
    if index == 0:
        return _take_roll(address, count, patience)
    return _call_in(address, index, count, patience)


# --- the roll call ----------------------------------------------------------------------------


def _take_roll(address: str, count: int, patience: Patience) -> Links:
    hosts = {0: socket.gethostname()}
    present: dict[int, Connection] = {}
    callers: dict[socket.socket, _Caller] = {}
    deadline = time.monotonic() + patience.start
    with _listen(address) as server:
        server.setblocking(False)
        while len(hosts) < count:
            now = time.monotonic()
            if now >= deadline:
                _give_up(address, count, hosts, present, patience)
            for caller in [caller for caller in callers.values() if now >= caller.deadline]:
                callers.pop(caller.dialled).dialled.close()
            until = min([deadline, *(caller.deadline for caller in callers.values())])
            for each in wait([server, *callers], max(0.0, until - now)):
                assert isinstance(each, socket.socket)
                if each is server:
                    _accept(server, callers)
                    continue
                hello = callers[each].read()
                if hello is _INCOMPLETE:
                    continue
                del callers[each]
                if not _is_ours(hello, address):  # A port is open to anybody.
                    each.close()
                    continue
                assert isinstance(hello, dict)
                connection = _linked(each, patience)
                if error := _wrong(hello, count, hosts):
                    _refuse(address, [*present.values(), connection], UserError(error))
                hosts[hello["index"]] = hello["host"]
                present[hello["index"]] = connection
    for dialled in callers:
        dialled.close()
    names = [hosts[i] for i in range(count)]
    for connection in present.values():
        _send(connection, _proven({"hosts": names}, address))
    return Links(0, names, present, patience)


def _give_up(
    address: str,
    count: int,
    hosts: Mapping[int, str],
    present: Mapping[int, Connection],
    patience: Patience,
) -> NoReturn:
    missing = ", ".join(str(i) for i in range(count) if i not in hosts)
    error = PeerError(
        f"process {missing} of {count} did not come to {address} within {patience.start:.0f} s of "
        "process 0; is it running, with the same coordinator address?"
    )
    _refuse(address, present.values(), error)


def _accept(server: socket.socket, callers: dict[socket.socket, _Caller]) -> None:
    try:
        dialled = server.accept()[0]
    except OSError:  # It has hung up already.
        return
    dialled.setblocking(False)
    if len(callers) >= _MOST_CALLERS:  # Who has waited longest is the likeliest stranger.
        next(iter(callers)).close()
        del callers[next(iter(callers))]
    callers[dialled] = _Caller(dialled, time.monotonic() + _HELLO_S)


_INCOMPLETE = object()


@dataclasses.dataclass
class _Caller:
    """Somebody at the port, of whom nothing is known yet; is read without ever waiting.

    Attributes:
      dialled: the connection.
      deadline: until when a whole message must have come.
      heard: what came so far.
    """

    dialled: socket.socket
    deadline: float
    heard: bytes = b""

    def read(self) -> object:
        """What was said: `_INCOMPLETE` before its end, None where it is no message."""
        try:
            part = self.dialled.recv(_LONGEST_HELLO + 4 - len(self.heard) + 1)
        except BlockingIOError:
            return _INCOMPLETE
        except OSError:
            return None
        self.heard += part
        # As `Connection` frames its messages.
        size = int.from_bytes(self.heard[:4], "big")
        if not part or (len(self.heard) >= 4 and size > _LONGEST_HELLO):
            return None
        if len(self.heard) < 4 + size or len(self.heard) < 4:
            return _INCOMPLETE
        return _decoded(self.heard[4:]) if len(self.heard) == 4 + size else None


def _is_ours(hello: object, address: str) -> bool:
    """Whether a process of this run speaks: it knows the run, and says what one has to say."""
    if not isinstance(hello, dict) or not _is_proven(hello, address):
        return False
    index, count, host = (hello.get(name) for name in ("index", "count", "host"))
    numbers = type(index) is int and type(count) is int
    return numbers and 0 <= index < count and isinstance(host, str)  # type: ignore


def _proven(message: Mapping[str, Any], address: str) -> dict[str, Any]:
    """A message with the proof that a process of this run sends it."""
    return {**message, "proof": _proof(message, address)}


def _is_proven(message: Mapping[str, Any], address: str) -> bool:
    said = {name: value for name, value in message.items() if name != "proof"}
    proof = message.get("proof")
    if not isinstance(proof, str) or not proof.isascii():
        return False
    return hmac.compare_digest(proof, _proof(said, address))


def _proof(message: Mapping[str, Any], address: str) -> str:
    # Hosts may name process 0 in several ways; all know its port.
    run = f"detox-jax {os.environ.get(RUN_VARIABLE, '')} {_split(address)[1]}"
    said = json.dumps(message, sort_keys=True)
    return hmac.new(run.encode(), said.encode(), hashlib.sha256).hexdigest()


def _listen(address: str) -> socket.socket:
    port = _split(address)[1]
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
            )
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise UserError(
            f"--coordinator_address={address}: process 0 cannot open port {port}: "
            f"{error.strerror}; choose another"
        ) from None


def _wrong(hello: Mapping[str, Any], count: int, hosts: Mapping[int, str]) -> str | None:
    """What is wrong with a process that calls in."""
    index, host = hello["index"], hello["host"]
    if hello["count"] != count:
        return (
            f"process {index} ({host}) was started for {hello['count']} processes, process 0 "
            f"({hosts[0]}) for {count}; give all the same --process_count"
        )
    if index in hosts:
        return (
            f"two processes have --process_index={index}, on {hosts[index]} and {host}; give each "
            "its own"
        )
    return None


def _refuse(address: str, connections: Iterable[Connection], error: Exception) -> NoReturn:
    kind = "user" if isinstance(error, UserError) else "peer"
    for connection in connections:
        _send(connection, _proven({"error": str(error), "kind": kind}, address))
    raise error


def _call_in(address: str, index: int, count: int, patience: Patience) -> Links:
    host, port = _split(address)
    deadline = time.monotonic() + patience.start
    hello = _proven({"index": index, "count": count, "host": socket.gethostname()}, address)
    problem = "does not answer"
    while True:
        try:
            dialled = socket.create_connection((host, port), timeout=5.0)
        except OSError as error:
            problem = f"does not answer ({error.strerror or error})"
        else:
            connection = _linked(dialled, patience)
            _send(connection, hello)
            # Until process 0 has given up, and said so.
            left = max(0.0, deadline - time.monotonic()) + patience.start + patience.beat
            answer = _receive(connection) if connection.poll(left) else None
            if answer is not None and _is_proven(answer, address):
                break
            connection.close()
            problem = "answers, but not as process 0 of this run"
        if time.monotonic() > deadline:
            raise PeerError(
                f"--coordinator_address={address}: {problem} within {patience.start:.0f} s; start "
                f"process 0 there, open tcp:{port} between the hosts, and let nothing else use it"
            )
        time.sleep(0.2)
    if "error" in answer:
        raise {"user": UserError, "peer": PeerError}[answer["kind"]](answer["error"])
    return Links(index, answer["hosts"], {0: connection}, patience)


def _linked(dialled: socket.socket, patience: Patience) -> Connection:
    dialled.setblocking(True)
    # A message leaves at once, or is lost with a process that says why it fails and is gone.
    dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Half a message, or a peer that no longer reads, must not hold up what is heard of the others.
    limit = struct.pack("ll", max(1, int(patience.silence)), 0)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        dialled.setsockopt(socket.SOL_SOCKET, option, limit)
    return Connection(dialled.detach())


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator_address={address}: expected HOST:PORT, such as host:8476")
    return host.strip("[]"), int(port)


def _send(connection: Connection, message: Mapping[str, Any]) -> None:
    try:
        connection.send_bytes(json.dumps(message).encode())
    except OSError:
        pass  # A broken link shows when it is read.


def _receive(connection: Connection) -> dict[str, Any] | None:
    """A message; None where the link is broken, or what came is no message."""
    try:
        return _decoded(connection.recv_bytes(_LONGEST_MESSAGE))
    except (OSError, EOFError):
        return None


def _decoded(content: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


# --- while the run lasts ----------------------------------------------------------------------


class Links:
    """The links of one process: process 0 has one to each of the others, these one to it.

    Attributes:
      hosts: names of the machines, by process.
    """

    def __init__(
        self,
        index: int,
        hosts: Sequence[str],
        connections: Mapping[int, Connection],
        patience: Patience,
    ):
        """Takes over connections that are open; `open_links` makes them.

        Args:
          index: of this process.
          hosts: names of the machines, by process.
          connections: open ones, by the process at the other end.
          patience: how long a silence may be.
        """
        self.hosts = tuple(hosts)
        self._index = index
        self._open = dict(connections)
        self._patience = patience
        self._waiting_for = set(self._open)  # Who has not yet said that it is done.
        self._done = threading.Event()
        self._all_done = threading.Event()
        self._failing = threading.Event()
        self._ending = threading.Lock()

    def watch(self) -> None:
        """Begins to watch over the others, in a thread of its own."""
        threading.Thread(target=self._watch, name="links", daemon=True).start()

    def finish(self) -> None:
        """Returns when all processes are done."""
        if self._index:
            self._tell({"done": self._index})
        self._done.set()
        self._all_done.wait()

    def fail(self, error: BaseException, report: Callable[[BaseException], int]) -> NoReturn:
        """Reports an error, tells the others of it, and ends this process.

        Args:
          error: what ended the verb.
          report: prints it and returns the exit status.
        """
        if not isinstance(error, UserError | KeyboardInterrupt | SystemExit):
            time.sleep(_GRACE_S)  # It may follow from a peer's death: then the watch ends us.
        if not self._claim_end():
            threading.Event().wait()  # The watch thread is ending this process.
        status = report(error)
        summary = (str(error).strip() or type(error).__name__).splitlines()[0]
        self._tell({"failed": self._index, "message": f"failed: {summary}", "status": status})
        self._leave(status)

    def _watch(self) -> None:
        heard = dict.fromkeys(self._open, time.monotonic())
        next_beat = 0.0
        while not self._all_done.is_set():
            if time.monotonic() >= next_beat:
                self._tell({"alive": self._index})
                next_beat = time.monotonic() + self._patience.beat
            by_connection = {connection: index for index, connection in self._open.items()}
            # Short, since `finish` is not heard of through a link.
            for connection in wait(list(by_connection), min(0.2, self._patience.beat)):
                index = by_connection[connection]  # type: ignore
                heard[index] = time.monotonic()
                self._on_message(index, _receive(self._open[index]))
            for index in self._open:
                if time.monotonic() - heard[index] > self._patience.silence:
                    silence = f"has been silent for {self._patience.silence:.0f} s"
                    self._end(index, f"{silence}: it hangs, or its host or network is gone", 1)
            if self._index == 0 and self._done.is_set() and not self._waiting_for:
                self._tell({"all_done": True})
                self._all_done.set()

    def _on_message(self, index: int, message: dict[str, Any] | None) -> None:
        if message is None:
            del self._open[index]
            if index in self._waiting_for and not self._failing.is_set():
                self._end(index, "died: its connection closed; its log may say why", 1)
        elif "done" in message:
            self._waiting_for.discard(index)
        elif "all_done" in message:
            self._all_done.set()
        elif "failed" in message:
            self._end(message["failed"], message["message"], message["status"])

    def _end(self, index: int, what: str, status: int) -> None:
        """Ends this process because of another, unless it is failing by itself already."""
        if self._index == 0:
            self._tell({"failed": index, "message": what, "status": status})
        # Of a mistake that all have made, or a signal to all, each prints its own line.
        if self._failing.wait(_LINGER_S if status in (2, 75) else 0.0) or not self._claim_end():
            return
        line = (
            f"detox-jax: error: process {index} of {len(self.hosts)} ({self.hosts[index]}) {what}"
        )
        os.write(sys.stderr.fileno(), f"{line}\n".encode())
        self._leave(status)

    def _claim_end(self) -> bool:
        """Whether the calling thread is the one that ends this process."""
        self._failing.set()
        return self._ending.acquire(blocking=False)

    def _leave(self, status: int) -> NoReturn:
        # The others abort when the coordinator, which process 0 holds, goes before them; and at a
        # regular exit JAX would wait for all to come to it.
        if self._index == 0:
            time.sleep(_LINGER_S + 1.0)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)

    def _tell(self, message: Mapping[str, Any]) -> None:
        for connection in list(self._open.values()):
            _send(connection, message)
