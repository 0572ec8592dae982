"""The lines of `metrics.jsonl`: a damaged one costs that line alone."""

from __future__ import annotations

import json

from etils import epath


def read(file: epath.Path) -> list[str]:
    """The lines as they stand; a last one that a kill cut short is none."""
    return file.read_bytes().decode(errors="replace").split("\n")[:-1]


def scalars(line: str) -> dict[str, float] | None:
    """What a line says by name, with its `step`, a whole number; None of a damaged one."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not isinstance(values.get("step"), int):
        return None
    are_numbers = all(type(value) in (int, float) for value in values.values())
    return values if are_numbers else None
