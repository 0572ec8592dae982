"""The links between processes: who does not come, who dies, hangs or fails, is named in time."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import time
from concurrent import futures
from socket import create_connection, create_server

import pytest

from detox_jax.errors import UserError
from detox_jax.parallel import links
from detox_jax.parallel.processes import PeerError

SOON = links.Patience(start=2.0, beat=0.2)  # For who waits in vain.
LONG = links.Patience(start=120.0, beat=0.2)  # No process takes so long, on a busy machine either.


@pytest.fixture
def address():
    with create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def call(address, members, patience=SOON):
    """What `open_links` returns or raises for each `(index, count)`, at once."""

    def open_one(member):
        try:
            return links.open_links(address, *member, patience)
        except (UserError, PeerError) as error:
            return error

    with futures.ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(open_one, members))


@pytest.fixture
def heard(monkeypatch):
    """The indices of processes that have called in, as process 0 hears them."""
    indices, wrong = queue.Queue(), links._wrong

    def note(hello, *others):
        indices.put(hello["index"])
        return wrong(hello, *others)

    monkeypatch.setattr(links, "_wrong", note)
    return indices


def test_all_come_and_know_each_other_whoever_else_calls(address):
    with futures.ThreadPoolExecutor(1) as pool:
        opened = pool.submit(call, address, [(0, 3), (2, 3)], LONG)
        deadline = time.monotonic() + LONG.start
        while True:
            try:
                stranger = create_connection(tuple(address.split(":")), timeout=60)
                break
            except OSError:
                assert time.monotonic() < deadline
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        (third,) = call(address, [(1, 3)], LONG)
        stranger.close()
        everyone = [*opened.result(), third]
    assert all(isinstance(each, links.Links) for each in everyone), everyone
    assert len({each.hosts for each in everyone}) == 1 and len(third.hosts) == 3


def _framed(content):
    return len(content).to_bytes(4, "big") + content


def _hello(**changes):
    return {"index": 1, "count": 2, "host": "h", **changes}


def _signed(hello, address="127.0.0.1:1"):
    return _framed(json.dumps(links._proven(hello, address)).encode())


STRANGERS = {
    "two bytes, and waits": b"\0\0",
    "nothing": b"",
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(180),
    "no json": _framed(b"hello"),
    "a list": _framed(b"[1, 2]"),
    "no fields": _framed(b"{}"),
    "deep json": _framed(b"[" * 4000),
    "longer than it says": _framed(b"{}") + b"more",
    "a megabyte": _framed(bytes(1 << 20)),
    "negative size": b"\xff\xff\xff\xff" + bytes(8),
    "without a proof": _framed(json.dumps(_hello()).encode()),
    "a proof that is none": _framed(json.dumps({**_hello(), "proof": "é"}).encode()),
    "of another run": _signed(_hello()),
}
# Of processes that know the run, and speak nonsense all the same.
NONSENSE = [
    {"index": -1},
    {"index": 7},
    {"index": True},
    {"index": "1"},
    {"count": None},
    {"host": 5},
]


@pytest.fixture
def port_open(address):
    """Connects to process 0, once it listens."""

    def connect():
        deadline = time.monotonic() + LONG.start
        while True:
            try:
                return create_connection(tuple(address.split(":")), timeout=60)
            except OSError:
                assert time.monotonic() < deadline

    return connect


def test_strangers_and_nonsense_are_hung_up_on_and_the_roll_call_goes_on(address, port_open):
    with futures.ThreadPoolExecutor(1) as pool:
        opened = pool.submit(call, address, [(0, 2)], LONG)
        said = [*STRANGERS.values(), *(_signed(_hello(**each), address) for each in NONSENSE)]
        callers = [port_open() for _ in said]
        for caller, content in zip(callers, said, strict=True):
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # hung up on already
                caller.sendall(content)
        port_open().close()
        (second,) = call(address, [(1, 2)], LONG)
        (first,) = opened.result()
    assert isinstance(first, links.Links) and first.hosts == second.hosts
    for caller in callers:
        try:
            assert caller.recv(1) == b""
        except ConnectionResetError:
            pass
        caller.close()


def test_who_says_nothing_is_hung_up_on_while_others_are_waited_for(
    address, port_open, monkeypatch
):
    monkeypatch.setattr(links, "_HELLO_S", 0.2)
    with futures.ThreadPoolExecutor(1) as pool:
        opened = pool.submit(call, address, [(0, 2)], LONG)
        with port_open() as silent:
            silent.sendall(b"\0")
            assert silent.recv(1) == b""  # Before the second process has come.
        call(address, [(1, 2)], LONG)
        assert isinstance(opened.result()[0], links.Links)


def test_a_crowd_of_strangers_leaves_room(address, port_open, monkeypatch):
    monkeypatch.setattr(links, "_MOST_CALLERS", 3)
    with futures.ThreadPoolExecutor(1) as pool:
        opened = pool.submit(call, address, [(0, 2)], LONG)
        crowd = [port_open() for _ in range(8)]
        call(address, [(1, 2)], LONG)
        assert isinstance(opened.result()[0], links.Links)
    for stranger in crowd:
        stranger.close()


def test_a_process_of_another_run_does_not_take_part(address, monkeypatch):
    """Such as one that an earlier run left behind; with a word of its own, a run knows its own."""
    theirs = links._proof({"index": 1}, address)
    monkeypatch.setenv(links.RUN_VARIABLE, "this run")
    ours = links._proven({"index": 1}, address)
    assert links._is_proven(ours, address)
    assert not links._is_proven({**ours, "proof": theirs}, address)
    assert not links._is_proven({**ours, "index": 2}, address)


def test_another_service_at_the_coordinator_s_port_is_not_process_0(address):
    host, port = address.split(":")
    with create_server((host, int(port))) as server, futures.ThreadPoolExecutor(1) as pool:

        def serve():
            for _ in range(3):
                connection = server.accept()[0]
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
                connection.close()

        serving = pool.submit(serve)
        (error,) = call(address, [(1, 2)], links.Patience(start=0.3, beat=0.2))
        for _ in range(3):  # Whoever it still waits for.
            if not serving.done():
                create_connection((host, int(port)), timeout=5).close()
    assert isinstance(error, PeerError)
    assert "answers, but not as process 0 of this run" in str(error)


def test_half_a_message_does_not_stop_the_watch(address):
    """The connection of a peer that hangs in the middle of a word counts as broken."""
    short = links.Patience(start=60.0, beat=0.2, silence=1.0)
    first, second = call(address, [(0, 2), (1, 2)], short)
    os.write(second._open[0].fileno(), b"\0\0")
    assert links._receive(first._open[1]) is None


def test_processes_that_stay_away_are_named_on_those_that_came(address):
    came = call(address, [(0, 4), (2, 4)], links.Patience(start=5.0, beat=0.2))
    assert all(isinstance(error, PeerError) for error in came)
    for error in came:
        assert f"process 1, 3 of 4 did not come to {address} within 5 s" in str(error)


def test_a_coordinator_that_does_not_answer_is_named(address):
    (error,) = call(address, [(1, 2)])
    assert isinstance(error, PeerError)  # It may be slow, or killed: no mistake in the command.
    assert f"--coordinator_address={address}: does not answer (Connection refused)" in str(error)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([(0, 3), (2, 3), (1, 2)], "process 1 .* was started for 2 processes, process 0 .* for 3"),
        ([(0, 3), (1, 3), (1, 3)], "two processes have --process_index=1"),
    ],
)
def test_processes_that_do_not_fit_are_named_on_all(address, heard, members, message):
    *first, last = members
    with futures.ThreadPoolExecutor(1) as pool:
        opened = pool.submit(call, address, first, LONG)
        heard.get(timeout=LONG.start)
        errors = [*call(address, [last], LONG), *opened.result()]
    assert all(isinstance(error, UserError) for error in errors), errors
    with pytest.raises(UserError, match=message):
        raise errors[0]


def test_the_last_words_of_a_process_that_ends_at_once_arrive(address):
    """It has not read all: closing resets the connection, and what was not yet sent is gone."""
    first, second = call(address, [(0, 2), (1, 2)], LONG)
    first._tell({"alive": 0})
    last_words = [{"alive": 1}, {"failed": 1, "message": "why"}]
    for message in last_words:
        second._tell(message)
    second._open[0].close()
    assert [links._receive(first._open[1]) for _ in last_words] == last_words


def test_a_port_that_is_taken_and_an_address_that_is_none():
    with create_server(("", 0)) as server:
        with pytest.raises(UserError, match="cannot open port"):
            links.open_links(f"127.0.0.1:{server.getsockname()[1]}", 0, 2, SOON)
    with pytest.raises(UserError, match="expected HOST:PORT"):
        links.open_links("somewhere", 1, 2, SOON)


PROGRAM = """
import os, pathlib, signal, sys, time
from detox_jax.errors import UserError
from detox_jax.parallel import links
index, address, act, mark = int(sys.argv[1]), sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4])
links._GRACE_S = 120.0  # The watch ends the process before.
if act != "all_fail":
    links._LINGER_S = 0.5
