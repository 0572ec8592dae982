"""How many faults of each class were tried, and after how many all was whole: chaos.json.

A class is written as it is counted, so that a round that is broken off leaves what it counted.
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
            self._update(name, {"unit": unit, "full": full, "tried": 0, "whole": 0})

    def add(self, name: str, tried: int, whole: int) -> None:
        """Adds what was tried, and what of it ended as it should."""
        entry = self.read()[name]
        entry["tried"] += tried
        entry["whole"] += whole
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
