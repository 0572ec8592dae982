"""Kinds of values: whether a value fits an annotation, and how to say what would.

A setting's annotation is its promise: `int`, `Mapping[str, int]`, `Sampling`, and with bounds
`Annotated[int, Range(1)]`. `fitted` returns the value as the annotation has it, so that `1e3` is
the whole number 1000, and raises `MisfitError` for any other.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import functools
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any

_TOO_LARGE = 1 << 63  # no count; arithmetic on such whole numbers overflows
_NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    types.NoneType: "None",
}
_SEQUENCES = (collections.abc.Sequence, list, tuple)
_NONE = types.NoneType
WRITE = ": write "  # before what would be right


class MisfitError(ValueError):
    """A value that does not fit; the message says what was expected, and what it is."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number, for `Annotated`.

    Attributes:
      least: the smallest that fits.
      most: the largest that fits; no limit where None.
      open: whether `least` itself is too small.
    """

    least: float
    most: float | None = None
    open: bool = False

    def __contains__(self, value: float) -> bool:
        """Whether a number is within."""
        above = value > self.least if self.open else value >= self.least
        return above and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        """`at least 1`, `from 0 to 1`, `above 0 and at most 1`."""
        if self.open:
            return f"above {self.least:g}" + (f" and at most {self.most:g}" if self.most else "")
        if self.most is None:
            return f"at least {self.least:g}"
        return f"from {_plain(self.least)} to {_plain(self.most)}"


def _plain(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """The names that a text may be, for `Annotated`."""

    names: tuple[str, ...]

    def __contains__(self, value: str) -> bool:
        """Whether it is one of them."""
        return value in self.names

    def __str__(self) -> str:
        """`one of float32, bfloat16`."""
        return f"one of {', '.join(self.names)}"


Count = Annotated[int, Range(1)]
Period = Annotated[int, Range(0)]  # 0 is never
Share = Annotated[float, Range(0.0, 1.0)]
Positive = Annotated[float, Range(0.0, open=True)]
Coefficient = Annotated[float, Range(0.0)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # JAX would cut any other to 32 bits
# More take hours and change no printed digit of an interval.
Draws = Annotated[int, Range(1, 1_000_000)]
DTYPE_NAMES = ("float32", "bfloat16")
Dtype = Annotated[str, OneOf(DTYPE_NAMES)]


def is_file_name(name: str) -> bool:
    """Whether a name may be that of a file: no slash, no control character, no dot ahead."""
    return bool(name) and name[0] != "." and not any(c in "/\\" or ord(c) < 32 for c in name)


@dataclasses.dataclass(frozen=True)
class Made:
    """Stands for what a configuration makes when it is called: `@sampling.TopPSampling()`.

    Attributes:
      maker: the class, or a function that makes the value or, where not `called`, is the value.
      called: whether its result is the value.
      text: as it is written.
    """

    maker: Any
    called: bool
    text: str

    def __repr__(self) -> str:
        """As it is written."""
        return self.text


def fitted(value: Any, kind: Any) -> Any:
    """The value as an annotation has it.

    A float that is a whole number is one, `1e3` as well as 1000; no text is a number, and no number
    a text. Where an annotation says nothing (`Any`, a type variable), everything fits.

    Args:
      value: of the kinds that gin reads, or `Made`; also in lists, tuples and dicts.
      kind: the annotation, with `Annotated` in it.

    Raises:
      MisfitError: if it does not fit.
    """
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _fitted_bounds(fitted(value, arguments[0]), arguments[1:])
    if origin in (typing.Union, types.UnionType):
        return _fitted_union(value, kind)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise _misfit(value, kind)
    if isinstance(value, Made):
        return _fitted_made(value, kind)
    if origin is not None and isinstance(origin, type):
        return _fitted_container(value, kind, origin, arguments)
    return _fitted_plain(value, kind)


@functools.cache  # Asked for each parameter that is bound; what cannot be read yet is not kept.
def annotations_of(called: Any) -> dict[str, Any]:
    """What a function's parameters, or a struct's fields, take, by name.

    Raises:
      NameError: where an annotation cannot be read yet; TypeError, AttributeError likewise.
    """
    return typing.get_type_hints(called, include_extras=True)


def fitted_fields(struct: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of some fields of a struct, as its annotations have them.

    Args:
      struct: a dataclass.
      given: the values, by names of its fields.

    Raises:
      MisfitError: naming the field whose value does not fit.
    """
    takes = annotations_of(struct)
    return {name: _part(value, takes[name], name) for name, value in given.items()}


