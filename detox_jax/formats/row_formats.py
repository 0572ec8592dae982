"""Rows of a file in whatever format: JSON Lines, a JSON array, CSV, TSV, text, Arrow, TFDS.

A row is one record's fields, numbered from 1: by the line that it begins on in JSON Lines, CSV, TSV
and plain text, by its place in a JSON array, a Parquet or an Arrow file. The first bytes say what a
file is, where they can; CSV, TSV and plain text are told by their names. No file is held whole.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from detox_jax.errors import UserError, in_one_line
from detox_jax.formats import arrow_rows, json_array, jsonl, published, tfds_rows

COMPRESSED = ("", ".gz", ".zst")
_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".arrow")
SUFFIXES = tuple(suffix + end for suffix in _SUFFIXES for end in COMPRESSED)
KINDS = ("JSON Lines", "JSON arrays", "CSV", "TSV", "plain text", "Parquet", "Arrow")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_TEXT = ".txt"
_BY_LINE = (".jsonl", ".ndjson")
# A cell that is longer is an open quote.
_LONGEST = 1 << 26


@dataclasses.dataclass(frozen=True)
class RawRow:
    """A row that is not parsed yet, so that one that cannot be read can be set aside.

    Attributes:
      number: see this file's beginning.
      parse: returns the fields, or raises UserError.
      raw: returns the bytes, as they stand or as JSON.
    """

    number: int
    parse: Callable[[], Mapping[str, Any]]
    raw: Callable[[], bytes]


def rows(file: epath.Path, text_field: str = "text") -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yields `(number, fields)` of every row of a file.

    Args:
      file: in any of the formats, JSON, CSV and text compressed or not.
      text_field: the field that a line of plain text becomes.

    Raises:
      UserError: naming file and row, for what its format does not allow.
    """
    for row in raw_rows(file, text_field):
        yield row.number, row.parse()


def raw_rows(file: epath.Path, text_field: str = "text") -> Iterator[RawRow]:
    """Yields the rows of a file unparsed, see `rows`.

    Raises:
      UserError: for what makes the rest of the file unreadable too.
    """
    if tfds_rows.is_records(file):
        return _of_values(file, tfds_rows.rows(file))
    suffix = epath.Path(jsonl.plain_name(file.name)).suffix.lower()
    if suffix in _BY_LINE:  # An array there is one line that is damaged.
        return _json_lines(file)
    start = _start(file)
    if start.startswith(arrow_rows.STARTS):
        return _of_values(file, arrow_rows.rows(file, start))
    if suffix in (".parquet", ".arrow"):
        kind = "Parquet" if suffix == ".parquet" else "Arrow"
        raise UserError(
            f"{file}: does not begin as {kind} does (a damaged download, or a pointer of Git "
            "LFS?); fetch the file again"
        )
    if suffix in _DELIMITERS:
        return _delimited_rows(file, _DELIMITERS[suffix])
    first = start.lstrip()[:1]
    if first == b"[":
        return _of_values(file, json_array.rows(file))
    if first == b"{" and (values := published.bold_rows(file, start)) is not None:
        return _of_values(file, values)
    if suffix == _TEXT and first != b"{":
        return _text_rows(file, text_field)
    return _json_lines(file)


def kinds_by_name(files: Iterable[epath.Path]) -> list[str]:
    """The endings of those files whose name, and not their bytes, decides what a row is."""
    suffixes = {epath.Path(jsonl.plain_name(file.name)).suffix.lower() for file in files}
    return sorted(suffixes & {*_DELIMITERS, _TEXT})


def _start(file: epath.Path) -> bytes:
    """The first bytes of a file, decompressed, up to some that are no white space."""
    start = b""
    for block in jsonl.blocks(file):
        start += block
        if start.strip():
            break
    return start


def is_json_lines(file: epath.Path) -> bool:
    """Whether a file is JSON Lines by its name, whatever its bytes say."""
    suffix = epath.Path(jsonl.plain_name(file.name)).suffix.lower()
    return suffix in _BY_LINE and not tfds_rows.is_records(file)


