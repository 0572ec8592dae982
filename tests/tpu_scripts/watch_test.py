"""watch.sh and sgeat.sh: through waiting and preemption to the end, and never a resource left."""

from __future__ import annotations

import os
import re
import shutil
import signal

import pytest
from etils import epath

from detox_jax.method.narrator import where_to_look
from tests.tpu_scripts.conftest import SCRIPTS
from tests.tpu_scripts.flags_test import RESOURCE
from tests.tpu_scripts.run_test import wait_for

ACTIVE = {"lives": [["ACTIVE"]], "workers": 1}


@pytest.fixture
def flags(cloud, free_port) -> tuple[str, ...]:
    cloud.answer_of_bucket(0)
    bucket = f"--bucket={cloud.root / 'bucket'}"
    return (*RESOURCE, bucket, f"--coordinator_port={free_port}", "--poll=0.05", "--grace=0")


def watch(cloud, flags, *more: str) -> tuple[int, str]:
    return cloud.run("watch.sh", *flags, *more, "--", "detox-jax", "train")


def test_waits_runs_and_deletes(cloud, flags):
    status, output = watch(cloud, flags, "--spot")
    assert status == 0, output
    for state in ("ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"):
        assert f"watch.sh: q is {state}\n" in output
    assert "--spot" in cloud.calls("create")[0]
    assert not cloud.exists


def test_begins_again_after_preemption(cloud, flags):
    cloud.play(preempted_lives=[1], workers=1)
    status, output = watch(cloud, flags)
    assert status == 0, output
    assert "q is SUSPENDED" in output and "done after 1 restarts" in output
    assert len(cloud.calls("create")) == len(cloud.calls("delete")) == 2
    assert not cloud.exists
    (first,) = (cloud.checkout / "runs/tpu/q").glob("*-0/run/worker-0.log")
    assert first.read_text().startswith("step 100\n")
    assert list((cloud.checkout / "runs/tpu/q").glob("*-1/run/exit_codes.txt"))


def test_gives_up_after_so_many_restarts(cloud, flags):
    cloud.play(unreachable=["0-0"], **ACTIVE)
    status, output = watch(cloud, flags, "--max_restarts=1")
    assert status == 1
    assert "worker 0 ended with 255" in output
    assert "error: gave up after 1 restarts" in output
    assert len(list((cloud.checkout / "runs/tpu/q").glob("*/setup/worker-0.log"))) == 2
    assert not cloud.exists


def test_a_mistake_of_the_users_is_not_repeated(cloud, flags):
    cloud.play(**ACTIVE)
    cloud.behave("echo detox-jax: error: misspelt; exit 2")
    status, output = watch(cloud, flags)
    assert status == 2
    assert output.count("ended with 2: detox-jax: error: misspelt") == 1
    assert not cloud.exists


def test_what_asks_to_be_run_again_is_and_is_not_counted(cloud, flags):
    cloud.play(**ACTIVE)
    cloud.behave("n=$(cat $HOME/n || echo 0); echo $((n + 1)) >$HOME/n; [ $n -ge 2 ] || exit 75")
    status, output = watch(cloud, flags, "--max_restarts=0")
    assert status == 0, output
    assert output.count("watch.sh: stopped, and asks to be run again; 0 restarts are left") == 2
    assert "done after 2 restarts" in output
    assert len(list((cloud.checkout / "runs/tpu/q").glob("*-2/run/exit_codes.txt"))) == 1
    assert not cloud.exists


def test_a_request_that_is_refused_after_a_75_is_tried_again(cloud, flags):
    scenario, refusing = cloud.cloud / "scenario.json", cloud.cloud / "refusing.json"
    cloud.play(quota_error=True, **ACTIVE)
    shutil.copy(scenario, refusing)
    cloud.play(**ACTIVE)
    cloud.behave(f"cp {refusing} {scenario}; touch {cloud.cloud / 'preempted'}; exit 75")
    status, output = watch(cloud, flags, "--max_restarts=1")
    assert status == 1
    assert "error: gave up after 1 restarts" in output
    assert output.count("RESOURCE_EXHAUSTED") == 2
    assert not cloud.exists


def test_what_preflight_knows_that_no_restart_mends_is_not_repeated(cloud, flags):
    cloud.play(**ACTIVE)
    cloud.answer_of_bucket(2, "gs://b: no such bucket")
    status, output = watch(cloud, flags)
    assert status == 2
    assert output.count("ended with 2: preflight: gs://b: no such bucket") == 1
    assert "preflight.sh: error: not ready; the logs are in runs/tpu/q/" in output
    assert not cloud.exists