silence = 6.0 if act == "hang" else 120.0
linked = links.open_links(address, index, 3, links.Patience(120.0, beat=0.2, silence=silence))
linked.watch()
def report(error):
    print("own:", error, file=sys.stderr)
    return 2 if isinstance(error, UserError) else 1
if act == "die1" and index == 1 or act == "die0" and index == 0:
    os.kill(os.getpid(), signal.SIGKILL)
if act == "hang" and index == 2:
    os.kill(os.getpid(), signal.SIGSTOP)
if act == "fail" and index == 1:
    linked.fail(UserError("no such file"), report)
if act == "all_fail":
    linked.fail(UserError("a bad flag"), report)
if act == "die1":
    time.sleep(0.1)
    linked.fail(RuntimeError("a broken pipe below"), report)  # as a collective does
if act != "finish":
    time.sleep(120)
if index == 2:
    time.sleep(1.0)
    mark.touch()
linked.finish()
print("the last one was done:", mark.exists(), file=sys.stderr)
"""


@pytest.fixture
def run(address, tmp_path):
    """Exit status and standard error of three processes that `act`."""

    def start(act):
        command = [sys.executable, "-c", PROGRAM]
        started = [
            subprocess.Popen(
                [*command, str(i), address, act, str(tmp_path / "mark")],
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(3)
        ]
        results = {}
        for i in (0, 1, 2):
            if act == "hang" and i == 2:
                started[2].kill()
            errors = started[i].communicate(timeout=240)[1]
            results[i] = (started[i].returncode, errors)
        return results

    return start


@pytest.mark.parametrize(("act", "lost"), [("die1", 1), ("die0", 0), ("hang", 2)])
def test_a_process_that_is_lost_is_named_on_the_others(run, act, lost):
    what = "has been silent for 6 s" if act == "hang" else "died: its connection closed"
    for index, (status, errors) in run(act).items():
        if index != lost:
            assert status == 1, errors
            assert errors.startswith(f"detox-jax: error: process {lost} of 3 (")
            assert errors.count("\n") == 1 and what in errors


def test_one_that_fails_ends_the_others_with_its_status_and_why(run):
    results = run("fail")
    assert results[1] == (2, "own: no such file\n")
    for index in (0, 2):
        status, errors = results[index]
        assert status == 2
        assert errors.startswith("detox-jax: error: process 1 of 3 (")
        assert errors.endswith(") failed: no such file\n")


def test_of_a_mistake_that_all_make_each_prints_its_own_line_alone(run):
    assert set(run("all_fail").values()) == {(2, "own: a bad flag\n")}


def test_nobody_leaves_before_all_are_done(run):
    assert set(run("finish").values()) == {(0, "the last one was done: True\n")}
