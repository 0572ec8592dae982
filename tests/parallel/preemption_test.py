"""SIGTERM and SIGINT against real processes: what is saved, with which status, and what goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from etils import epath

from detox_jax import cli, storage_watch
from detox_jax.checkpoints import steps as saved
from detox_jax.parallel import preemption
from tests.conftest import write_tiny_run
from tests.parallel import multihost_test as multihost

PROGRAM = """
import os, signal, sys, time
from detox_jax import cli
from detox_jax.parallel import preemption

def verb(act):
    if act == "in a destructor":
        class Loses:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGTERM)
                for _ in range(1000):
                    pass
        Loses()
        print("lost", file=sys.stderr, flush=True)
        time.sleep(60)
    with preemption.put_off():
        for step in range(100):
            names = {3: {"SIGTERM": ["SIGTERM"], "SIGINT": ["SIGINT"],
                         "twice": ["SIGTERM", "SIGINT"]}.get(act, []),
                     99: ["SIGTERM"] if act == "last" else []}
            for name in names.get(step, []):
                os.kill(os.getpid(), getattr(signal, name))
            if act != "last" and preemption.reached():
                raise preemption.Stopped(f"step {step}")

def _main(argv):
    try:
        verb(argv[0])
    except KeyboardInterrupt as error:
        status = cli._report(error)
        os.kill(os.getpid(), signal.SIGTERM)  # During the last words.
        return status
    return 0

cli._main = _main
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("act", "status", "errors"),
    [
        ("SIGTERM", 75, "stopped: step 3"),
        ("SIGINT", 130, "stopped: step 3"),
        ("twice", 75, "stopped: step 3"),
        ("in a destructor", 75, "stopped: SIGTERM: what was finished is kept"),
        ("last", 75, "stopped: SIGTERM: what was finished is kept"),
    ],
)
def test_a_signal_ends_a_step_and_not_its_middle(act, status, errors):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, act], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == status, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == f"detox-jax: {errors}; rerun the same command to go on"


def test_a_signal_behind_the_last_line_of_a_verb_ends_it_in_a_line(monkeypatch, capsys):
    leave = storage_watch.StorageWatch.__exit__

    def signalled(self, *error):
        leave(self, *error)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(storage_watch.StorageWatch, "__exit__", signalled)
    assert cli.main(["--version"]) == preemption.AGAIN
    assert "detox-jax: stopped: SIGTERM" in capsys.readouterr().err


# Python 3.11 makes a RuntimeError of what `__set_name__` raises, gin another error of that, and
# modules that fail are told with the line that a user wrote.
AS_A_CLASS_IS_MADE = """
import os, signal

class Field:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), signal.{number})
        for _ in range(1000):
            pass

class Record:
    field = Field()
"""


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_that_comes_out_of_a_library_as_another_error_is_a_line(
    tmp_path, number, status, monkeypatch, capsys
):
    (tmp_path / f"made_on_{number}.py").write_text(AS_A_CLASS_IS_MADE.format(number=number))
    (tmp_path / "mine.gin").write_text(f"import made_on_{number}\n")
    monkeypatch.syspath_prepend(tmp_path)
    flags = (f"--gin_file={tmp_path / 'mine.gin'}", "--gin.INPUT=x", "--gin.OUTPUT_DIR=y")
    assert cli.main(["train_vocabulary", *flags]) == status
    said = f"detox-jax: stopped: {number}: what was finished is kept; rerun the same command to go"
    assert said in capsys.readouterr().err


def test_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with preemption.handled():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


# --- the verbs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory, vocabulary):
    root = tmp_path_factory.mktemp("preemption")
    write_tiny_run(root, vocabulary, num_documents=60)
    return root


def flags(data, model_dir, steps=150):
    every = {"EVAL_PERIOD=3": "EVAL_PERIOD=0", "CHECKPOINT_PERIOD=3": "CHECKPOINT_PERIOD=0"}
    listed = multihost.train_flags(data, model_dir, steps)
    for old, new in every.items():
        listed = [flag.replace(old, new) for flag in listed]
    return [flag for flag in listed if "VALIDATION" not in flag]


def logged(model_dir) -> str:
    file = Path(model_dir) / "metrics.jsonl"
    return file.read_text() if file.exists() else ""


def wait_for(condition, processes):
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), multihost.outcome(processes[0])
        time.sleep(0.02)


def start_alone(*arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "detox_jax", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=multihost.ROOT,
        env=environment,
    )


