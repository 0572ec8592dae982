"""Two runs on one directory: the second is refused or finds it finished; the bytes are right."""

import random
import time

import pytest

from tests.chaos import trees
from tests.chaos.counts import wanted
from tests.chaos.tiny_verbs import LOCKING as VERBS
from tests.chaos.tiny_verbs import before

pytestmark = pytest.mark.chaos

PAIRS = wanted("CHAOS_PAIRS", 5)


def _flags(verbs, verb, output):
    if verb == "train":
        return [*verbs.train_flags, "--gin.TRAIN_STEPS=12", f"--gin.MODEL_DIR={output}"]
    return verbs.flags(verb, output)


def _left(forks, verb, output):
    return {**trees.files_of(output), **(trees.arrays_of(forks, output) if verb == "train" else {})}


@pytest.mark.parametrize("verb", VERBS)
def test_two_runs_on_one_directory(forks, verbs, counts, tmp_path, verb):
    name = "two runs on one directory"
    counts.begin(name, 5 * len(VERBS), "pairs")
    counts.begin_case(name, verb, PAIRS)
    undisturbed = tmp_path / "undisturbed"
    start = time.monotonic()
    assert forks.run(_flags(verbs, verb, undisturbed), before=before).status == 0
    seconds = time.monotonic() - start
    expected = _left(forks, verb, undisturbed)
    chance = random.Random(verb)
    wrong = []
    for pair in range(PAIRS):
        output = tmp_path / str(pair)
        flags = _flags(verbs, verb, output)
        first = forks.start(flags, before=before)
        time.sleep(chance.random() * seconds * (pair % 2))
        runs = [forks.start(flags, before=before), first]
        ended = [run.wait() for run in runs]
        troubles = [
            f"exit {end.status}: {end.errors}"
            for end in ended
            if not (end.status == 0 or (end.status == 1 and ": in use by `" in end.errors))
            or "Traceback" in end.errors
        ]
        if all(end.status for end in ended):
            troubles.append("neither ended well")
        troubles += trees.differences(_left(forks, verb, output), expected)
        counts.add(name, 1, not troubles, verb)
        wrong += [f"pair {pair}: {trouble}" for trouble in troubles]
    assert not wrong
