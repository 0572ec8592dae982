"""A full disk, a directory that goes, a clock that jumps: one line, and the right bytes after."""

import random
import resource
import shutil
import time

import pytest

from tests.chaos import trees
from tests.chaos.counts import wanted
from tests.chaos.tiny_verbs import LOCKING as VERBS
from tests.chaos.tiny_verbs import before

pytestmark = pytest.mark.chaos

TIMES = wanted("CHAOS_STORAGE", 10)


def _flags(verbs, verb, output):
    if verb == "train":
        return [*verbs.train_flags, "--gin.TRAIN_STEPS=6", f"--gin.MODEL_DIR={output}"]
    return verbs.flags(verb, output)


def _left(forks, verb, output):
    return {**trees.files_of(output), **(trees.arrays_of(forks, output) if verb == "train" else {})}


class _Undisturbed:
    def __init__(self, forks, verbs, verb, output):
        ended = forks.run(_flags(verbs, verb, output), before=before, watched=output)
        assert ended.status == 0, ended.errors
        self.operations = ended.operations
        self.left = _left(forks, verb, output)
        self.largest = max(path.stat().st_size for path in output.rglob("*") if path.is_file())


def _rerun(forks, verbs, verb, output, undisturbed):
    """What is wrong after one more run."""
    ended = forks.run(_flags(verbs, verb, output), before=before)
    troubles = [f"rerun: exit {ended.status}: {ended.errors}"] if ended.status else []
    return troubles + trees.differences(_left(forks, verb, output), undisturbed.left)


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk(forks, verbs, counts, tmp_path, verb):
    name = "disk full"
    counts.begin(name, 10 * len(VERBS), "runs")
    counts.begin_case(name, verb, TIMES)
    undisturbed = _Undisturbed(forks, verbs, verb, tmp_path / "undisturbed")
    chance = random.Random(verb)
    wrong, tried = [], 0
    while tried < TIMES:
        output = tmp_path / str(len(list(tmp_path.iterdir())))
        flags = _flags(verbs, verb, output)
        if tried % 3 < 2:
            at = chance.randrange(1, undisturbed.operations + 1)
            ended = forks.run(flags, before=before, watched=output, full_at=at)
        else:
            # TensorFlow's temporary sources, which the limit is for too, are smaller than that.
            least = 1 << 15 if verb == "train" else 1
            largest = chance.randrange(least, undisturbed.largest)

            def limited(largest=largest):
                before()
                _without_cache()
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

            ended = forks.run(flags, before=limited)
        troubles = []
        if ended.status not in (0, 1) or "Traceback" in ended.errors:
            troubles.append(f"exit {ended.status}: {ended.errors}")
        if ended.status == 0:  # What was not written was not needed.
            left = trees.differences(_left(forks, verb, output), undisturbed.left)
            troubles += [f"exit 0 with another {what}" for what in left]
        troubles += _rerun(forks, verbs, verb, output, undisturbed)
        counts.add(name, 1, not troubles, verb)
        tried += 1
        wrong += [f"{tried}: {trouble}" for trouble in troubles]
    assert not wrong


def _without_cache():
    """JAX's cache is not on the full disk."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)


@pytest.mark.parametrize("verb", VERBS)
def test_a_directory_that_is_deleted(forks, verbs, counts, tmp_path, verb):
    name = "output directory deleted while it is written"
    counts.begin(name, 10 * len(VERBS), "runs")
    counts.begin_case(name, verb, TIMES)
    undisturbed = _Undisturbed(forks, verbs, verb, tmp_path / "undisturbed")
    child = _writing(forks, verbs, verb, tmp_path / "timed")
    start = time.monotonic()
    assert child.wait().status == 0
    seconds = time.monotonic() - start
    chance = random.Random(verb)
    wrong, tried = [], 0
    while tried < TIMES:
        output = tmp_path / str(len(list(tmp_path.iterdir())))
        child = _writing(forks, verbs, verb, output)
        time.sleep(chance.random() * seconds)
        is_early = child.is_running()
        shutil.rmtree(output, ignore_errors=True)
        ended = child.wait()
        shutil.rmtree(output, ignore_errors=True)  # What was written after, into a new one.
        troubles = []
        if ended.status not in (0, 1, 2) or "Traceback" in ended.errors:
            troubles.append(f"exit {ended.status}: {ended.errors}")
        troubles += _rerun(forks, verbs, verb, output, undisturbed)
        counts.add(name, is_early, is_early and not troubles, verb)
        tried += is_early  # Of those that had ended before, there are others.
        wrong += [f"{output.name}: {trouble}" for trouble in troubles]
    assert not wrong


def _writing(forks, verbs, verb, output):
    """A run that has made its output."""
    child = forks.start(_flags(verbs, verb, output), before=before)
    while child.is_running() and not output.exists():
        time.sleep(0.001)
    return child


def _jumping(seed):
    """Has the clock of a child jump by up to a day, back too."""
    chance, real = random.Random(seed), time.time
    real_ns = time.time_ns

    def jump():
        return chance.choice((-86_400, -3_600, -1, 0, 1, 3_600, 86_400))

    time.time = lambda: real() + jump()
    time.time_ns = lambda: real_ns() + jump() * 10**9


@pytest.mark.parametrize("verb", VERBS)
def test_a_clock_that_jumps(forks, verbs, counts, tmp_path, verb):
    name = "clock that jumps"
    counts.begin(name, 10 * len(VERBS), "runs")
    counts.begin_case(name, verb, TIMES)
    undisturbed = _Undisturbed(forks, verbs, verb, tmp_path / "undisturbed")
    wrong = []
    for number in range(TIMES):
        output = tmp_path / str(number)

        def prepared(number=number):
            before()
            _jumping(number)

        ended = forks.run(_flags(verbs, verb, output), before=prepared)
        troubles = [f"exit {ended.status}: {ended.errors}"] if ended.status else []
        troubles += trees.differences(_left(forks, verb, output), undisturbed.left)
        counts.add(name, 1, not troubles, verb)
        wrong += [f"{number}: {trouble}" for trouble in troubles]
    assert not wrong
