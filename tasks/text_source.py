"""Documents of files as a source of seqio's: our JSON Lines and plain text, validated as read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from etils import epath

from detox_jax import bad_records as bad_records_lib
from detox_jax import manifests, output_settings, records
from detox_jax.errors import UserError
from detox_jax.formats import jsonl
from detox_jax.tags import Tags
from tasks.memory_source import InOrder, MemorySource, read_once

TEXTS_AT_ONCE = 512


class TextSource(MemorySource):
    """Documents read whole into memory, validated on the way; any number of hosts share them.

    Attributes:
      files: what to read for each split; None for the one that the environment variable names.
      read: yields the id and the `columns` of a source.
      variable: name of that environment variable.
      tags: behind which the documents stand, see `tagged`; None where they stand behind none.
    """

    tags: Tags | None = None
    columns: ClassVar[tuple[str, ...]] = ("text",)

    def __init__(
        self,
        files: Mapping[str, str | None],
        read: Callable[..., Iterator[tuple[Any, ...]]],
        variable: str,
        bad_records: bad_records_lib.BadRecords = bad_records_lib.REFUSE,
    ):
        super().__init__(splits=tuple(files))
        self._files = dict(files)
        self._read = read
        self._variable = variable
        self._policy = bad_records

    def path(self, split: str) -> str:
        """Where a split's documents are."""
        if split not in self._files:
            raise UserError(f"no split {split!r}; there are {', '.join(self._files)}")
        path = self._files[split] or os.environ.get(self._variable)
        if not path:
            raise UserError(
                f"no documents: set INPUT, or the environment variable {self._variable}"
            )
        return path

    def describe(self, split: str) -> dict[str, Any]:
        """The hash of what is read, for manifests; where it lies does not matter."""
        if self._reads_text:
            hashed = {"sha256": manifests.hash_files(_text_files(self.path(split)))}
        else:
            hashed = described(self.path(split))
        _, aside = self._documents(split) if self._sets_aside else (None, None)
        if aside is None:
            return hashed
        policy = bad_records_lib.settings(self._policy)["bad_records"]
        return {**hashed, "bad_records": {**policy, **aside.counts()["bad_records"]}}

    def _read_split(self, split: str, *aside: bad_records_lib.Aside) -> Iterator[tuple[Any, ...]]:
        """The id and the `columns` of a split's documents."""
        return self._read(self.path(split), *aside)

    @property
    def _reads_text(self) -> bool:
        return self._read in (read_lines, read_paragraphs)

    @property
    def _sets_aside(self) -> bool:
        return isinstance(self._policy, bad_records_lib.SetAside)

    def count(self, split: str) -> int:
        """How many documents a split has."""
        return len(self._documents(split)[0])

    def list_shards(self, split: str) -> list[str]:
        """The files of a split."""
        files = _text_files if self._reads_text else records.resolve_files
        return [str(file) for file in files(self.path(split))]

    def all_examples(self, split: str, in_order: InOrder = list) -> tf.data.Dataset:
        """Examples `{"id", "position"}` and the columns."""
        rows, _ = self._documents(split)
        positions = in_order(range(len(rows)))
        ordered = [rows[position] for position in positions]
        names = ("id", *self.columns)
        columns: Any = {
            name: list(column)
            for name, column in zip(names, zip(*ordered, strict=True), strict=True)
        }
        columns["position"] = np.array(positions, np.int64)
        return tf.data.Dataset.from_tensor_slices(columns)

    @read_once
    def _documents(self, split: str) -> tuple[list[tuple[Any, ...]], bad_records_lib.Aside | None]:
        path = self.path(split)
        aside = bad_records_lib.opened(self._policy)
        texts = self._read_split(split, *(() if aside is None else (aside,)))
        rows = [
            (name, *map(_encoded, (text, *others))) for name, text, *others in texts if text.strip()
        ]
        if not rows:
            raise UserError(f"{path}: holds no text")
        return rows, aside


def splits(files: str | None, validation_files: str | None) -> dict[str, str | None]:
    """The files of each split of a task; without a validation split where those are None."""
    train = {"train": files}
    return train if validation_files is None else {**train, "validation": validation_files}


def _encoded(value: Any) -> Any:
    return value.encode("utf-8", "replace") if isinstance(value, str) else value


def described(source: str) -> dict[str, Any]:
    """What a manifest says of an input of a task; where it lies does not matter."""
    kept = records.describe_input(source)
    names = "sha256", "fields", output_settings.READ_AS
    return {name: value for name, value in kept.items() if name in names}


def _text_files(path: str) -> list[epath.Path]:
    file = epath.Path(path)
    is_glob = "*" in file.name and not file.exists()
    files = sorted(file.parent.glob(file.name)) if is_glob else [file]
    if not files or not all(file.exists() for file in files):
        raise UserError(f"{path}: no such text file")
    return files


def read_jsonl_documents(
    path: str, aside: bad_records_lib.Aside | None = None
) -> Iterator[tuple[str, str]]:
    """`(id, text)` of JSON Lines documents."""
    for document in records.read_documents(path, aside):
        yield document.id, document.text


def read_lines(path: str) -> Iterator[tuple[str, str]]:
    """`(id, text)` of plain text, one document a line."""
    return _read_text(path, "\n")


def read_paragraphs(path: str) -> Iterator[tuple[str, str]]:
    """`(id, text)` of plain text, documents separated by blank lines."""
    return _read_text(path, "\n\n")


def _read_text(path: str, separator: str) -> Iterator[tuple[str, str]]:
    for file in _text_files(path):
        try:
            text = (content := jsonl.read_bytes(file)).decode()
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise UserError(f"{file}:{line}: not UTF-8") from None
        for i, part in enumerate(text.replace("\r\n", "\n").split(separator)):
            yield f"{file.name}-{i}", part.strip()
