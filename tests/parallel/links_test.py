"""The links between processes: who does not come, who dies, hangs or fails, is named in time."""

import subprocess
import sys
import time
from concurrent import futures
from socket import create_connection, create_server

import pytest

from detox_jax.errors import UserError
from detox_jax.parallel import links
from detox_jax.parallel.processes import PeerError

SOON = links.Patience(start=2.0, beat=0.2, silence=5.0)


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


def test_all_come_and_know_each_other_whoever_else_calls(address):
    patience = links.Patience(start=20.0)
    with futures.ThreadPoolExecutor(1) as pool:
        opened = pool.submit(call, address, [(0, 3), (2, 3)], patience)
        deadline = time.monotonic() + 10
        while True:
            try:
                stranger = create_connection(tuple(address.split(":")), timeout=1)
                break
            except OSError:
                assert time.monotonic() < deadline
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        (third,) = call(address, [(1, 3)], patience)
        stranger.close()
        everyone = [*opened.result(), third]
    assert all(isinstance(each, links.Links) for each in everyone), everyone
    assert len({each.hosts for each in everyone}) == 1 and len(third.hosts) == 3


def test_processes_that_stay_away_are_named_on_those_that_came(address):
    came = call(address, [(0, 4), (2, 4)])
    assert all(isinstance(error, PeerError) for error in came)
    for error in came:
        assert f"process 1, 3 of 4 did not come to {address} within 2 s" in str(error)


def test_a_coordinator_that_does_not_answer_is_named(address):
    (error,) = call(address, [(1, 2)])
    assert isinstance(error, UserError)
    assert f"--coordinator_address={address}: does not answer within 2 s" in str(error)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([(0, 3), (1, 2), (2, 3)], "process 1 .* was started for 2 processes, process 0 .* for 3"),
        ([(0, 3), (1, 3), (1, 3)], "two processes have --process_index=1"),
    ],
)
def test_processes_that_do_not_fit_are_named_on_all(address, members, message):
    errors = call(address, members, links.Patience(start=4.0, beat=0.2))
    assert all(isinstance(error, UserError) for error in errors), errors
    with pytest.raises(UserError, match=message):
        raise errors[0]


def test_a_port_that_is_taken_and_an_address_that_is_none():
    with create_server(("", 0)) as server:
        with pytest.raises(UserError, match="cannot open port"):
            links.open_links(f"127.0.0.1:{server.getsockname()[1]}", 0, 2, SOON)
    with pytest.raises(UserError, match="expected HOST:PORT"):
        links.open_links("somewhere", 1, 2, SOON)


PROGRAM = """
import os, signal, sys, time
from detox_jax.errors import UserError
from detox_jax.parallel import links
links._LINGER_S = links._GRACE_S = 0.5
index, address, act = int(sys.argv[1]), sys.argv[2], sys.argv[3]
linked = links.open_links(address, index, 3, links.Patience(start=20.0, beat=0.2, silence=2.0))
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
    time.sleep(30)
if index == 2:
    time.sleep(1.0)
linked.finish()
print("done at", time.time())
"""


def run(address, act):
    """Exit status and standard error of three processes."""
    command = [sys.executable, "-c", PROGRAM]
    started = [
        subprocess.Popen([*command, str(i), address, act], stderr=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    results = {}
    for i in (0, 1, 2):
        if act == "hang" and i == 2:
            started[2].kill()
        errors = started[i].communicate(timeout=60)[1]
        results[i] = (started[i].returncode, errors)
    return results


@pytest.mark.parametrize(("act", "lost"), [("die1", 1), ("die0", 0), ("hang", 2)])
def test_a_process_that_is_lost_is_named_on_the_others(address, act, lost):
    what = "has been silent for 2 s" if act == "hang" else "died: its connection closed"
    for index, (status, errors) in run(address, act).items():
        if index != lost:
            assert status == 1, errors
            assert errors.startswith(f"detox-jax: error: process {lost} of 3 (")
            assert errors.count("\n") == 1 and what in errors


def test_one_that_fails_ends_the_others_with_its_status_and_why(address):
    results = run(address, "fail")
    assert results[1] == (2, "own: no such file\n")
    for index in (0, 2):
        status, errors = results[index]
        assert status == 2
        assert errors.startswith("detox-jax: error: process 1 of 3 (")
        assert errors.endswith(") failed: no such file\n")


def test_of_a_mistake_that_all_make_each_prints_its_own_line_alone(address):
    assert set(run(address, "all_fail").values()) == {(2, "own: a bad flag\n")}


def test_nobody_leaves_before_all_are_done(address):
    assert set(run(address, "finish").values()) == {(0, "")}
