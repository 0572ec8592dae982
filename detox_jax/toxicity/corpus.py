"""Scored documents to choose among: numbers in memory, texts in a file of the run's own.

`filter` chooses by numbers: scores, lengths, hashes of ids. What it holds of a document is a few of
them, whatever the document's length; the lines lie one behind the other in a file without a name,
which goes with the process, and those that are chosen are read from there as they are written.
"""

from __future__ import annotations

import dataclasses
import hashlib
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
# Of bytes: what `str.split` parts ASCII words by, and what stands between texts.
_IS_WHITE = np.array([not chr(byte).strip() or not byte for byte in range(128)] + [False] * 128)


def num_words(document: records.Document, segmenter: Segmenter | None = None) -> int:
    """Words of a document, as white space parts them, and a segmenter where there is one."""
    return len(segmenters.spaced(document.text, segmenter).split())


@dataclasses.dataclass(frozen=True)
class _Columns:
    """What is held of D documents.

    Attributes:
      toxicity_D: float64, NaN for one without a score.
      hash_D: `records.stable_hash` of the ids, uint64.
      words_D: int32.
      starts_D: where their lines begin in the file, int64.
      sizes_D: the bytes of their lines, int64.
    """

    toxicity_D: np.ndarray
    hash_D: np.ndarray
    words_D: np.ndarray
    starts_D: np.ndarray
    sizes_D: np.ndarray


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

    def add(self, block: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Appends whole lines; where they begin, and how many bytes they are."""
        with errors.writing(self._directory):
            self._file.write(block)
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
        sizes = np.diff(ends, prepend=0)
        starts = self._size + ends - sizes
        self._size += len(block)
        return starts, sizes

    def flush(self) -> None:
        """Makes what was added readable."""
        with errors.writing(self._directory):
            self._file.flush()

    def read(self, starts_N: np.ndarray, sizes_N: np.ndarray) -> list[bytes]:
        """Lines, in the order that is asked for; read in the order in which they lie there."""
        lines = [b""] * len(starts_N)
        file = self._file.fileno()
        order = np.argsort(starts_N).tolist()
        starts, sizes = starts_N.tolist(), sizes_N.tolist()
        for i in order:
            lines[i] = os.pread(file, sizes[i], starts[i])
        return lines


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

    def encoded(self) -> Iterator[bytes]:
        """See `encoded`."""
        for first in range(0, len(self), _READ_AT_ONCE):
            places_N = self.places_N[first : first + _READ_AT_ONCE]
            scores = self.columns.toxicity_D[places_N].tolist()
            yield b"".join(plain_documents.as_written(self._raw(places_N), scores))

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
        chosen = np.fromiter(positions, np.int64)
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
    return np.array([records.stable_hash(d.id) for d in documents], np.uint64)


def words_of(documents: Sequence[records.Document]) -> np.ndarray:
    """The lengths in words, int64 [N]."""
    if isinstance(documents, Corpus):
        return documents.columns.words_D[documents.places_N].astype(np.int64)
    return np.array([num_words(d) for d in documents], np.int64)


def encoded(documents: Sequence[records.Document]) -> Iterable[bytes]:
    """The documents as they are written, many lines of them in each of the bytes."""
    if isinstance(documents, Corpus):
        return documents.encoded()
    return atomic_files.encode_lines(documents)


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
    kinds = (np.float64, np.uint64, np.int32, np.int64, np.int64)
    parts = [[np.zeros(0, kind)] for kind in kinds]
    for _, blocks in record_blocks.read_by_file(input, aside, documents=True):
        for block in blocks:
            raw, ids, texts, scores = _taken_apart(block)
            digests = b"".join([hashlib.sha256(id.encode()).digest() for id in ids])
            columns = (
                np.array(scores, np.float64),  # None is NaN.
                np.frombuffer(digests, ">u8")[::4].astype(np.uint64),
                _num_words(texts, segmenter),
                *lines.add(raw),
            )
            for part, column in zip(parts, columns, strict=True):
                part.append(column)
    lines.flush()
    # One column after the other, whose parts are let go.
    whole = [np.concatenate(parts.pop(0)) for _ in kinds]
    return Corpus(_Columns(*whole), lines, np.arange(len(whole[0])))


def _num_words(texts: Sequence[str], segmenter: Segmenter | None) -> np.ndarray:
    """`num_words` of each text, int32 [N]; of ASCII texts counted in their bytes."""
    if segmenter is not None:
        texts = [segmenter.spaced(text) for text in texts]
    bytes_B = np.frombuffer("\0".join(texts).encode("utf-8", "surrogatepass"), np.uint8)
    ends = np.flatnonzero(bytes_B == 0)
    if len(ends) != len(texts) - 1:  # A text holds such a character of its own.
        return np.fromiter(map(len, map(str.split, texts)), np.int32, len(texts))
    white_B = _IS_WHITE[bytes_B]
    starts = np.flatnonzero(~white_B & np.concatenate([[True], white_B[:-1]]))
    edges = np.concatenate([[0], ends, [len(bytes_B)]])
    counts = np.diff(np.searchsorted(starts, edges)).astype(np.int32)
    others = np.searchsorted(ends, np.flatnonzero(bytes_B >= 128))
    for i in map(int, np.unique(others)):
        counts[i] = len(texts[i].split())
    return counts


def has_scores(block: record_blocks.Block) -> bool:
    """Whether any document of a block has a score."""
    if isinstance(block, plain_documents.Plain):
        return any(score is not None for score in block.scores)
    return any(isinstance(d, records.Document) and d.toxicity is not None for d in block)


def _taken_apart(
    block: record_blocks.Block,
) -> tuple[bytes, Sequence[str], Sequence[str], Sequence[float | None]]:
    """The lines, the ids, the texts and the scores of a block."""
    if isinstance(block, plain_documents.Plain):
        return block.lines, block.ids, block.texts(), block.scores
    documents = [record for record in block if isinstance(record, records.Document)]
    if len(documents) < len(block):  # `record_blocks` refuses them.
        raise UserError("prompts among documents")
    raw = b"".join(atomic_files.encode_lines(documents))
    texts = [document.text for document in documents]
    return raw, [d.id for d in documents], texts, [d.toxicity for d in documents]
