"""One of four processes is killed: the others end, and all together go on as if undisturbed."""

import random
import signal
import socket
import time

import pytest

from tests.chaos import trees
from tests.chaos.counts import wanted
from tests.chaos.forks import LONGEST_S

pytestmark = pytest.mark.chaos

CLASS = "train in four processes: kill -9 of one, restart of all"
COUNT, STEPS = 4, 24
KILLS = wanted("CHAOS_KILLS_OF_ONE", 20)
# The links name a process that died at once, and one that never came after 45 s.
DEADLINE_S = 180.0
# Where JAX's coordinator is gone, JAX may abort the others in the moment in which they end.
ABORTED = -signal.SIGABRT


def _flags(train_flags, model):
    return [
        *train_flags,
        f"--gin.TRAIN_STEPS={STEPS}",
        "--gin.loop.Periods.log=1",
        "--gin.MESH_SHAPE={'fsdp': 2, 'model': 2}",
        f"--gin.MODEL_DIR={model}",
    ]


def _start(forks, flags):
    """All processes, on a port of their own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    flags = [*flags, f"--coordinator_address={address}", f"--process_count={COUNT}"]
    return [forks.start([*flags, f"--process_index={index}"]) for index in range(COUNT)]


def _end(children, seconds):
    """Waits for all; where one does not end in time, none is left behind."""
    ended = []
    try:
        for child in children:
            ended.append(child.wait(seconds))
    finally:
        for child in children[len(ended) + 1 :]:  # `wait` itself ends the one that it waited for.
            child.signal()
            child.wait()
    return ended


def _finish(forks, flags):
    """Runs all processes to the end of the training; what was wrong with them."""
    ended = _end(_start(forks, flags), LONGEST_S)
    return [f"{i}: exit {x.status}: {x.errors}" for i, x in enumerate(ended) if x.status]


def _saved(model):
    directory = model / "checkpoints"
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    return {int(name) for name in names if name.isdigit()}


def _kill_one(forks, flags, model, victim, chance):
    """Starts all, kills one of them at a random moment of one of the next steps.

    Returns:
      Whether it was killed, and what the others did wrong.
    """
    before = _saved(model)
    last = max(before, default=0)
    saves = chance.randrange(4)
    children, first, deadline = _start(forks, flags), None, time.monotonic() + LONGEST_S
    while children[victim].is_running():
        new = _saved(model) - before
        if new and first is None:
            first = min(new)
        if len(new) >= saves or time.monotonic() > deadline:
            time.sleep(chance.random() * (0.3 if saves else 3))
            children[victim].signal()
            break
        time.sleep(0.002)
    ended = _end(children, DEADLINE_S)
    others = [(i, end) for i, end in enumerate(ended) if i != victim]
    if ended[victim].status == 0 or not any(end.status for _, end in others):
        return False, []  # All had ended before.
    wrong = [f"process {victim} was not killed: {ended[victim]}"] * (ended[victim].status != -9)
    if first not in (None, last + 1):
        wrong.append(f"step {last} was saved, and the run went on with {first}")
    for index, end in others:
        allowed = (1, ABORTED) if victim == 0 else (1,)
        if end.status not in allowed or "Traceback" in end.errors:
            wrong.append(f"process {index} without {victim}: exit {end.status}: {end.errors}")
    return True, wrong


@pytest.fixture(scope="module")
def undisturbed(forks, train_flags, tmp_path_factory):
    model = tmp_path_factory.mktemp("undisturbed") / "model"
    assert not _finish(forks, _flags(train_flags, model))
    return {**trees.files_of(model), **trees.arrays_of(forks, model)}


def test_all_go_on_where_one_of_four_was_killed(forks, train_flags, undisturbed, counts, tmp_path):
    counts.begin(CLASS, 20, "kills")
    chance = random.Random(0)
    done, run, wrong = 0, 0, []
    while done < KILLS:
        model = tmp_path / str(run)
        flags, killed, differing = _flags(train_flags, model), 0, []
        while killed < KILLS - done:
            victim = (done + killed) % COUNT  # Process 0, which is JAX's coordinator, too.
            is_killed, faults = _kill_one(forks, flags, model, victim, chance)
            differing += faults
            if not is_killed:
                break
            killed += 1
        differing += _finish(forks, flags)
        left = {**trees.files_of(model), **trees.arrays_of(forks, model)}
        differing += trees.differences(left, undisturbed)
        counts.add(CLASS, killed, 0 if differing else killed)
        wrong += [f"run {run}: {name}" for name in differing]
        done, run = done + killed, run + 1
    assert not wrong
