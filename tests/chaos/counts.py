"""How many faults of each class were tried, and after how many all was whole: chaos.json.

A class is written as it is counted, so that a round that is broken off leaves what it counted.
Where a round before tried more of a class, its counts are kept beside, under `before`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "counts.json"


def wanted(variable: str, count: int) -> int:
    """The count of an environment variable, or the full one."""
    return int(os.environ.get(variable, count))


class Counts:
    """Counts of one round, beside those of classes that are not tried in it."""

    def __init__(self, file: Path = FILE):
        self._file = file
        self._begun: set[str] = set()

    def begin(self, name: str, full: int | None, unit: str) -> None:
        """Begins a class anew.

        Args:
          name: of the class.
          full: how many a full round tries; None where time, not a count, ends it.
          unit: what is counted.
        """
        if name not in self._begun:
            self._begun.add(name)
            entry = {"unit": unit, "full": full, "tried": 0, "whole": 0}
            if full is not None and (before := _largest(self.read().get(name))):
                entry["before"] = before
            self._update(name, entry)

    def add(self, name: str, tried: int, whole: int) -> None:
        """Adds what was tried, and what of it ended as it should."""
        entry = self.read()[name]
        entry["tried"] += tried
        entry["whole"] += whole
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


def _largest(entry: dict[str, Any] | None) -> dict[str, int] | None:
    """Of a class, the counts of the round that tried most, where one tried anything."""
    if entry is None:
        return None
    tried = max(entry, entry.get("before", entry), key=lambda counted: counted["tried"])
    return {key: tried[key] for key in ("tried", "whole")} if tried["tried"] else None