def test_another_failure_of_preflight_is_tried_again(cloud, flags):
    cloud.play(**ACTIVE)
    cloud.answer_of_bucket(1, "gs://b: 503")
    status, output = watch(cloud, flags, "--max_restarts=1")
    assert status == 1
    assert output.count("ended with 1: preflight: gs://b: 503") == 2


def test_a_refused_request_is_not_repeated(cloud, flags):
    cloud.play(quota_error=True)
    status, output = watch(cloud, flags)
    assert status == 1
    assert "RESOURCE_EXHAUSTED" in output
    assert len(cloud.calls("create")) == 1


def test_a_failed_request_says_why_and_is_deleted(cloud, flags):
    cloud.play(lives=[["FAILED"]])
    status, output = watch(cloud, flags)
    assert status == 1
    assert "no more capacity in this zone" in output
    assert not cloud.exists


def test_gives_up_waiting(cloud, flags):
    cloud.play(lives=[["WAITING_FOR_RESOURCES"]])
    status, output = watch(cloud, flags, "--wait_timeout=0")
    assert status == 1
    assert "no capacity for 0 s" in output
    assert not cloud.exists


@pytest.mark.slow
def test_another_type_is_asked_for_where_there_is_no_capacity_each_time_anew(cloud, flags):
    lives = [["ACTIVE"], ["WAITING_FOR_RESOURCES"], ["ACTIVE"]]
    cloud.play(lives=lives, preempted_lives=[1], workers={"v6e-16": 2, "v6e-8": 1})
    status, output = watch(cloud, flags, "--type=v6e-16,v6e-8", "--wait_timeout=3")
    assert status == 0, output
    types = [flag for call in cloud.calls("create") for flag in call if "accelerator-type" in flag]
    assert [flag.partition("=")[2] for flag in types] == ["v6e-16", "v6e-16", "v6e-8"]
    assert len(cloud.calls("delete")) == 3
    assert not cloud.exists


def test_gives_up_waiting_where_no_type_has_capacity(cloud, flags):
    cloud.play(lives=[["WAITING_FOR_RESOURCES"]], workers={"v6e-16": 2, "v6e-8": 1})
    status, output = watch(cloud, flags, "--type=v6e-16,v6e-8", "--wait_timeout=0")
    assert status == 1
    assert output.count("no capacity for 0 s") == 2
    assert not cloud.exists


@pytest.mark.parametrize("types", [",", "v6e-16,", "v6e-16, v6e-8"])
def test_a_list_of_types_has_no_gap(cloud, flags, types):
    status, output = watch(cloud, flags, f"--type={types}")
    assert status == 2
    assert f"--type={types}: expected TYPE or TYPE,TYPE; see" in output
    assert cloud.calls() == []


def test_the_asking_is_no_waiting(cloud, flags):
    cloud.play(seconds_to_ask=1.5, **ACTIVE)
    status, output = watch(cloud, flags, "--wait_timeout=0")
    assert status == 0, output


def test_gives_up_where_google_cloud_does_not_answer(cloud, flags):
    assert cloud.run("create.sh", *RESOURCE)[0] == 0
    cloud.play(no_answer=True)
    status, output = watch(cloud, flags)
    assert status == 1
    assert "no answer 10 times" in output
    assert not cloud.exists


@pytest.mark.parametrize(
    ("moment", "signal_"),
    [
        ("waiting", signal.SIGINT),
        ("waiting", signal.SIGHUP),
        ("running", signal.SIGINT),
        ("running", signal.SIGTERM),
    ],
)
def test_a_signal_leaves_nothing_behind(cloud, flags, signal_, moment):
    states = ["WAITING_FOR_RESOURCES"] if moment == "waiting" else ["ACTIVE"]
    cloud.play(lives=[states], workers=1, refused_deletions=1)
    cloud.behave("touch $HOME/began; sleep 60")
    process = cloud.start("watch.sh", *flags, "--", "detox-jax", "train")
    began = cloud.worker("0-0") / "began"
    wait_for((lambda: cloud.exists) if moment == "waiting" else began.exists)
    os.killpg(process.pid, signal_)
    wait_for(lambda: cloud.calls("delete"))
    os.killpg(process.pid, signal_)  # an impatient user must not stop the deletion
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal_, output
    assert not cloud.exists
    assert "q is gone" in output


