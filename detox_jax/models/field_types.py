"""Whether the fields of a config that came from a file are what its annotations say."""

from __future__ import annotations

import dataclasses
import functools
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Any

# Beyond these no model is, and a loop over layers, a shape, or an array of what a head rotates by,
# would not end or not fit.
_MOST = 2**31 - 1
MOST = {"num_layers": 2**16, "head_dim": 2**20}


def check(config: Any, path: str = "") -> None:
    """Checks a dataclass of numbers, text, truth values and other such dataclasses.

    A whole number serves for a fraction, and none is infinite.

    Args:
      config: the dataclass.
      path: of the fields of one inside of another.

    Raises:
      ValueError: naming the first field that does not fit.
    """
    for name, kind in _hints(type(config)).items():
        value = getattr(config, name)
        if not any(_fits(value, part) for part in _parts(kind)):
            kinds = " or ".join(_name(part) for part in _parts(kind))
            raise ValueError(f"{path}{name} is {reprlib.repr(value)}; expected {kinds}")
        if name in MOST and value is not None and value > MOST[name]:
            raise ValueError(f"{path}{name} is {value}; at most {MOST[name]} are read")
        if dataclasses.is_dataclass(value):
            check(value, f"{path}{name}.")


def _parts(kind: Any) -> tuple[Any, ...]:
    """The kinds of a union, or the one that there is."""
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if is_union else (kind,)


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if origin in (dict, Mapping):
        pairs = value.items() if isinstance(value, Mapping) else [(None, None)]
        return all(_fits(a, arguments[0]) and _fits(b, arguments[1]) for a, b in pairs)
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and _is_finite(value)
    if kind is int:
        return isinstance(value, int) and abs(value) <= _MOST
    return isinstance(value, kind)


def _is_finite(number: float) -> bool:
    return -1e300 < number < 1e300 and math.isfinite(number)


def _name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    names |= {types.NoneType: "null"}
    return names.get(kind) or ("a list" if typing.get_origin(kind) is tuple else "an object")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
