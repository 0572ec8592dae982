"""Training that is killed inside of saves ends as one that was never disturbed."""

import os
import random
import time

import pytest

from tests.chaos import trees
from tests.chaos.counts import wanted

pytestmark = pytest.mark.chaos

CLASS = "train: kill -9 inside a save"
STEPS = 40
KILLS_A_RUN = 17
KILLS = wanted("CHAOS_KILLS_IN_SAVES", 50)


@pytest.fixture(scope="module")
def undisturbed(forks, train_flags, tmp_path_factory):
    model = tmp_path_factory.mktemp("undisturbed") / "model"
    flags = [*train_flags, f"--gin.TRAIN_STEPS={STEPS}", f"--gin.MODEL_DIR={model}"]
    ended = forks.run(flags)
    assert ended.status == 0, ended.errors
    return {**trees.files_of(model), **trees.arrays_of(forks, model)}


def _unfinished(model):
    """What the directory of a step that is being saved holds."""
    made = {}
    for path in (model / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
        # Not rglob, which fails where a directory goes meanwhile.
        made[path.name] = sum(len(files) + 1 for _, _, files in os.walk(path))
    return made


def _kill_inside_a_save(child, model, chance):
    """Kills a child in one of its next saves; whether it ended inside of it."""
    saves = chance.randrange(1, 4)
    seen, entries = set(), chance.randrange(0, 30)
    while child.is_running() and _unfinished(model):  # What the kill before left.
        time.sleep(0.0005)
    while child.is_running():
        now = _unfinished(model)
        seen |= set(now)
        if len(seen) >= saves and any(count >= entries for count in now.values()):
            time.sleep(chance.random() * 0.01)
            child.signal()
            break
        time.sleep(0.0005)
    ended = child.wait()
    return ended, bool(ended.status == -9 and _unfinished(model))


def test_training_killed_inside_saves_ends_as_if_undisturbed(
    forks, train_flags, undisturbed, counts, tmp_path
):
    counts.begin(CLASS, 50, "kills")
    chance = random.Random(0)
    done, run, wrong = 0, 0, []
    while done < KILLS:
        model = tmp_path / str(run)
        flags = [*train_flags, f"--gin.TRAIN_STEPS={STEPS}", f"--gin.MODEL_DIR={model}"]
        inside = 0
        while inside < min(KILLS_A_RUN, KILLS - done):
            ended, is_inside = _kill_inside_a_save(forks.start(flags), model, chance)
            inside += is_inside
            if ended.status != -9:
                assert ended.status == 0, ended.errors
                break
        ended = forks.run(flags)
        left = {**trees.files_of(model), **trees.arrays_of(forks, model)}
        differing = [f"exit {ended.status}: {ended.errors}"] if ended.status else []
        differing += trees.differences(left, undisturbed)
        counts.add(CLASS, inside, 0 if differing else inside)
        wrong += [f"run {run}: {name}" for name in differing]
        done, run = done + inside, run + 1
    assert not wrong