def _fitted_bounds(value: Any, bounds: tuple[Any, ...]) -> Any:
    for bound in bounds:
        if isinstance(bound, Range | OneOf) and not isinstance(value, Made) and value not in bound:
            raise MisfitError(f"must be {bound}, got {_shown(value)}")
    return value


def _fitted_union(value: Any, kind: Any) -> Any:
    reasons, options = [], typing.get_args(kind)
    for option in options:
        try:
            return fitted(value, option)
        except MisfitError as misfit:
            reasons.append(str(misfit))
    # Names beside another kind, `auto` beside True and False, say too little alone.
    if any(map(_is_names, options)) and not {*map(_is_names, options)} <= {True, None}:
        choices = ", or ".join(describe(option) for option in options if option is not _NONE)
        raise MisfitError(f"must be {choices}, got {_shown(value)}")
    # A value of the right kind beyond its bounds, a part of it that is wrong, or one without its
    # parentheses or brackets, says more.
    telling = [
        reason for reason in reasons if not reason.startswith("expected ") or WRITE in reason
    ]
    raise MisfitError(telling[0]) if telling else _misfit(value, kind)


def _is_names(kind: Any) -> bool | None:
    """Whether an option is one of some names; None for None, which says nothing."""
    if kind is _NONE:
        return None
    return typing.get_origin(kind) is Annotated and any(
        isinstance(bound, OneOf) for bound in typing.get_args(kind)[1:]
    )


def _fitted_plain(value: Any, kind: Any) -> Any:
    if kind is None or kind is types.NoneType:
        fits = value is None
    elif kind in (bool, str):
        fits = isinstance(value, kind)
    elif kind in (int, float):
        return _fitted_number(value, kind)
    elif _is_protocol(kind):
        fits = all(callable(getattr(value, name, None)) for name in _methods(kind))
    elif isinstance(kind, type) and kind is not object:
        fits = isinstance(value, kind)
    else:
        fits = True
    if not fits:
        raise _misfit(value, kind)
    return value


