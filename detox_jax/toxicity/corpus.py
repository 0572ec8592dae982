"""Scored documents to choose among: numbers in memory, texts in a file of the run's own.

`filter` chooses by numbers: scores, lengths, hashes of ids. What it holds of a document is a few of
them, whatever the document's length; the lines lie one behind the other in a file without a name,
which goes with the process, and those that are chosen are read from there as they are written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, overload

import numpy as np

from detox_jax import atomic_files, errors, record_blocks, records, segmenters
from detox_jax.bad_records import Aside
from detox_jax.errors import UserError
from detox_jax.formats import plain_documents
from detox_jax.segmenters import Segmenter

_READ_AT_ONCE = 1000
# Bytes of the lines that are held to be written, each line counted as so many more: what Python's
# objects take. The more there are, the closer together they lie in the file.
_WRITTEN_AT_ONCE, _OBJECTS = 1 << 24, 160
_REWRITTEN_AT_ONCE = 1 << 20  # bytes of lines that are taken apart together
# Lines so few bytes apart are read in one piece, of which none is much longer than the second.
_GAP, _PIECE = 1 << 12, 1 << 20


def num_words(document: records.Document, segmenter: Segmenter | None = None) -> int:
    """See `segmenters.num_words`."""
    return segmenters.num_words(document.text, segmenter)


@dataclasses.dataclass(frozen=True)
class _Columns:
    """What is held of D documents.

    Attributes:
      toxicity_D: float64, NaN for one without a score.
      hash_D: `records.stable_hash` of the ids, uint64.
      words_D: int32.
      starts_D: where their lines begin in the file, int64.
      sizes_D: the bytes of their lines, int64.
      is_as_written_D: whether their lines there are as we write them; others are to be rewritten.
    """

    toxicity_D: np.ndarray
    hash_D: np.ndarray
    words_D: np.ndarray
    starts_D: np.ndarray
    sizes_D: np.ndarray
    is_as_written_D: np.ndarray


class Lines:
    """Lines that are written once, and then read in any order; the file has no name.

    Args:
      directory: whose disk holds it; the machine's own place for such files where None.
    """

    def __init__(self, directory: str | None):
        self._directory = directory
        with errors.writing(directory):
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=directory)
        self._size = 0

    def add(self, lines: bytes, sizes_N: np.ndarray) -> np.ndarray:
        """Appends whole lines of some sizes in bytes; where they begin, int64 [N]."""
        with errors.writing(self._directory):
            self._file.write(lines)
        starts_N = self._size + np.cumsum(sizes_N) - sizes_N
        self._size += len(lines)
        return starts_N

    def flush(self) -> None:
        """Makes what was added readable."""
        with errors.writing(self._directory):
            self._file.flush()

    def read(self, starts_N: np.ndarray, sizes_N: np.ndarray) -> list[bytes]:
        """Lines, in the order that is asked for; read in the order in which they lie there."""
        lines = [b""] * len(starts_N)
        file = self._file.fileno()
        order_N = np.argsort(starts_N)
        first_N, end_N = starts_N[order_N], (starts_N + sizes_N)[order_N]
        is_apart_N = np.zeros(len(lines), bool)
        is_apart_N[1:] = (first_N[1:] - end_N[:-1] > _GAP) | (np.diff(first_N // _PIECE) > 0)
        order, firsts, ends = order_N.tolist(), first_N.tolist(), end_N.tolist()
        for begin, behind in _runs(np.cumsum(is_apart_N)):
            offset = firsts[begin]
            piece = os.pread(file, ends[behind - 1] - offset, offset)
            for i in range(begin, behind):
                lines[order[i]] = piece[firsts[i] - offset : ends[i] - offset]
        return lines


def _runs(keys_N: np.ndarray) -> Iterable[tuple[int, int]]:
    """Where each run of equal keys begins and ends."""
    borders = [0, *(np.flatnonzero(np.diff(keys_N)) + 1).tolist(), len(keys_N)]
    return itertools.pairwise(borders) if len(keys_N) else ()


@dataclasses.dataclass(frozen=True)
class Corpus(Sequence[records.Document]):
    """Documents by place; one that is asked for is read from the file.

    Attributes:
      columns: of all documents that were read.
      lines: of the same.
      places_N: which of them these documents are, in their order.
    """

    columns: _Columns
    lines: Lines
    places_N: np.ndarray

    def __len__(self) -> int:
        return len(self.places_N)

    @overload
    def __getitem__(self, index: int) -> records.Document: ...
    @overload
    def __getitem__(self, index: slice) -> Corpus: ...
    def __getitem__(self, index: Any) -> records.Document | Corpus:
        if isinstance(index, slice):
            return dataclasses.replace(self, places_N=self.places_N[index])
        (line,) = self._raw(self.places_N[[index]])
        return _document(line)

    def __iter__(self) -> Iterator[records.Document]:
        for first in range(0, len(self), _READ_AT_ONCE):
            yield from map(_document, self._raw(self.places_N[first : first + _READ_AT_ONCE]))

    def encoded(self) -> Iterator[list[bytes]]:
        """The lines as they are written, many at once."""
        sizes_N = self.columns.sizes_D[self.places_N] + _OBJECTS
        groups_N = np.cumsum(sizes_N) // _WRITTEN_AT_ONCE
        for first, end in _runs(groups_N):
            places_N = self.places_N[first:end]
            lines = self._raw(places_N)
            others = np.flatnonzero(~self.columns.is_as_written_D[places_N])
            other_sizes = self.columns.sizes_D[places_N[others]]
            for begin, behind in _runs(np.cumsum(other_sizes) // _REWRITTEN_AT_ONCE):
                part = others[begin:behind].tolist()
                rewritten = plain_documents.rewritten([lines[i] for i in part])
                for i, line in zip(part, rewritten, strict=True):
                    lines[i] = line
            yield lines

    def _raw(self, places_N: np.ndarray) -> list[bytes]:
        return self.lines.read(self.columns.starts_D[places_N], self.columns.sizes_D[places_N])


def _document(line: bytes) -> records.Document:
    """What a line holds, which is plain or as we write it."""
    fields = json.loads(line)
    score = fields.pop("toxicity", None)
    return records.Document(
        fields.pop("id"),
        fields.pop("text"),
        None if score is None else float(score),
        fields,
        fields.pop("unreadable", False),
    )


# --- documents in memory, or in a file --------------------------------------------------------


def taken(documents: Sequence[records.Document], positions: Iterable[int]) -> Any:
    """The documents at some positions, in their order: a list of a list, a corpus of a corpus."""
    if isinstance(documents, Corpus):
        is_array = isinstance(positions, np.ndarray)
        chosen = positions if is_array else np.fromiter(positions, np.int64)
        return dataclasses.replace(documents, places_N=documents.places_N[chosen])
    return [documents[i] for i in positions]


def toxicity_of(documents: Sequence[records.Document]) -> np.ndarray:
    """The scores, float64 [N]; NaN for one without."""
    if isinstance(documents, Corpus):
        return documents.columns.toxicity_D[documents.places_N]
    return np.array([np.nan if d.toxicity is None else d.toxicity for d in documents], np.float64)


def hashes_of(documents: Sequence[records.Document]) -> np.ndarray:
    """`records.stable_hash` of the ids, uint64 [N]."""
    if isinstance(documents, Corpus):
        return documents.columns.hash_D[documents.places_N]
    return _hashes(document.id.encode() for document in documents)


def words_of(documents: Sequence[records.Document]) -> np.ndarray:
    """The lengths in words, int64 [N]."""
    if isinstance(documents, Corpus):
        return documents.columns.words_D[documents.places_N].astype(np.int64)
    return _num_words((document.text for document in documents), None)


def encoded(documents: Sequence[records.Document], size: int) -> Iterator[Iterator[bytes]]:
    """The documents as they are written, by the shard: many lines in each of the bytes.

    Args:
      documents: in their order.
      size: documents of a shard, of which the last may have fewer; each shard is to be taken to its
        end before the next one is.
    """
    many = (
        documents.encoded()
        if isinstance(documents, Corpus)
        else [atomic_files.encode_lines(documents)]
    )
    pieces = _pieces(many, size)
    for _, shard in itertools.groupby(pieces, key=lambda piece: piece[0]):
        yield (lines for _, lines in shard)


def _pieces(many: Iterable[list[bytes]], size: int) -> Iterator[tuple[int, bytes]]:
    """Lines joined as far as they go into one shard, with its number."""
    number = 0
    for lines in filter(None, many):
        ends = range(number // size * size + size - number, len(lines), size)
        for first, end in itertools.pairwise([0, *ends, len(lines)]):
            yield (number + first) // size, b"".join(lines[first:end])
        number += len(lines)


# --- reading ----------------------------------------------------------------------------------


def read(
    input: str,
    aside: Aside | None,
    directory: str | None,
    segmenter: Segmenter | None = None,
) -> Corpus:
    """All documents of an input.

    Args:
      input: see `sources`.
      aside: see `records.read_records`.
      directory: see `Lines`.
      segmenter: of words; white space alone where None.

    Raises:
      UserError: as `records.read_documents`.
    """
    lines = Lines(directory)
    # Of each column its parts, the first of them empty: there may be no document.
    kinds = (np.float64, np.uint64, np.int32, np.int64, np.int64, np.bool_)
    parts = [[np.zeros(0, kind)] for kind in kinds]
    for _, blocks in record_blocks.read_by_file(input, aside, documents=True):
        for block in blocks:
            columns = _columns(block, lines, segmenter)
            for part, column, kind in zip(parts, columns, kinds, strict=True):
                part.append(column.astype(kind, copy=False))
    lines.flush()
    # One column after the other, whose parts are let go.
    whole = [np.concatenate(parts.pop(0)) for _ in kinds]
    return Corpus(_Columns(*whole), lines, np.arange(len(whole[0])))


def _columns(
    block: record_blocks.Block, lines: Lines, segmenter: Segmenter | None
) -> tuple[np.ndarray, ...]:
    """The columns of a block, whose lines are added to the others."""
    if isinstance(block, plain_documents.Plain):
        sizes = np.diff(block.places.lines_L2)[:, 0]
        return (
            block.scores_D,
            _hashes(block.encoded_ids),
            block.num_words() if segmenter is None else _num_words(block.texts(), segmenter),
            lines.add(block.lines, sizes),
            sizes,
            block.is_as_written_D,
        )
    documents = [record for record in block if isinstance(record, records.Document)]
    if len(documents) < len(block):  # `record_blocks` refuses them.
        raise UserError("prompts among documents")
    raw = atomic_files.encode_lines(documents)
    sizes = np.array([len(line) for line in raw], np.int64)
    return (
        toxicity_of(documents),
        hashes_of(documents),
        _num_words((document.text for document in documents), segmenter),
        lines.add(b"".join(raw), sizes),
        sizes,
        np.ones(len(raw), bool),
    )


def _hashes(ids: Iterable[bytes]) -> np.ndarray:
    """`records.stable_hash` of each id, uint64 [N]."""
    digests = b"".join([hashlib.sha256(id).digest() for id in ids])
    return np.frombuffer(digests, ">u8")[::4].astype(np.uint64)


def _num_words(texts: Iterable[str], segmenter: Segmenter | None) -> np.ndarray:
    """`segmenters.num_words` of each text, int64 [N]."""
    return np.array([segmenters.num_words(text, segmenter) for text in texts], np.int64)


def has_scores(block: record_blocks.Block) -> bool:
    """Whether any document of a block has a score."""
    if isinstance(block, plain_documents.Plain):
        return not np.all(np.isnan(block.scores_D))
    return any(isinstance(d, records.Document) and d.toxicity is not None for d in block)
