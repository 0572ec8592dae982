"""setup.sh, preflight.sh and run.sh on the stand-in's workers."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.tpu_scripts.flags_test import PLACE


@pytest.fixture
def active(cloud):
    """An ACTIVE resource of one slice with two workers, set up."""
    cloud.prepare()
    return cloud


def run(cloud, *flags: str, command=("detox-jax", "train")) -> tuple[int, str]:
    return cloud.run("run.sh", *PLACE, "--log_dir=logs", *flags, "--", *command)


def log(cloud, worker: int, directory: str = "logs") -> str:
    return (cloud.checkout / directory / f"worker-{worker}.log").read_text()


def exit_codes(cloud) -> str:
    return (cloud.checkout / "logs" / "exit_codes.txt").read_text()


# --- setup


def test_setup_brings_the_checkout_and_compares_versions(cloud):
    (cloud.checkout / "new.gin").write_text("X = 1\n")
    cloud.prepare()
    status, output = cloud.run("setup.sh", *PLACE)
    assert status == 0, output
    assert "2 workers are alike" in output
    for place in ("0-0", "0-1"):
        assert (cloud.worker(place) / "detox_jax" / "new.gin").read_text() == "X = 1\n"
    assert "versions: code=" in log(cloud, 1, "runs/tpu/q/setup")


def test_setup_names_the_worker_that_differs(active):
    (active.cloud / "freeze-1").write_text("jax==0.4.0\n")
    status, output = active.run("setup.sh", *PLACE)
    assert status == 1
    assert "error: worker 1 differs from worker 0" in output


def test_setup_needs_every_worker(cloud):
    cloud.prepare(unreachable=["0-1"])
    status, output = cloud.run("setup.sh", *PLACE)
    assert status == 1
    assert "worker 1 ended with 255: ssh: connect to host 127.0.0.1 port 22" in output


# --- preflight


def preflight(cloud, port: int, *flags: str) -> tuple[int, str]:
    bucket = cloud.root / "bucket"
    return cloud.run(
        "preflight.sh", *PLACE, f"--bucket={bucket}", f"--coordinator_port={port}", *flags
    )


def test_preflight_meets_writes_and_sees_memory(active, free_port):
    status, output = preflight(active, free_port, "--num_workers=2")
    assert status == 0, output
    assert "devices: 2 of 4 TPU v6 lite, 32.00 GiB each" in output
    assert output.endswith("preflight.sh: 2 workers are ready\n")
    assert "can be written and read, and a checkpoint restored from it" in output
    assert list((active.root / "bucket").iterdir()) == []


def test_preflight_counts_workers(active, free_port):
    status, output = preflight(active, free_port, "--num_workers=4")
    assert status == 1
    assert output == "preflight.sh: error: q has 2 workers, not 4\n"


def test_preflight_says_which_port_to_open_or_that_it_is_taken(active):
    with socket.socket() as holder:  # holds a port, and does not answer there
        holder.bind(("", 0))
        port = holder.getsockname()[1]
        status, output = preflight(active, port, "--timeout=0")
    assert status == 1
    assert f"port {port} of worker 0 cannot be listened on" in output
    assert f"open tcp:{port} between the workers, or choose an open one with" in output


def test_preflight_says_that_a_worker_does_not_come(active, free_port):
    environment = active.environment | {"WORKER_INDEX": "0", "NUM_WORKERS": "2"}
    for seconds in ("0", "0.1"):
        script = active.checkout / "tpu_scripts" / "worker" / "preflight.py"
        command = [sys.executable, script, "--bucket=b", f"--port={free_port}"]
        result = subprocess.run(
            [*command, f"--timeout={seconds}"],
            env=environment | {"COORDINATOR_IP": "127.0.0.1"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 1
        assert (
            f"port {free_port}: 1 of 2 workers came within {seconds} s; open tcp:" in result.stderr
        )


@pytest.mark.slow
def test_preflight_says_that_the_bucket_refuses(active, free_port):
    (active.root / "bucket").write_text("a file, not a directory")
    status, output = preflight(active, free_port)
    assert status == 1
    assert f"ended with 1: preflight: {active.root / 'bucket'}: " in output
    assert "Not a directory" in output or "File exists" in output


# --- run


def test_the_same_command_on_all_workers_of_all_slices(cloud):
    cloud.prepare(nodes=2)
    cloud.behave(
        'echo "$WORKER_INDEX of $NUM_WORKERS on $JAX_COORDINATOR_PORT $DETOX_JAX_MULTIHOST in $PWD"'
    )
    words = ("detox-jax", "train", "--gin.X={'a b': \"c;d\"}")
    status, output = run(cloud, command=words)
    assert status == 0, output
    assert log(cloud, 3) == f"3 of 4 on 8476 1 in {cloud.worker('1-1')}/detox_jax\n"
    verbs = (cloud.worker("1-1") / "verbs").read_text()
    assert verbs == "train --gin.X={'a b': \"c;d\"}\n"
    assert exit_codes(cloud) == "".join(f"worker-{i} 0\n" for i in range(4))


def test_a_run_has_a_word_of_its_own(active):
    active.behave('echo "word=$DETOX_JAX_RUN"')
    words = []
    for directory in ("one", "other"):
        assert run(active, f"--log_dir={directory}")[0] == 0
        of_workers = {re.search(r"word=(\S+)", log(active, i, directory))[1] for i in (0, 1)}
        assert len(of_workers) == 1
        words += of_workers
    assert words[0] != words[1]


def test_exit_codes_of_all_workers(active):
    active.behave('echo "worker $WORKER_INDEX says why"; exit $((WORKER_INDEX * 7))')
    status, output = run(active)
    assert status == 1
    assert "worker 1 ended with 7: worker 1 says why" in output
    assert exit_codes(active) == "worker-0 0\nworker-1 7\n"


@pytest.mark.parametrize(
    ("codes", "status"),
    [
        ((2, 2), 2),
        ((0, 2), 2),
        ((3, 0), 2),
        ((75, 75), 75),
        ((0, 75), 75),
        ((1, 2), 1),
        ((137, 2), 1),
        ((75, 2), 1),
        ((3, 75), 1),
        ((2, 75), 1),
        ((75, 1), 1),
    ],
)
def test_only_what_all_that_failed_say_is_passed_on(active, codes, status):
    """A process that crashes may leave the others a coordinator that does not answer."""
    active.behave(f"[ $WORKER_INDEX = 1 ] && exit {codes[1]}; exit {codes[0]}")
    assert run(active)[0] == status
    assert exit_codes(active) == "".join(f"worker-{i} {code}\n" for i, code in enumerate(codes))


@pytest.mark.parametrize("code", [2, 75])
def test_one_that_was_ended_for_another_s_failure_says_nothing(active, code):
    active.behave(f"[ $WORKER_INDEX = 0 ] && exit {code}; sleep 60")
    assert run(active, "--grace=0")[0] == code
    assert exit_codes(active) == f"worker-0 {code}\nworker-1 143\n"


def test_without_a_worker_the_error_of_the_others_is_no_mistake(active):
    active.behave("exit $((2 + WORKER_INDEX * 253))")
    assert run(active)[0] == 1
    assert exit_codes(active) == "worker-0 2\nworker-1 255\n"


def test_an_unreachable_worker_does_not_leave_the_others_waiting(active):
    active.play(lives=[["ACTIVE"]], unreachable=["0-1"])
    active.behave("sleep 60")
    status, output = run(active, "--grace=0")
    assert status == 1
    assert exit_codes(active) == "worker-0 143\nworker-1 255\n"  # Ended, not slept to the end.
    assert "closing the other 1 connections" in output


def test_what_an_earlier_run_left_is_ended(active):
    active.behave('trap "echo ended >>$HOME/ended; exit" TERM; touch $HOME/began; sleep 60 & wait')
    first = active.start("run.sh", *PLACE, "--log_dir=first", "--", "detox-jax", "train")
    began = [active.worker(place) / "began" for place in ("0-0", "0-1")]
    wait_for(lambda: all(path.exists() for path in began))
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=120) == 143
    assert not (active.worker("0-0") / "ended").exists()  # a closed connection ends nothing
    active.behave("echo alone")
    assert run(active)[0] == 0
    for place in ("0-0", "0-1"):
        wait_for((active.worker(place) / "ended").exists)


def test_a_command_repeated_by_gcloud_is_not_run_twice(active):
    assert run(active)[0] == 0
    (call,) = [call for call in active.calls("ssh")[-2:] if "--worker=0" in call]
    process = active.start("../../bin/gcloud", *call)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1  # The network's, which is no reason not to count it.
    assert "is not started twice" in output


def test_run_needs_workers(cloud):
    status, output = run(cloud)
    assert status == 1
    assert output.splitlines()[-1] == "run.sh: error: cannot list the workers of q; is it ACTIVE?"


def wait_for(condition) -> None:
    deadline = time.monotonic() + 120  # Of a hang; what is waited for takes moments.
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
