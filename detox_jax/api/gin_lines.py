"""Python's values as gin's lines, so that a call from Python is a command that can be repeated."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from detox_jax.errors import UserError

_ADDRESS = re.compile(r"^(gs|hf|s3|tfds):/(?=[^/])")


def text_of(path: os.PathLike[str]) -> str:
    """A path as text; of the two slashes of an address `pathlib` keeps one."""
    return _ADDRESS.sub(r"\1://", os.fspath(path))


class Reference(str):
    """A reference of gin's, `@ngram.NgramScorer()`, which a text would be otherwise."""

    __slots__ = ()


class GinLines:
    """Collects the bindings of a call: macros, and the fields of the structs in their values.

    Attributes:
      bindings: lines `NAME = value`, as the command line has them.
      imports: the modules that they name.
    """

    def __init__(self, settings: Mapping[str, Any]):
        """Writes a call's settings.

        Args:
          settings: by keyword; `num_documents` is the macro NUM_DOCUMENTS.

        Raises:
          UserError: for a value that no gin file can hold.
        """
        self.bindings: list[str] = []
        self.imports: list[str] = []
        self._scopes: set[str] = set()
        for name, value in settings.items():
            self.bindings.append(f"{name.upper()} = {self._text(name, value)}")

    def _text(self, name: str, value: Any) -> str:
        if isinstance(value, Reference):
            return str(value)
        if isinstance(value, os.PathLike):
            value = text_of(value)
        if hasattr(value, "item") and not getattr(value, "shape", None):  # a number of NumPy's
            value = value.item()
        if value is None or isinstance(value, bool | int | str):
            return repr(value)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise UserError(f"{name}={value!r}: not finite; give a number, or None")
            return repr(value)
        if isinstance(value, Mapping):
            items = (f"{self._text(name, k)}: {self._text(name, v)}" for k, v in value.items())
            return f"{{{', '.join(items)}}}"
        if isinstance(value, list | tuple):
            return f"[{', '.join(self._text(name, item) for item in value)}]"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._struct(name, value)
        if isinstance(value, type) and dataclasses.is_dataclass(value):
            raise UserError(f"{name}={value.__name__}: a class; give {value.__name__}(...)")
        raise UserError(
            f"{name}={value!r}: no setting can hold a {type(value).__name__}; give a number, text, "
            "a list, a dict, or one of detox_jax's own structs"
        )

    def _struct(self, name: str, value: Any) -> str:
        """`@steering/words.BannedWords()`, all of its fields bound in a scope of its own."""
        kind = type(value)
        if not kind.__module__.startswith("detox_jax."):
            raise UserError(
                f"{name}={value!r}: {kind.__name__} is not of detox_jax; put it in a module, and "
                "name it in a gin file that gin_files gives"
            )
        scope = name
        while scope in self._scopes:
            scope = f"{name}_{len(self._scopes)}"
        self._scopes.add(scope)
        self.imports.append(kind.__module__)
        called = f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
        for field in dataclasses.fields(value):
            if field.init:
                text = self._text(name, getattr(value, field.name))
                self.bindings.append(f"{scope}/{called}.{field.name} = {text}")
        return f"@{scope}/{called}()"


def can_hold(value: Any) -> bool:
    """Whether gin's lines can make a struct anew, from its fields."""
    if isinstance(value, type) or not dataclasses.is_dataclass(value):
        return False
    try:
        GinLines({"value": value})
    except UserError:
        return False
    return True
