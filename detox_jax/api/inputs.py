"""Texts and prompts that Python gives, as the files that the verbs read."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detox_jax import records
from detox_jax.api.calls import said
from detox_jax.errors import UserError, in_one_line
from detox_jax.formats import record_ids

# One text, several, records as their files hold them or as a result does, or the path of a file.
Texts = str | Sequence[str] | Sequence[Mapping[str, Any] | records.Record] | os.PathLike[str]

# Tables, of polars, Arrow and pandas: they iterate over columns. By what makes records of them.
_TABLES = {
    "to_dicts": "df.to_dicts()",
    "to_pylist": "table.to_pylist()",
    "to_dict": 'df.to_dict("records")',
}


def text_file(texts: Texts, directory: Path, name: str = "texts") -> str:
    """The documents as a file of JSON Lines, or the file that they are in.

    Args:
      texts: documents; a mapping is a record as it stands in a file, `{"id", "text"}`.
      directory: where the file is written.
      name: of the argument, for errors, and of the file.

    Raises:
      UserError: for what is no text, or the name of a file where a path is meant.
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
        return os.fspath(given)
    if isinstance(given, str):
        _refuse_file_name(given, name)
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
    """A record as a line of JSON; numbers and arrays of NumPy's are Python's."""

    def plain(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        raise UserError(
            f"{where}: holds {said(value)}, which no record can; give text, numbers, lists, dicts"
        )

    try:
        return json.dumps(dict(record), default=plain)
    except UserError:
        raise
    except (TypeError, ValueError, RecursionError) as error:  # a name that is no text; a circle
        raise UserError(f"{where}: cannot be written as JSON: {in_one_line(error)}") from None


def _refuse_file_name(text: str, name: str) -> None:
    try:
        is_file = len(text) < 1000 and "\n" not in text and bool(text) and Path(text).exists()
    except (OSError, ValueError):
        return
    if is_file:
        raise UserError(
            f"{name}={text!r} is there as a file; give pathlib.Path({text!r}) to read it, or "
            f"[{text!r}] to take its name as the text"
        )
