"""Records of a source by the block, for verbs whose memory must not grow with their input.

What is read, and what is refused with which words, is what `records` reads and refuses. Documents
that are plain come as they stand in their lines (`plain_documents`), all others as records. Of ids
only hashes are held: where two agree, or anything is wrong, `records` reads the source again and
says what.
"""

from __future__ import annotations

import array
import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Set
from typing import Any

import numpy as np
from etils import epath

from detox_jax import records, terminal
from detox_jax import sources as sources_lib
from detox_jax.bad_records import Aside
from detox_jax.errors import UserError
from detox_jax.formats import (
    foreign_files,
    jsonl,
    plain_documents,
    plain_prompts,
    record_ids,
    row_formats,
)

_RECORDS_AT_ONCE = 500


Block = plain_documents.Plain | list[records.Record]
PromptBlock = plain_prompts.Plain | list[records.Prompt]


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a source is read as.

    Attributes:
      plain: takes apart whole lines of nothing else.
      read: reads, and refuses, any records.
      refused: what none of the records may be.
      text_field: what a line of plain text is.
    """

    plain: Callable[[bytes], Any]
    read: Callable[..., Iterator[records.Record]]
    refused: tuple[type, ...] = ()
    text_field: str = "text"


_RECORDS = _Kind(plain_documents.read, records.read_records)
_DOCUMENTS = _Kind(plain_documents.read, records.read_documents, (records.Prompt,))
_PROMPTS = _Kind(plain_prompts.read, records.read_prompts, (records.Document,), "prompt")


def _kind(documents: bool) -> _Kind:
    return _DOCUMENTS if documents else _RECORDS


def read_by_file(
    source: str, aside: Aside | None = None, *, documents: bool = False, again: bool = False
) -> Iterator[tuple[epath.Path, Iterator[Block]]]:
    """Yields each file of `source` with its blocks, to be read before the next file is.

    Args:
      source: see `sources`.
      aside: takes the records that cannot be read, see `bad_records`; they are refused where None.
      documents: refuse prompts, as `records.read_documents` does.
      again: the source was read to its end before, and what it says is not to be said again.

    Raises:
      UserError: as `records.read_records`; for an id seen before when all files are read.
    """
    kind = _kind(documents)
    reading = _Reading(sources_lib.resolve(source), source, aside, kind, again)
    yield from reading.files()


def first(
    source: str, limit: int | None, aside: Aside | None = None, *, documents: bool = False
) -> Iterator[Block]:
    """Yields all records of `source`, or the first few, for the check before a verb's work.

    Args:
      source: see `sources`.
      limit: how many records; all where it is None.
      aside: see `read_by_file`.
      documents: see `read_by_file`.

    Raises:
      UserError: as `records.read_records`, for what is wrong in those that are read.
    """
    if limit is None:
        for _, blocks in read_by_file(source, aside, documents=documents):
            yield from blocks
        return
    # A few are read one by one: a block would hold more.
    if few := [*itertools.islice(_kind(documents).read(source, aside), limit)]:
        yield few


def read_prompts(source: str, fields: Collection[str] = ()) -> Iterator[PromptBlock]:
    """Yields the prompts of `source` by the block.

    Args:
      source: see `sources`.
      fields: of the records that plain prompts keep, see `plain_prompts.read`.

    Raises:
      UserError: as `records.read_prompts`; for an id seen before when all files are read.
    """
    plain = functools.partial(plain_prompts.read, fields=fields)
    kind = dataclasses.replace(_PROMPTS, plain=plain)
    reading = _Reading(sources_lib.resolve(source), source, None, kind, again=False)
    for _, blocks in reading.files():
        yield from blocks


def prompts_of(source: str, ids: Set[str], is_plain: bool) -> Iterator[records.Prompt]:
    """Yields the prompts of those ids.

    Args:
      source: one that was read.
      ids: the few that are wanted.
      is_plain: whether `read_prompts` read nothing but plain prompts: only the lines of those ids
        are then parsed.
    """
    if not is_plain:
        yield from (prompt for prompt in records.read_prompts(source) if prompt.id in ids)
        return
    wanted = {id.encode() for id in ids}
    for file in records.resolve_files(source):
        for _, block in jsonl.line_blocks(file):
            for line in plain_prompts.lines_of(block, wanted):
                prompt = records.parse_record(jsonl.parsed(line, str(file)), str(file))
                if isinstance(prompt, records.Prompt) and prompt.id in ids:
                    yield prompt


def in_groups(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """The same records in groups of a size, of which the last may be smaller.

    A group of plain documents and others is one of records.
    """
    held: Block = []
    for block in blocks:
        first = size - len(held) if held else 0
        if first:
            held = _joined(held, _part(block, 0, first))
            if len(held) < size:
                continue
            yield held
        whole = first + (len(block) - first) // size * size
        for start in range(first, whole, size):
            yield _part(block, start, start + size)
        held = _part(block, whole, len(block))
    if held:
        yield held


def _part(block: Block, first: int, end: int) -> Block:
    return block[first:end] if isinstance(block, list) else block.part(first, end)


def _joined(one: Block, other: Block) -> Block:
    if isinstance(one, list) or isinstance(other, list):
        return [*as_records(one), *as_records(other)]
    return one.followed_by(other)


def as_records(block: Block) -> list[records.Record]:
    """The same as `records` reads them."""
    if isinstance(block, list):
        return block
    each = zip(block.ids, block.texts(), block.scores, strict=True)
    return [records.Document(id, text, score) for id, text, score in each]


def _encoded_ids(block: Block | PromptBlock) -> Iterable[bytes]:
    if isinstance(block, plain_documents.Plain):
        return block.encoded_ids
    ids = [record.id for record in block] if isinstance(block, list) else block.ids
    return (id.encode() for id in ids)


class _Reading:
    """One reading of a source."""

    def __init__(
        self,
        opened: sources_lib.Source,
        source: str,
        aside: Aside | None,
        kind: _Kind,
        again: bool,
    ):
        self._opened, self._source, self._aside = opened, source, aside
        self._kind, self._again = kind, again
        self._ids = record_ids.Ids(source)
        self._reader = foreign_files.Reader(says=not again)
        self._hashes = array.array("q")

    def files(self) -> Iterator[tuple[epath.Path, Iterator[Any]]]:
        """The files with their blocks; behind them what is wrong with all together is refused."""
        for file in self._opened.files:
            yield file, self.of_file(file)
        if not self._again and self.repeats():
            self.refuse()
        if self._aside is not None:
            self._aside.finish(self._source, [str(file) for file in self._opened.files])

    def of_file(self, file: epath.Path) -> Iterator[Any]:
        """The blocks of a file."""
        if self._aside is not None:
            self._aside.begin(str(file))
        try:
            for block in self._blocks(file):
                if not self._again:
                    self._remember(block)
                yield block
        except UserError:
            self.refuse()
            raise

    def repeats(self) -> bool:
        """Whether two ids may be the same: their hashes are."""
        hashes_N = np.sort(np.frombuffer(self._hashes, np.int64)) if self._hashes else np.zeros(0)
        return bool(np.any(hashes_N[1:] == hashes_N[:-1]))

    def refuse(self) -> None:
        """Raises what `records` says of the source, if it says anything."""
        for _ in self._kind.read(self._source, self._aside):
            pass

    def _remember(self, block: Any) -> None:
        self._hashes.extend(map(hash, _encoded_ids(block)))

    def _blocks(self, file: epath.Path) -> Iterator[Any]:
        """The plain records with which a file begins, then the rest of it as records."""
        choice, rest = self._opened.choice, None
        if row_formats.is_json_lines(file) and not choice.fields:
            rest = iter(jsonl.line_blocks(file))
            is_plain = False
            for number, raw in rest:
                if (block := self._kind.plain(raw)) is None:
                    rest = itertools.chain([(number, raw)], rest)
                    break
                is_plain = True
                if self._aside is not None:
                    self._aside.count(str(file), len(block))
                terminal.has_read(len(block))
                yield block
            else:
                rest = iter(()) if is_plain else None
            rest = rest if is_plain else None
        if rest is None:
            raw_rows = row_formats.raw_rows(file, self._kind.text_field)
        else:
            raw_rows = row_formats.json_lines(str(file), jsonl.lines_of_blocks(rest))
        yield from self._records(file, raw_rows)

    def _records(
        self, file: epath.Path, raw_rows: Iterator[row_formats.RawRow]
    ) -> Iterator[list[records.Record]]:
        text_field, is_last = self._kind.text_field, file is self._opened.files[-1]
        rows = records.parsed_rows(self._opened, str(file), raw_rows, self._aside, text_field)
        read = self._expected(
            records.of_rows(str(file), rows, self._reader, self._ids, is_last, text_field)
        )
        while group := list(itertools.islice(read, _RECORDS_AT_ONCE)):
            yield group

    def _expected(self, read: Iterator[records.Record]) -> Iterator[records.Record]:
        for record in read:
            if isinstance(record, self._kind.refused):
                self.refuse()
            yield record
