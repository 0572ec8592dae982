"""A whole run is killed a few times and finished, again and again: what it leaves never differs."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from tests.chaos import trees
from tests.chaos.counts import Counts
from tests.chaos.forks import Ended


def differences(
    name: str,
    counts: Counts,
    output: Path,
    begin: Callable[[int], Ended],
    finish: Callable[[], Ended],
    left: Callable[[], dict[str, str]],
    kills: int,
    kills_a_run: int,
) -> list[str]:
    """What differs from the undisturbed run that `output` holds, after so many kills.

    Args:
      name: the class that is counted.
      counts: where kills are added.
      output: the directory of all runs; its name is in what they hash.
      begin: runs until a kill, or to the end where that comes first; takes how many kills were
        before it.
      finish: runs to the end.
      left: what `output` holds.
      kills: how many in all.
      kills_a_run: in one run, at most; fewer where it ends before.
    """
    expected = left()
    done, run, wrong = 0, 0, []
    while done < kills:
        shutil.rmtree(output)
        killed, differing = 0, []
        while killed < min(kills_a_run, kills - done):
            ended = begin(done + killed)
            killed += ended.status == -signal.SIGKILL
            if ended.status != -signal.SIGKILL:
                differing += _failure(ended)
                break
        differing += _failure(finish())
        differing += trees.differences(left(), expected)
        counts.add(name, killed, 0 if differing else killed)
        wrong += [f"run {run}: {what}" for what in differing]
        done, run = done + killed, run + 1
    return wrong


def _failure(ended: Ended) -> list[str]:
    return [f"exit {ended.status}: {ended.errors}"] if ended.status else []
