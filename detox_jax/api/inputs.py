"""Texts and prompts that Python gives, as the files that the verbs read."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import glob
import io
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detox_jax import records, sources
from detox_jax.api.calls import path_of, said
from detox_jax.errors import UserError, in_one_line
from detox_jax.formats import record_ids, row_formats

# One text, several, records as their files hold them or as a result does, or the path of a file.
Texts = str | Sequence[str] | Sequence[Mapping[str, Any] | records.Record] | os.PathLike[str]

# Tables, of polars, Arrow and pandas: they iterate over columns. By what makes records of them.
_TABLES = {
    "to_dicts": "df.to_dicts()",
    "to_pylist": "table.to_pylist()",
    "to_dict": 'df.to_dict("records")',
}
_AS_TEXT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)
_CHOICE = re.compile(rf"#({'|'.join(of.name for of in dataclasses.fields(sources.Choice))})=.*")
# An address, the home directory, or names between slashes without a space.
_NAME = r"[\w.@:*?\[\]-]*"
_PLACE = re.compile(rf"(gs|hf|s3|tfds):/.*|\w+://\S*|~/.*|{_NAME}(/{_NAME})+", re.ASCII)


def text_file(texts: Texts, directory: Path, name: str = "texts") -> str:
    """The documents as a file of JSON Lines, or the file that they are in.

    Args:
      texts: documents; a mapping is a record as it stands in a file, `{"id", "text"}`.
      directory: where the file is written.
      name: of the argument, for errors, and of the file.

    Raises:
      UserError: for what is no text, or a text that may name a file.
    """
    return _file(texts, directory, name, lambda text: {"text": text})


def prompt_file(prompts: Texts, directory: Path, name: str = "prompts") -> str:
    """The same of prompts; a record is that of RealToxicityPrompts, `{"prompt": {"text"}}`.

    Raises:
      UserError: as `text_file`.
    """
    return _file(prompts, directory, name, lambda text: {"prompt": {"text": text}})


def _file(given: Any, directory: Path, name: str, record: Callable[[str], Any]) -> str:
    if isinstance(given, os.PathLike):
        return path_of(given, name)
    if isinstance(given, str):
        _refuse_place(given, name)
        given = [given]
    _refuse_no_list(given, name)
    ids = record_ids.Ids(name)
    lines = []
    for i, item in enumerate(given):
        where = f"{name}[{i}]"
        if isinstance(item, records.Record):
            item = item.to_json()
        if isinstance(item, Mapping):
            lines.append(_line(item, where))
        elif isinstance(item, str):
            # The ids that a reader makes of texts; written, so that a text may come back.
            made = ids.of_document(None, item, where)
            lines.append(json.dumps({"id": made, **record(item)}))
        else:
            raise UserError(f"{where} is {said(item)}; expected text")
    if not lines:
        raise UserError(f"{name} is empty; give at least one text")
    path = directory / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def _refuse_no_list(given: Any, name: str) -> None:
    """Refuses what iterates over something else than texts: a record over the names of its fields.

    Raises:
      UserError: with what to give in its place.
    """
    instead = None
    if hasattr(given, "columns"):
        instead = next((call for of, call in _TABLES.items() if hasattr(given, of)), None)
    if isinstance(given, Mapping | records.Record):
        instead = "a list of texts or of records; of one record, [record]"
    elif isinstance(given, set | frozenset):
        instead = "a list: a set has no order"
    elif isinstance(given, bytes | bytearray | memoryview):
        instead = "text, such as given.decode()"
    elif isinstance(given, io.IOBase):
        instead = "pathlib.Path of its name, to read it"
    else:
        try:
            iter(given)
        except TypeError:  # An array without dimensions has an __iter__ too.
            instead = instead or "a list of texts, or the path of a file"
    if instead is not None:
        raise UserError(f"{name} is {said(given)}; give {instead}")


def _line(record: Mapping[str, Any], where: str) -> str:
    """A record as a line of JSON, of the values that a row of an Arrow file would have."""
    try:
        return json.dumps(_plain(record, where))
    except UserError:
        raise
    except (TypeError, ValueError, RecursionError) as error:  # a name that is no text; a circle
        raise UserError(f"{where}: cannot be written as JSON: {in_one_line(error)}") from None


def _plain(value: Any, where: str) -> Any:
    """A value as JSON has it: null for the numbers that are none, with which pandas fills its gaps.

    Numbers and arrays of NumPy's are Python's; dates, times and decimals are text.
    """
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _plain(item, where) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    kind = type(value).__name__
    if kind in ("NaTType", "NAType"):  # of pandas; the first one is a date to Python
        return None
    if kind == "datetime64":
        return None if str(value) == "NaT" else str(value)
    if isinstance(value, _AS_TEXT):
        return str(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), where)
    raise UserError(
        f"{where}: holds {said(value)}, which no record can; give text, numbers, lists, dicts"
    )


def _refuse_place(text: str, name: str) -> None:
    """Refuses a text alone that may be meant as what names texts, whether it is there or not.

    Raises:
      UserError: with what to give for either.
    """
    if _may_be_place(text):
        raise UserError(
            f"{name}={text!r} may name a file; give pathlib.Path({text!r}) to read it, or "
            f"[{text!r}] to take it as the text"
        )


def _may_be_place(text: str) -> bool:
    if len(text) >= 1000 or "\n" in text or not text:
        return False
    place = _CHOICE.sub("", text)
    is_word = len(place.split()) == 1
    if _PLACE.fullmatch(place) or (is_word and place.endswith(row_formats.SUFFIXES)):
        return True
    try:
        if any(Path(one).exists() for one in (text, place)):
            return True
        return glob.has_magic(place) and bool(glob.glob(place))
    except (OSError, ValueError):
        return False