def test_no_signal_relies_on_the_trap_of_exit():
    """Which bash 5.2 now and then does not run after an `exit` in the trap of a signal."""
    for script in SCRIPTS.glob("**/*.sh"):
        traps = re.findall(r"^trap (.*)$", script.read_text(), re.MULTILINE)
        if any(trap.endswith(" EXIT") for trap in traps):
            assert not [trap for trap in traps if re.match(r"'exit \d+'", trap)], script


def test_keep_leaves_it_and_says_how_to_delete_it(cloud, flags):
    cloud.play(lives=[["PROVISIONING"]])
    _, output = watch(cloud, flags, "--keep", "--wait_timeout=0")
    assert cloud.exists
    assert "kept, at its price: q" in output and "delete.sh --name=q --zone=z" in output


def test_a_deletion_that_fails_is_an_error(cloud, flags):
    cloud.play(refused_deletions=99, lives=[["PROVISIONING"]])
    status, output = watch(cloud, flags, "--wait_timeout=0")
    assert status == 1
    assert "NOT DELETED" in output


def test_sgeat_runs_the_method_and_brings_the_results(cloud, flags):
    cloud.play(**ACTIVE)
    (cloud.checkout / "pod.gin").write_text("")
    status, output = cloud.run("sgeat.sh", *flags, "--gin_file=pod.gin", "--", "--gin.BATCH_SIZE=8")
    assert status == 0, output
    bucket = cloud.root / "bucket"
    assert (cloud.worker("0-0") / "verbs").read_text() == (
        f"sgeat --gin_file=pod.gin --gin.BATCH_SIZE=8 --gin.OUTPUT_DIR={bucket}/q\n"
    )
    assert cloud.calls("cp") == [
        ["storage", "cp", f"{bucket}/q/report.html", f"{bucket}/q/results.json", "runs/q/"]
    ]
    assert not cloud.exists


def test_sgeat_brings_the_results_of_some_rows_from_where_they_are(cloud, flags):
    cloud.play(**ACTIVE)
    (cloud.checkout / "pod.gin").write_text("")
    root = epath.Path(cloud.root / "bucket" / "q")
    place = root / "only-0123abcd"
    of_before = cloud.checkout / "runs/tpu/q/before-0/run/worker-0.log"
    of_before.parent.mkdir(parents=True)
    of_before.write_text(where_to_look(root, root) + "\n")
    os.utime(of_before, (1, 1))
    cloud.behave(f"cat <<END\n{where_to_look(root, place)}\nEND\n")
    only = "--gin.ONLY=['standard']"
    status, output = cloud.run("sgeat.sh", *flags, "--gin_file=pod.gin", "--", only)
    assert status == 0, output
    assert cloud.calls("cp") == [
        ["storage", "cp", f"{place}/report.html", f"{place}/results.json", "runs/q/"]
    ]


def test_sgeat_finds_its_results_among_the_logs_of_another_run(cloud, flags):
    cloud.play(**ACTIVE)
    (cloud.checkout / "pod.gin").write_text("")
    root = epath.Path(cloud.root / "bucket" / "q")
    place, other = root / "only-0123abcd", root.parent / "q2"
    of_other = cloud.checkout / "logs/other-0/run/worker-0.log"
    of_other.parent.mkdir(parents=True)
    of_other.write_text(where_to_look(other, other) + "\n")
    os.utime(of_other, (2**32, 2**32))  # newer than all
    cloud.behave(f"cat <<END\n{where_to_look(root, place)}\nEND\n")
    own = ("--gin_file", "pod.gin", "--log_dir", "logs", "--output", "here")
    status, output = cloud.run("sgeat.sh", *flags, *own, "--", "--gin.ONLY=['standard']")
    assert status == 0, output
    assert cloud.calls("cp") == [
        ["storage", "cp", f"{place}/report.html", f"{place}/results.json", "here/"]
    ]


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_sgeat_leaves_nothing_behind(cloud, flags, signal_):
    cloud.play(lives=[["PROVISIONING"]])
    (cloud.checkout / "pod.gin").write_text("")
    process = cloud.start("sgeat.sh", *flags, "--gin_file=pod.gin")
    wait_for(lambda: cloud.exists)
    process.send_signal(signal_)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal_, output
    assert not cloud.exists


def test_sgeat_needs_a_gin_file_of_the_checkout(cloud, flags):
    status, output = cloud.run("sgeat.sh", *flags, "--gin_file=no.gin")
    assert status == 2
    assert "--gin_file=no.gin is no file of this checkout" in output