def json_lines(name: str, lines: Iterable[tuple[int, bytes]]) -> Iterator[RawRow]:
    """Yields the rows of lines of JSON, with their numbers, of the file of that name."""
    for number, raw in lines:
        yield RawRow(
            number,
            lambda raw=raw, number=number: jsonl.parsed(raw, f"{name}:{number}"),
            lambda raw=raw: raw.rstrip(b"\r\n"),
        )


def _json_lines(file: epath.Path) -> Iterator[RawRow]:
    return json_lines(str(file), jsonl.raw_lines(file))


def _of_values(file: epath.Path, values: Iterable[Mapping[str, Any]]) -> Iterator[RawRow]:
    number = 0
    for number, value in enumerate(values, start=1):
        yield RawRow(
            number, lambda value=value: value, lambda value=value: json.dumps(value).encode()
        )
    if not number:
        raise UserError(f"{file}: empty; expected records")


# --- CSV, TSV and plain text ------------------------------------------------------------------


def _lines_of_text(file: epath.Path) -> Iterator[str]:
    for number, raw in jsonl.numbered_lines(file):
        try:
            yield raw.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file}:{number}: not UTF-8 (byte {error.start} of the line); convert the file "
                "(iconv -t UTF-8)"
            ) from None


def _text_rows(file: epath.Path, text_field: str) -> Iterator[RawRow]:
    """Lines that are not blank, each a text of its own."""
    number = 0
    for number, line in enumerate(_lines_of_text(file), start=1):
        if text := line.strip():
            yield RawRow(number, lambda t=text: {text_field: t}, lambda t=text: t.encode())
    if not number:
        raise UserError(f"{file}: empty; expected one text a line")


def _delimited_rows(file: epath.Path, delimiter: str) -> Iterator[RawRow]:
    """Rows under a header, quoted as RFC 4180 says; a quote that never ends is refused."""
    csv.field_size_limit(_LONGEST)
    reader = csv.reader(_lines_of_text(file), delimiter=delimiter, strict=True)
    names: list[str] = []
    number, num_rows = 1, 0
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{file}:{number}: not {'TSV' if delimiter != ',' else 'CSV'}: "
                f"{in_one_line(error)}; in a cell that holds a quote, quote the cell and double "
                "the quote"
            ) from None
        if cells is None:
            break
        if cells and not names:
            names = _header(cells, f"{file}:{number}")
        elif cells:
            num_rows += 1
            yield _delimited_row(names, cells, f"{file}:{number}", number)
        number = reader.line_num + 1
    if not num_rows:
        raise UserError(f"{file}: no row below the header; expected names of columns and records")


def _header(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(names) == 1 and (other := re.search("[;\t|]", names[0])):
        raise UserError(
            f"{where}: the only column is {names[0]!r}; separate columns by commas (.csv) or tabs "
            f"(.tsv), not by {other[0]!r}"
        )
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{where}: the header names the column {twice!r} twice; rename one")
    return names


def _delimited_row(names: list[str], cells: list[str], where: str, number: int) -> RawRow:
    def parse() -> dict[str, Any]:
        if len(cells) != len(names):
            raise UserError(
                f"{where}: {len(cells)} cells below a header of {len(names)} columns; quote cells "
                "that hold the delimiter"
            )
        return {name: _typed(name, cell) for name, cell in zip(names, cells, strict=True)}

    return RawRow(number, parse, lambda: json.dumps(cells).encode())


def _typed(name: str, cell: str) -> Any:
    """A cell as JSON would hold it, in the columns that are no text."""
    if name in ("id", "toxicity", "challenging", "unreadable") and not cell:
        return False if name == "unreadable" else None
    if name == "toxicity":
        try:
            return float(cell)
        except ValueError:
            return cell
    if name in ("challenging", "unreadable"):
        return {"true": True, "1": True, "false": False, "0": False}.get(cell.lower(), cell)
    return cell
