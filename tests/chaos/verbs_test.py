"""A verb that is killed, again and again, leaves in the end the bytes of an undisturbed run."""

import random
import time

import pytest

from tests.chaos import trees
from tests.chaos.counts import wanted
from tests.chaos.tiny_verbs import VERBS, before

pytestmark = pytest.mark.chaos

KILLS = wanted("CHAOS_KILLS", 20)
KILLS_A_RUN = 4


def _killed(forks, flags, output, undisturbed, chance):
    """A run that kills itself at an operation, or that the clock kills; how it ended."""
    if chance.random() < 0.7:
        at = chance.randrange(1, undisturbed.operations + 1)
        return forks.run(flags, before=before, watched=output.parent, kill_at=at)
    child = forks.start(flags, before=before)
    time.sleep(chance.random() * undisturbed.seconds)
    if child.is_running():
        child.signal()
    return child.wait()


def _left(forks, root):
    return {**trees.files_of(root), **trees.arrays_of(forks, root)}


@pytest.mark.parametrize("verb", VERBS)
def test_a_killed_verb_leaves_the_bytes_of_an_undisturbed_run(forks, verbs, counts, tmp_path, verb):
    name = f"{verb}: kill -9"
    counts.begin(name, 20, "kills")
    undisturbed = verbs.undisturbed(verb)
    expected = _left(forks, undisturbed.output.parent)
    chance = random.Random(verb)
    done, run, wrong = 0, 0, []
    while done < KILLS:
        output = tmp_path / str(run) / "output"
        output.parent.mkdir()
        flags = verbs.flags(verb, output)
        kills, differing = 0, []
        while kills < min(KILLS_A_RUN, KILLS - done):
            ended = _killed(forks, flags, output, undisturbed, chance)
            kills += ended.status == -9
            if ended.status != -9:
                differing += [f"exit {ended.status}: {ended.errors}"] if ended.status else []
                break
        ended = forks.run(flags, before=before)
        differing += [f"exit {ended.status}: {ended.errors}"] if ended.status else []
        differing += trees.differences(_left(forks, output.parent), expected)
        counts.add(name, kills, 0 if differing else kills)
        wrong += [f"run {run}: {what}" for what in differing]
        done, run = done + kills, run + 1
    assert not wrong
