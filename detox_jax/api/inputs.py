"""Texts and prompts that Python gives, as the files that the verbs read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detox_jax.errors import UserError
from detox_jax.formats import record_ids

# One text, several, records as their files hold them, or the path of a file.
Texts = str | Sequence[str] | Sequence[Mapping[str, Any]] | os.PathLike[str]


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
    if not isinstance(given, Iterable):
        raise UserError(f"{name} is {given!r}; give a list of texts, or the path of a file")
    ids = record_ids.Ids(name)
    lines = []
    for i, item in enumerate(given):
        if isinstance(item, Mapping):
            lines.append(json.dumps(dict(item)))
        elif isinstance(item, str):
            # The ids that a reader makes of texts; written, so that a text may come back.
            made = ids.of_document(None, item, f"{name}[{i}]")
            lines.append(json.dumps({"id": made, **record(item)}))
        else:
            raise UserError(f"{name}[{i}] is {item!r}; expected text")
    if not lines:
        raise UserError(f"{name} is empty; give at least one text")
    path = directory / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


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
