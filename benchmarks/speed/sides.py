"""What a row of the table is: the same work done by several sides, each in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

# Does the work once, and returns how much it was, in the row's unit.
Work = Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Side:
    """One way of doing the work.

    Attributes:
      make: loads and prepares; what it takes is not counted.
      warm_up: do the work once before, so that compilation is not counted.
      notes: asked behind the work, such as the compiled program's memory, for the JSON alone.
    """

    make: Callable[[], Work]
    warm_up: bool = True
    notes: Callable[[], Mapping[str, Any]] = dict


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
      what: the work, in words.
      unit: of the work.
      sides: by name; the first is ours, and the others are compared with it, or with that of ours
        which is named as they are behind the comma: `transformers, float32` with `ours, float32`.
    """

    what: str
    unit: str
    sides: Mapping[str, Side]


def main(row: Row) -> None:
    """Does the work of the side that the command line names; prints seconds and work as JSON."""
    side = row.sides[sys.argv[1]]
    work = side.make()
    if side.warm_up:
        work()
    wall, processor = time.perf_counter(), _processor_seconds()
    amount = work()
    measured = {
        "work": amount,
        "seconds": time.perf_counter() - wall,
        "processor_seconds": _processor_seconds() - processor,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **side.notes(),
    }
    print(json.dumps(measured))


def _processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in times)
