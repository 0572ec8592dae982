"""SIGTERM and SIGINT at random moments: 75 or 130, one line, and the rerun ends as undisturbed."""

import collections
import random
import re
import signal
import time
from pathlib import Path

import pytest

from tests.chaos import trees
from tests.chaos.counts import wanted
from tests.chaos.tiny_verbs import before

pytestmark = pytest.mark.chaos

SIGNALS = wanted("CHAOS_SIGNALS", 20)
STATUS = {signal.SIGTERM: 75, signal.SIGINT: 130}
STEPS = 30


def _train(verbs, output):
    flags = [flag for flag in verbs.train_flags if "CHECKPOINT_PERIOD" not in flag]
    return [*flags, f"--gin.TRAIN_STEPS={STEPS}", f"--gin.MODEL_DIR={output}"]


def _flags(verbs, verb, output):
    return _train(verbs, output) if verb == "train" else verbs.flags(verb, output)


def _left(forks, verb, output):
    files = trees.files_of(output)
    if verb != "train":
        return files
    last = f"checkpoints/{STEPS}"  # Steps before it are those at which a signal came.
    arrays = {name: it for name, it in trees.arrays_of(forks, output).items() if last in name}
    return {**files, **arrays}


def _listening(child):
    """The time from which on the verb has its handler: SIGTERM ends Python itself."""
    while child.is_running():
        status = Path(f"/proc/{child.pid}/status").read_text()
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
        if caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            break
        time.sleep(0.001)
    return time.monotonic()


@pytest.mark.parametrize("verb", ["train", "generate", "score"])
def test_a_signal_at_a_random_moment_is_obeyed(forks, verbs, counts, tmp_path, verb):
    name = f"{verb}: SIGTERM, SIGINT"
    counts.begin(name, 20, "signals")
    output = tmp_path / "undisturbed"
    assert forks.run(_flags(verbs, verb, output), before=before).status == 0
    child = forks.start(_flags(verbs, verb, tmp_path / "again"), before=before)
    start = _listening(child)
    assert child.wait().status == 0
    seconds = time.monotonic() - start
    expected = _left(forks, verb, output)
    chance = random.Random(verb)
    done, run, wrong = collections.Counter(), 0, []
    while done.total() < SIGNALS:
        said = f"{run} runs, each of {seconds} s, of which signals ended but {done}"
        assert run < 20 * SIGNALS, "\n".join([said, *wrong])
        output = tmp_path / str(run)
        flags = _flags(verbs, verb, output)
        number = min(STATUS, key=lambda number: done[number])  # One that is ignored never counts.
        child = forks.start(flags, before=before)
        _listening(child)
        time.sleep(chance.random() * seconds)
        sent = child.is_running()
        if sent:
            child.signal(number)
        ended = child.wait()
        differing = []
        # A signal may come when all is done.
        if ended.status not in (0, STATUS[number]) or "Traceback" in ended.errors:
            differing.append(f"{number.name}: exit {ended.status}: {ended.errors}")
        stopped = ended.status != 0
        if not stopped:
            left = trees.differences(_left(forks, verb, output), expected)
            differing += [f"{number.name}: exit 0 with another {what}" for what in left]
        ended = forks.run(flags, before=before)
        differing += [f"exit {ended.status}: {ended.errors}"] if ended.status else []
        differing += trees.differences(_left(forks, verb, output), expected)
        if stopped:
            counts.add(name, 1, 0 if differing else 1)
        wrong += [f"run {run}: {what}" for what in differing]
        done[number] += stopped
        run += 1
    assert not wrong, "\n".join(wrong)
