"""The links between processes: who does not come, who dies, hangs or fails, is named in time."""

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
    indices, receive = queue.Queue(), links._receive

    def note(connection):
        message = receive(connection)
        if message and "count" in message:
            indices.put(message["index"])
        return message

    monkeypatch.setattr(links, "_receive", note)
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


def test_processes_that_stay_away_are_named_on_those_that_came(address):
    came = call(address, [(0, 4), (2, 4)], links.Patience(start=5.0, beat=0.2))
    assert all(isinstance(error, PeerError) for error in came)
    for error in came:
        assert f"process 1, 3 of 4 did not come to {address} within 5 s" in str(error)


def test_a_coordinator_that_does_not_answer_is_named(address):
    (error,) = call(address, [(1, 2)])
    assert isinstance(error, UserError)
    assert f"--coordinator_address={address}: does not answer within 2 s" in str(error)


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
