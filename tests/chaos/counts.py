"""How many faults of each class were tried, and after how many all was whole: chaos.json.

A class is written as it is counted, so that a round that is broken off leaves what it counted.
With CHAOS_GO_ON=1 the next one goes on with it, and skips the cases that it counted.
Where a round before tried more of a class, its counts are kept beside, under `before`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parent / "counts.json"


def wanted(variable: str, count: int) -> int:
    """The count of an environment variable, or the full one."""
    return int(os.environ.get(variable, count))


class Counts:
    """Counts of one round, beside those of classes that are not tried in it."""

    def __init__(self, file: Path = FILE, goes_on: bool | None = None):
        self._file = file
        self._goes_on = bool(wanted("CHAOS_GO_ON", 0)) if goes_on is None else goes_on
        self._begun: set[str] = set()

    def begin(self, name: str, full: int | None, unit: str, **said: Any) -> None:
        """Begins a class, anew or where the round before was broken off.

        Args:
          name: of the class.
          full: how many a full round tries; None where time, not a count, ends it.
          unit: what is counted.
          **said: what else is known beforehand: of what time ends, `full_seconds` for each of
            `readers`; each has noted its own in `seconds`.
        """
        if name in self._begun:
            return
        self._begun.add(name)
        known = self.read().get(name)
        if self._goes_on and known is not None and not is_full(known):
            return
        entry = {"unit": unit, "full": full, "tried": 0, "whole": 0, **said}
        if full is not None and (before := _largest(known)):
            entry["before"] = before
        self._update(name, entry)

    def begin_case(self, name: str, case: str, times: int) -> None:
        """Begins a part of a class, and skips its test where the round has counted it.

        One that was broken off is counted from its beginning.

        Args:
          name: of the class, which was begun.
          case: of the part, such as a verb.
          times: how many it tries.
        """
        entry = self.read()[name]
        counted = entry.get("cases", {}).get(case, {"tried": 0, "whole": 0})
        if counted["tried"] >= times:
            pytest.skip(f"{name}, {case}: counted by the round that this one goes on with")
        for key in ("tried", "whole"):
            entry[key] -= counted[key]
        entry["cases"] = {**entry.get("cases", {}), case: {"tried": 0, "whole": 0}}
        self._update(name, entry)

    def add(self, name: str, tried: int, whole: int, case: str | None = None) -> None:
        """Adds what was tried, of the class and of the case, and what of it ended as it should."""
        entry = self.read()[name]
        for counted in (entry, *([entry["cases"][case]] if case is not None else [])):
            counted["tried"] += tried
            counted["whole"] += whole
        if entry["tried"] >= entry.get("before", entry)["tried"]:
            entry.pop("before", None)
        self._update(name, entry)

    def note(self, name: str, **values: Any) -> None:
        """Adds what else was measured."""
        self._update(name, {**self.read()[name], **values})

    def read(self) -> dict[str, Any]:
        """All classes."""
        return json.loads(self._file.read_text()) if self._file.exists() else {}

    def _update(self, name: str, entry: dict[str, Any]) -> None:
        text = json.dumps({**self.read(), name: entry}, indent=2, sort_keys=True)
        self._file.write_text(text + "\n")


def is_full(entry: dict[str, Any]) -> bool:
    """Whether a class was tried as often, or for as long, as a full round tries it."""
    if entry["full"] is not None:
        return entry["tried"] >= entry["full"] and entry.get("share", 100) >= 100
    seconds = entry.get("seconds", {})
    return len(seconds) >= entry["readers"] and min(seconds.values()) >= entry["full_seconds"]


def _largest(entry: dict[str, Any] | None) -> dict[str, int] | None:
    """Of a class, the counts of the round that tried most, where one tried anything."""
    if entry is None:
        return None
    tried = max(entry, entry.get("before", entry), key=lambda counted: counted["tried"])
    return {key: tried[key] for key in ("tried", "whole")} if tried["tried"] else None
