"""run_xpk.sh against stand-ins for xpk and kubectl, which write down what they were called with."""

from __future__ import annotations

import signal

import pytest

from tests.tpu_scripts.flags_test import CALLS
from tests.tpu_scripts.run_test import wait_for

FLAGS = CALLS["run_xpk.sh"]


@pytest.fixture
def xpk(cloud):
    """Plays xpk: `cloud.xpk("exit 3")` says what waiting for the workload does."""
    programs = cloud.root / "bin"
    calls = cloud.root / "xpk_calls"
    calls.write_text("")

    def play(waiting: str) -> None:
        lines = ["#!/bin/sh", f'echo "$*" >>{calls}', f'case "$*" in *list*) {waiting} ;; esac']
        (programs / "xpk").write_text("\n".join(lines) + "\n")
        (programs / "kubectl").write_text("#!/bin/sh\necho step 100\n")
        for program in ("xpk", "kubectl"):
            (programs / program).chmod(0o755)

    cloud.xpk, cloud.xpk_calls = play, calls
    return cloud


@pytest.mark.parametrize(("xpk_status", "status"), [(0, 0), (125, 1)])
def test_submits_waits_and_gathers(xpk, xpk_status, status):
    xpk.xpk(f"exit {xpk_status}")
    found, output = xpk.run("run_xpk.sh", "--node_count=2", *FLAGS)
    assert found == status, output
    create, wait = xpk.xpk_calls.read_text().splitlines()
    assert create == (
        "workload create --workload=w --cluster=c --zone=z --tpu-type=v6e-16 --num-slices=2 "
        "--docker-image=i --max-restarts=20 --restart-on-exit-codes=1,75 --priority=medium "
        "--command=env DETOX_JAX_MULTIHOST=1 detox-jax train"
    )
    assert "--wait-for-job-completion=w" in wait
    assert (xpk.checkout / "runs/tpu/w/workers.log").read_text() == "step 100\n"


def test_a_workload_out_of_time_is_deleted(xpk):
    xpk.xpk("exit 124")
    status, output = xpk.run("run_xpk.sh", *FLAGS)
    assert status == 1, output
    assert xpk.xpk_calls.read_text().splitlines()[-1].startswith("workload delete --workload=w")


@pytest.mark.parametrize("keep", [(), ("--keep",)], ids=str)
def test_an_interrupted_workload_is_deleted_unless_kept(xpk, keep):
    xpk.xpk("sleep 60")
    process = xpk.start("run_xpk.sh", *keep, *FLAGS)
    wait_for(lambda: "workload list" in xpk.xpk_calls.read_text())
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert ("workload delete" in xpk.xpk_calls.read_text()) == (not keep)


def test_a_wait_that_fails_is_begun_again(xpk):
    xpk.xpk(f'[ "$(grep -c list {xpk.xpk_calls})" -ge 3 ] || exit 1')
    status, output = xpk.run("run_xpk.sh", "--poll=0.05", *FLAGS)
    assert status == 0, output
    assert output.count("run_xpk.sh: xpk cannot wait for w (1); trying again\n") == 2
    assert "w succeeded" in output and "workload delete" not in output


@pytest.mark.parametrize("keep", [(), ("--keep",)], ids=str)
def test_what_cannot_be_waited_for_is_not_left_in_silence(xpk, keep):
    xpk.xpk("exit 1")
    status, output = xpk.run("run_xpk.sh", "--poll=0.05", *keep, *FLAGS)
    assert status == 1
    calls = xpk.xpk_calls.read_text()
    assert calls.count("workload list") == 10
    assert calls.splitlines()[-1].startswith("workload list" if keep else "workload delete")
    assert "xpk could not wait for w 10 times (1); it may go on" in output
    assert ("kept, at its price: w; to delete it: xpk workload delete --work" in output) == (
        keep != ()
    )


def ahead(cloud, seconds: int) -> None:
    """Whatever the script waits for takes so much longer by its clock."""
    clock = cloud.root / "clock.sh"
    clock.write_text(
        "wait() {\n"
        "  local status=0\n"
        '  builtin wait "$@" || status=$?\n'
        f"  SECONDS=$((SECONDS + {seconds}))\n"
        "  return $status\n"
        "}\n"
    )
    cloud.environment["BASH_ENV"] = str(clock)


def test_a_cluster_that_does_not_answer_for_minutes_is_not_asked_for_ever(xpk):
    xpk.xpk("exit 1")
    ahead(xpk, 300)
    status, output = xpk.run("run_xpk.sh", "--poll=0.05", *FLAGS)
    assert status == 1
    assert xpk.xpk_calls.read_text().count("workload list") == 10
    assert "xpk could not wait for w 10 times (1); it may go on" in output


def test_tries_that_waited_long_are_not_counted(xpk):
    xpk.xpk(f'[ "$(grep -c list {xpk.xpk_calls})" -ge 12 ] || exit 1')
    ahead(xpk, 700)
    status, output = xpk.run("run_xpk.sh", "--poll=0.05", *FLAGS)
    assert status == 0, output
    assert xpk.xpk_calls.read_text().count("workload list") == 12


def test_a_place_for_logs_that_cannot_be_made_does_not_end_it(xpk):
    xpk.xpk("exit 124")
    (xpk.checkout / "taken").write_text("")
    status, output = xpk.run("run_xpk.sh", "--log_dir=taken/logs", *FLAGS)
    assert status == 1
    assert "no logs gathered" in output
    assert xpk.xpk_calls.read_text().splitlines()[-1].startswith("workload delete --workload=w")


def test_a_workload_that_cannot_be_deleted_is_told(xpk):
    xpk.xpk("exit 124 ;; *delete*) exit 1")
    status, output = xpk.run("run_xpk.sh", *FLAGS)
    assert status == 1
    assert "NOT DELETED: w may go on, at its price; try xpk workload delete --workload=w" in output
