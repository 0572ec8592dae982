"""Dataclasses to JSON and back; a field of a file that does not fit is named by its path.

    Row(method="base", toxicity=Toxicity(...))   <->   {"method": "base", "coverage": 1.0, ...}

The fields of a dataclass are the keys of an object, in their order; an underscore at the end of a
name, which `from_` needs, is not written. A field marked `FLAT` has no key of its own: what it
holds stands among the keys of the whole. A default of a field marked `SPARSE` is not written.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from etils import epath

from detox_jax import atomic_files
from detox_jax.errors import UserError, unread
from detox_jax.formats import jsonl

T = TypeVar("T")
FLAT = {"flat": True}
SPARSE = {"sparse": True}
_TOO_LARGE = 1 << 63  # no count; arithmetic on such whole numbers overflows
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def to_json(value: Any) -> Any:
    """What `json.dumps` takes; numbers that are not finite stay (`atomic_files.finite`)."""
    if dataclasses.is_dataclass(value):
        written = {}
        for field in dataclasses.fields(value):
            if field.metadata.get("sparse") and getattr(value, field.name) == field.default:
                continue
            item = to_json(getattr(value, field.name))
            written |= (item or {}) if field.metadata.get("flat") else {_key(field): item}
        return written
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, list | tuple) else value


def from_json(kind: type[T], value: Any, where: str, path: str = "") -> T:
    """A dataclass from what `json.loads` returns.

    Null and a missing key are one: the field's default where it has one, else nothing of its kind:
    NaN for a number that may be a fraction, None, an empty tuple or mapping. Text, whole numbers
    and truth values must be there. A key that no field has is a mistake, and so is what the
    `__post_init__` of a dataclass refuses with a `ValueError`.

    Args:
      kind: the dataclass. Its fields are dataclasses, bool, int, float, str or a subclass of it,
        `Any`, literals, `tuple[X, ...]`, `Mapping[str, X]` and unions of these.
      value: to be read.
      where: the file, for errors.
      path: of the value in it.

    Raises:
      UserError: `where: rows[3].coverage: expected a number, got 'x'`.
    """
    try:
        return _read(kind, value, path)
    except _MisfitError as error:
        raise UserError(f"{where}: {error}") from None


def read_json(path: epath.Path, kind: type = dict) -> Any:
    """What a file holds, with null for NaN and infinity, which Python's reader lets pass.

    Args:
      path: the file.
      kind: dict or list, whichever it has to be.

    Raises:
      UserError: if it cannot be read or holds something else.
    """
    try:
        content = path.read_bytes()
        value = json.loads(content.decode())
        jsonl.check_depth(value, content)  # Python 3.13 reads more levels than may be here.
        # A lone surrogate, which JSON can spell, has no UTF-8 form and no glyph; it becomes "?".
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
        value = atomic_files.finite(value)
    except (ValueError, OSError, RecursionError) as error:
        raise unread(path, error) or UserError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, kind):
        raise UserError(f"{path}: expected a JSON {kind.__name__}, got {type(value).__name__}")
    return value


def same_length(**lists: Sequence[Any]) -> None:
    """Refuses lists of different lengths, for a `__post_init__`; `ValueError` says which."""
    lengths = {name: len(items) for name, items in lists.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"lists of different lengths: {said}")


class _MisfitError(Exception):
    def __init__(self, path: str, message: str):
        super().__init__(f"{path.removeprefix('.')}: {message}" if path else message)


def _read(kind: Any, value: Any, path: str) -> Any:
    arguments = typing.get_args(kind)
    match typing.get_origin(kind):
        case typing.Union | types.UnionType:
            return _read_union(arguments, value, path)
        case typing.Literal:
            if value in arguments:
                return value
            raise _MisfitError(path, f"expected one of {', '.join(arguments)}, got {_show(value)}")
        case builtin if builtin is tuple:
            items = _expect(list, [] if value is None else value, path)
            return tuple(_read(arguments[0], x, f"{path}[{i}]") for i, x in enumerate(items))
        case abstract if abstract is Mapping:
            return _read_mapping(arguments, {} if value is None else value, path)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        rest = dict(_expect(Mapping, {} if value is None else value, path))
        record = _take(kind, rest, path)
        if rest:
            raise _MisfitError(_below(path, next(iter(rest))), "no such field")
        return record
    return _read_scalar(kind, value, path)


def _read_scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is float:
        return _read_number(value, path)
    basic = str if issubclass(kind, str) else kind
    if value is None:
        raise _MisfitError(path, f"is missing; expected {_KINDS[basic]}")
    fits = isinstance(value, basic) and isinstance(value, bool) == (kind is bool)
    if not fits or (kind is int and abs(value) >= _TOO_LARGE):
        raise _MisfitError(path, f"expected {_KINDS[basic]}, got {_show(value)}")
    return value if kind is basic else _make(kind, path, value)


def _read_number(value: Any, path: str) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _MisfitError(path, f"expected a number, got {_show(value)}")
    try:
        return float(value)
    except OverflowError:
        raise _MisfitError(path, f"expected a number, got {_show(value)}") from None


def _read_union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    error = None
    for kind in kinds:
        if kind is not types.NoneType:
            try:
                return _read(kind, value, path)
            except _MisfitError as misfit:
                error = misfit
    raise error or AssertionError("a union of nothing")


def _read_mapping(kinds: tuple[Any, ...], value: Any, path: str) -> dict[Any, Any]:
    items = _expect(Mapping, value, path).items()
    places = {key: _below(path, key) for key, _ in items}
    return {_read(kinds[0], key, places[key]): _read(kinds[1], x, places[key]) for key, x in items}


def _take(kind: Any, rest: dict[str, Any], path: str) -> Any:
    """A dataclass out of the keys of an object, which keeps those that no field has."""
    values = {}
    for field in dataclasses.fields(kind):
        hint = _hints(kind)[field.name]
        if field.metadata.get("flat"):
            values[field.name] = _take_flat(hint, rest, path)
        elif (item := rest.pop(_key(field), None)) is not None or not _has_default(field):
            values[field.name] = _read(hint, item, _below(path, _key(field)))
    return _make(kind, path, **values)


def _take_flat(hint: Any, rest: dict[str, Any], path: str) -> Any:
    """What a flat field holds: a dataclass, None without its keys, or what fits its mapping."""
    kind, *others = typing.get_args(hint) or (hint,)
    if typing.get_origin(hint) is Mapping:
        taken = {key: rest.pop(key) for key in list(rest) if _fits(kind, key)}
        return _read_mapping(typing.get_args(hint), taken, path)
    if types.NoneType in others and rest.keys().isdisjoint(map(_key, dataclasses.fields(kind))):
        return None
    return _take(kind, rest, path)


def _fits(kind: Any, key: str) -> bool:
    try:
        _read(kind, key, "")
    except _MisfitError:
        return False
    return True


def _make(kind: Any, path: str, /, *values: Any, **named: Any) -> Any:
    try:
        return kind(*values, **named)
    except ValueError as error:
        raise _MisfitError(path, str(error)) from None


def _expect(kind: Any, value: Any, path: str) -> Any:
    if isinstance(value, kind):
        return value
    what = {list: "a list", Mapping: "an object"}[kind]
    raise _MisfitError(path, f"expected {what}, got {_show(value)}")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _key(field: dataclasses.Field[Any]) -> str:
    return field.name.removesuffix("_")


def _has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if key.isidentifier() else f"{path}[{key!r}]"


def _show(value: Any) -> str:
    return "nothing" if value is None else reprlib.repr(value)