def hashes(model_dir, step):
    """Of every array of a step, and of its position in the data."""
    record = saved.read_record(epath.Path(model_dir), step)
    assert record is not None
    return record["digests"]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """A run of 150 steps in one process."""
    model = tmp_path_factory.mktemp("undisturbed") / "model"
    status, _, errors = multihost.outcome(start_alone(*flags(data, model)))
    assert status == 0, errors
    return model


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_training_saves_its_step_and_goes_on_bit_by_bit(
    data, undisturbed, tmp_path, number, status
):
    model = tmp_path / "model"
    process = start_alone(*flags(data, model))
    wait_for(lambda: '"step": 30,' in logged(model), [process])
    process.send_signal(number)
    process.send_signal(number)  # An impatient scheduler changes nothing.
    code, _, errors = multihost.outcome(process)
    assert code == status, errors
    (line,) = re.findall("detox-jax: .*", errors)
    step = int(re.search(r"model: step (\d+) is saved; rerun the same command", line)[1])
    assert 30 <= step < 150
    assert [path.name for path in (model / "checkpoints").iterdir()] == [str(step)]
    code, _, errors = multihost.outcome(start_alone(*flags(data, model)))
    assert code == 0, errors
    assert logged(model) == logged(undisturbed)
    assert hashes(model, 150) == hashes(undisturbed, 150)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_signal_to_one_of_two_makes_both_save_one_step(data, tmp_path, victim):
    model = tmp_path / "model"
    started = multihost.start(2, *flags(data, model, 600))
    try:
        wait_for(lambda: '"step": 20,' in logged(model), started)
        started[victim].send_signal(signal.SIGTERM)
        outcomes = [multihost.outcome(process) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [status for status, _, _ in outcomes] == [75, 75], outcomes
    lines = [re.findall("detox-jax: stopped: .*", errors) for _, _, errors in outcomes]
    (step,) = {re.search(r"step (\d+) is saved", own[0])[1] for own in lines}
    assert [path.name for path in (model / "checkpoints").iterdir()] == [step]
    assert json.loads(logged(model).splitlines()[-1])["step"] <= int(step) < 600


@pytest.mark.slow
def test_elsewhere_a_signal_to_one_of_two_ends_both(data, tmp_path, model_dir):
    output = tmp_path / "generated"
    with (tmp_path / "prompts.jsonl").open("w") as file:
        for i in range(4000):
            file.write(json.dumps({"id": str(i), "prompt": {"text": "The bus"}}) + "\n")
    arguments = [
        "generate",
        f"--gin.CHECKPOINT_PATH={model_dir}",
        f"--gin.INPUT={tmp_path / 'prompts.jsonl'}",
        "--gin.NUM_SAMPLES=2",
        "--gin.MAX_NEW_TOKENS=4",
        "--gin.generate.shard_size=8",
        f"--gin.OUTPUT_DIR={output}",
    ]
    started = multihost.start(2, *arguments)
    try:
        wait_for(lambda: len(list(output.glob("*.jsonl"))) > 2, started)
        started[1].send_signal(signal.SIGTERM)
        outcomes = [multihost.outcome(process) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [status for status, _, _ in outcomes] == [75, 75], outcomes
    assert "detox-jax: stopped: SIGTERM" in outcomes[1][2]
    assert "process 1 of 2" in outcomes[0][2] and "Traceback" not in outcomes[0][2]
    assert not json.loads((output / "manifest.json").read_text())["complete"]
    shutil.rmtree(output)


FULL_DISK = """
import resource, signal, sys
import jax
from detox_jax import cli
from detox_jax.training import loop

original = loop._save

def save(saves, step, *rest):
    is_last = jax.process_index() == jax.process_count() - 1
    if step == 4 and is_last:  # A file may not grow: what a full disk or a quota is to a process.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    original(saves, step, *rest)

loop._save = save
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_full_disk_in_a_save_is_one_line_and_the_run_goes_on_when_there_is_room(data, tmp_path):
    model = tmp_path / "model"
    arguments = [*flags(data, model, 6), "--gin.CHECKPOINT_PERIOD=2"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-c", FULL_DISK, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=multihost.ROOT, env=environment
    )
    (line,) = re.findall("detox-jax: error: .*", done.stderr)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"{model}/checkpoints/4: cannot be written: " in line and "make room" in line
    status, _, errors = multihost.outcome(start_alone(*arguments))
    assert status == 0, errors
    assert sorted(path.name for path in (model / "checkpoints").iterdir()) == ["4", "6"]


@pytest.mark.slow
def test_a_full_disk_of_one_of_two_ends_both_in_a_line(data, tmp_path):
    """Orbax would have the other wait for its share of the step, behind the training of both."""
    arguments = [*flags(data, tmp_path / "model", 2000), "--gin.CHECKPOINT_PERIOD=2"]
    arguments += ["--gin.MESH_SHAPE={'fsdp': 2}"]
    outcomes = multihost.run(2, *arguments, program=("-c", FULL_DISK))
    assert [status for status, _, _ in outcomes] == [1, 1], outcomes
    other, full = multihost.errors_of(outcomes)
    assert "checkpoints/4: cannot be written: " in full and "process 1 of 2" in other
    assert saved.saved_steps(epath.Path(tmp_path / "model")) == [2]


# Says that it works, and then is stopped.
CALLED = """
import sys, time
from detox_jax.parallel import preemption
preemption.end_with_parent()
try:
    with preemption.handled():
        print("at work", flush=True)
        time.sleep(600)
except preemption.Stopped as stopped:
    print("saved its step", flush=True)
    sys.exit(stopped.status)
"""
CALLS = """
import os, sys
from detox_jax.parallel import preemption
try:
    with preemption.handled():
        preemption.call([sys.executable, "-c", sys.argv[1]], sys.stdout, os.environ)
except preemption.Stopped as stopped:
    sys.exit(stopped.status)
"""


@pytest.mark.parametrize(
    ("number", "said", "status"),
    [
        (signal.SIGTERM, "saved its step\n", preemption.AGAIN),
        (signal.SIGINT, "saved its step\n", preemption.INTERRUPTED),
        (signal.SIGKILL, "", -signal.SIGKILL),
    ],
)
def test_a_process_ends_with_the_one_that_has_it_and_saves_its_step_where_it_may(
    number, said, status
):
    process = subprocess.Popen(
        [sys.executable, "-c", CALLS, CALLED], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    process.send_signal(number)
    # What is printed ends with the last process that prints there.
    assert process.communicate(timeout=240)[0] == said
    assert process.returncode == status