def _fitted_number(value: Any, kind: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _misfit(value, kind)
    if kind is int and isinstance(value, float):
        if not value.is_integer():
            raise _misfit(value, kind)
        value = int(value)
    if isinstance(value, int) and abs(value) >= _TOO_LARGE:
        raise MisfitError(f"is too large: {_shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise MisfitError(f"is not finite: {value}")
    return value


def _fitted_container(value: Any, kind: Any, origin: type, arguments: tuple[Any, ...]) -> Any:
    if issubclass(origin, collections.abc.Mapping):
        if not isinstance(value, Mapping):
            raise _misfit(value, kind)
        keys, items = arguments or (Any, Any)
        return {
            _part(key, keys, f"key {key!r}"): _part(item, items, repr(key))
            for key, item in value.items()
        }
    if origin in _SEQUENCES:
        if not isinstance(value, list | tuple):
            raise _no_list(value, kind, arguments)
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            if len(value) != len(arguments):
                raise _misfit(value, kind)
            kinds = list(arguments)
        else:
            kinds = [arguments[0] if arguments else Any] * len(value)
        parts = [
            _part(x, k, f"item {i}") for i, (x, k) in enumerate(zip(value, kinds, strict=True))
        ]
        return type(value)(parts)
    if issubclass(origin, collections.abc.Callable):  # type: ignore[arg-type]
        if not callable(value):
            raise _misfit(value, kind)
    return value


def _part(value: Any, kind: Any, name: str) -> Any:
    try:
        return fitted(value, kind)
    except MisfitError as misfit:
        raise MisfitError(f"{name}: {misfit}") from None


def _fitted_made(value: Made, kind: Any) -> Made:
    """A call fits where its class does; of a function nothing is known until it is called."""
    origin = typing.get_origin(kind) or kind
    if isinstance(kind, typing.TypeVar):
        return value
    is_function = origin is collections.abc.Callable or "__call__" in _methods(kind)
    if not value.called:
        if is_function or origin is type:
            return value
        hint = f"{WRITE}{value.text}(), with the parentheses"
        raise MisfitError(f"expected {describe(kind)}, got {value.text}{hint}")
    if not isinstance(value.maker, type):
        return value
    if is_function and not _is_called(value.maker):
        raise _misfit(value, kind)
    if isinstance(origin, type) and not is_function:
        fits = (
            all(callable(getattr(value.maker, name, None)) for name in _methods(kind))
            if _is_protocol(kind)
            else issubclass(value.maker, origin)
        )
        if not fits and origin in _SEQUENCES:
            raise _no_list(value, kind, typing.get_args(kind))
        if not fits:
            raise _misfit(value, kind)
    return value


def _is_called(maker: type) -> bool:
    """Whether what a class makes can be called; the class itself always can."""
    return any("__call__" in vars(base) for base in maker.__mro__)


def _no_list(value: Any, kind: Any, items: tuple[Any, ...]) -> MisfitError:
    """What is no list; where it would be an item of one, with the brackets that it lacks.

    Where numbers in a dict would have to be texts, with quotes around these too.
    """
    misfit, item = _misfit(value, kind), items[0] if items else Any
    quoted = value
    if isinstance(value, Mapping):
        numbers = (int, float)
        quoted = {k: str(v) if isinstance(v, numbers) else v for k, v in value.items()}
    for wanted, lacking in ((value, "the brackets"), (quoted, "the brackets and the quotes")):
        with contextlib.suppress(MisfitError):
            fitted(wanted, item)
            return MisfitError(f"{misfit}{WRITE}[{_shown(wanted)}], with {lacking}")
    return misfit


def _is_protocol(kind: Any) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def _methods(kind: Any) -> list[str]:
    """The methods that a protocol asks for; its attributes may be set when an object is made."""
    if not _is_protocol(kind):
        return []
    named = {
        name
        for base in kind.__mro__
        if _is_protocol(base)
        for name, member in vars(base).items()
        if isinstance(member, types.FunctionType) and not _is_machinery(name)
    }
    return sorted(named)


def _is_machinery(name: str) -> bool:
    return name in ("__init__", "__subclasshook__", "_no_init_or_replace_init")


def _misfit(value: Any, kind: Any) -> MisfitError:
    return MisfitError(f"expected {describe(kind)}, got {_shown(value)}")


def _shown(value: Any) -> str:
    return " ".join(reprlib.repr(value).split())


def describe(kind: Any) -> str:
    """What fits an annotation, in words: `a whole number or None`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        bounds = [str(bound) for bound in arguments[1:] if isinstance(bound, Range | OneOf)]
        if bounds and isinstance(arguments[1], OneOf):
            return bounds[0]
        return " ".join([describe(arguments[0]), *bounds])
    if origin in (typing.Union, types.UnionType):
        # None at the end, however it is written.
        ordered = sorted(arguments, key=lambda argument: argument is types.NoneType)
        return " or ".join(dict.fromkeys(describe(argument) for argument in ordered))
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        return f"a dict of {_plural(arguments[1] if arguments else Any)} by name"
    if origin in _SEQUENCES:
        return f"a list of {_plural(arguments[0] if arguments else Any)}"
    if origin is collections.abc.Callable or "__call__" in _methods(kind):
        return "a reference, @NAME"
    return _NAMES.get(kind) or f"a {getattr(kind, '__name__', 'value')}"


def _plural(kind: Any) -> str:
    plurals = {int: "whole numbers", float: "numbers", str: "texts", Any: "values"}
    if isinstance(kind, type) and kind not in plurals and kind not in _NAMES:
        return f"{kind.__name__} objects"
    return plurals.get(kind) or f"({describe(kind)})"
