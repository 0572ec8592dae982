"""A sweep that is killed, with its cell or alone, ends with every file of an undisturbed one."""

import os
import random
import signal
import time

import pytest

from tests import sweep_test
from tests.chaos import killed_runs, trees
from tests.chaos.counts import wanted

pytestmark = pytest.mark.chaos

CLASS = "sweep: kill -9, of half of them without the cell"
KILLS = wanted("CHAOS_SWEEP_KILLS", 20)
KILLS_A_RUN = 4
CELLS = ("24_whole", "24_lora")


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    return [*sweep_test.real_sweep(root), "--gin.ONLY=[{'documents': '24'}]"]


def _left(forks, output):
    clocks = (*trees.TIMES, *(f"{cell}.log" for cell in CELLS))
    return {**trees.files_of(output, but=clocks), **trees.arrays_of(forks, output)}


def test_a_killed_sweep_ends_as_if_undisturbed(forks, flags, counts, tmp_path):
    counts.begin(CLASS, 20, "kills")
    output = tmp_path / "run"  # The same for all: its name is in what results.json hashes.
    command = [*flags, f"--gin.OUTPUT_DIR={output}"]
    start = time.monotonic()
    ended = forks.run(command)
    assert ended.status == 0, ended.errors
    seconds, chance = time.monotonic() - start, random.Random(0)

    def begin(kills):
        child = forks.start(command, before=os.setsid)
        time.sleep(chance.uniform(0.5, 1) * seconds * 2 / KILLS_A_RUN)
        if child.is_running():
            # A cell that is left alone ends by itself.
            (os.kill if kills % 2 else os.killpg)(child.pid, signal.SIGKILL)
        return child.wait()

    assert not killed_runs.differences(
        CLASS,
        counts,
        output,
        begin,
        finish=lambda: forks.run(command),
        left=lambda: _left(forks, output),
        kills=KILLS,
        kills_a_run=KILLS_A_RUN,
    )
