"""Which rows are one method: those that differ in nothing but their seed."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from detox_jax.method.method import Method


def of_rows(rows: Mapping[str, Method], own: int = 0) -> dict[str, list[str]]:
    """Rows that differ in their seed alone, by the shortest of their names; none of a single seed.

    Args:
      rows: all rows by name, in any order: a `config.gin` of before has lost it.
      own: the run's seed, which a row without one has.
    """
    groups: list[list[str]] = []
    for name, row in rows.items():
        group = next((group for group in groups if _differ_in_seed(rows[group[0]], row)), None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    seeds = [_of_each_seed(group, rows, own) for group in groups]
    return {group[0]: group for group in seeds if len(group) > 1}


def _of_each_seed(group: list[str], rows: Mapping[str, Method], own: int) -> list[str]:
    """A row of each seed: of those that are one, by a seed that is the run's own, the first."""
    found: dict[int, str] = {}
    for name in sorted(group, key=lambda name: (len(name), name)):
        seed = rows[name].random_seed
        found.setdefault(own if seed is None else seed, name)
    return [*found.values()]


def _differ_in_seed(one: Method, other: Method) -> bool:
    names = [field.name for field in dataclasses.fields(Method) if field.name != "random_seed"]
    return all(_decides(getattr(one, name)) == _decides(getattr(other, name)) for name in names)


def _decides(value: Any) -> Any:
    """A value; of a function, which gin makes anew for every reference, what it calls and where."""
    if not inspect.isfunction(value):
        return value
    held = [cell.cell_contents for cell in value.__closure__ or ()]
    return inspect.unwrap(value), [scopes for scopes in held if isinstance(scopes, list)]
