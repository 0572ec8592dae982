"""Filled sheets, read back as spreadsheets save them, and checked against the key.

A spreadsheet may change delimiter, encoding, line ends, order of rows and columns, letter case of
answers, and add empty columns and rows; all of that is read. What could change a result is refused
with file and row.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence

from etils import epath

from detox_jax.errors import UserError, in_one_line, shortened
from detox_jax.human import sheets, texts
from detox_jax.human.key import EQUAL, Answer, Key, Row, Sheet
from detox_jax.sources import named_files

_SUFFIXES = (".csv", ".tsv")
_WORKBOOKS = (".xlsx", ".xls", ".ods", ".numbers")
_DELIMITERS = ",;\t"
_ANSWERS: Mapping[str, Answer] = {"a": "A", "b": "B", EQUAL: EQUAL}
_FRESH = "copy the answers into a fresh sheet"
_UNICODE = "its characters are not Unicode's: save it as CSV UTF-8 (or copy the answers)"
_SHOWN = 40  # characters of a cell in an error


@dataclasses.dataclass(frozen=True)
class Answered:
    """What a rater said of one comparison.

    Attributes:
      rater: number.
      row: of the rater's sheet.
      answers: by question; those that are missing are left out.
    """

    rater: int
    row: Row
    answers: Mapping[str, Answer]


# --- files ------------------------------------------------------------------------------------


def files_of(sources: str | Sequence[str]) -> list[epath.Path]:
    """The sheets that are named by files, globs and directories.

    Raises:
      UserError: where nothing is there, or a workbook in place of a CSV.
    """
    files: dict[str, epath.Path] = {}
    for source in [sources] if isinstance(sources, str) else sources:
        for file in _files(source):
            files[str(file)] = file
    if not files:
        raise UserError(f"SHEETS is {sources!r}; name at least one sheet")
    return list(files.values())


def _files(source: str) -> list[epath.Path]:
    path = epath.Path(source)
    if path.is_dir():
        there = [file for file in sorted(path.iterdir()) if not file.name.startswith((".", "~"))]
        if workbook := next((f for f in there if f.suffix.lower() in _WORKBOOKS), None):
            raise _workbook(workbook)
        named = [file for file in there if file.suffix.lower() in _SUFFIXES]
    else:
        named = named_files(path)
    if not named:
        raise UserError(
            f"SHEETS={source}: no such sheet; give filled CSV files, or their directory"
        )
    if workbook := next((f for f in named if f.suffix.lower() in _WORKBOOKS), None):
        raise _workbook(workbook)
    return named


def _workbook(file: epath.Path) -> UserError:
    return UserError(f"{file}: is a workbook; save it as CSV (in Excel: CSV UTF-8)")


# --- tables -----------------------------------------------------------------------------------


def _decoded(content: bytes) -> tuple[str, bool]:
    """The text, and whether its characters are those that were written.

    They are not in a code page, which is taken for Windows's western, and in ASCII, since each text
    of a sheet has a character beyond it.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace"), True
    try:
        return content.decode("utf-8-sig"), not content.isascii()
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace"), False


def _lines(text: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each row that is not empty, by the delimiter that fits its header."""
    skipped = 0
    if text[:4].lower() == "sep=":  # A line by which Excel is told the delimiter.
        text, skipped = text.partition("\n")[2], 1
    header = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = skipped
    while True:
        number += 1
        try:
            line = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{where}:{number}: cannot be read as CSV: {in_one_line(error)}; "
                "save the sheet again"
            ) from None
        if any(cell.strip() for cell in line):
            yield number, [cell.strip() for cell in line]


def _columns(header: Sequence[str], needed: Sequence[str], where: str) -> dict[str, int]:
    """Where the columns are."""
    names = [name.casefold() for name in header]
    columns = {}
    for name in needed:
        places = [i for i, there in enumerate(names) if there == name.casefold()]
        if len(places) != 1:
            said = "is missing" if not places else f"stands {len(places)} times"
            raise UserError(
                f"{where}: column {name!r} {said}; the first row of a sheet names "
                f"{', '.join(needed)}"
            )
        columns[name] = places[0]
    return columns


# --- checks -----------------------------------------------------------------------------------


def read(key: Key, files: Sequence[epath.Path], allow_missing: bool) -> list[Answered]:
    """All answers of the raters whose sheets are given.

    Args:
      key: of these sheets.
      files: the sheets.
      allow_missing: whether answers and rows may be missing; these are then left out.

    Raises:
      UserError: naming file and row, for an item of another key, one that stands twice, a text that
        is not the sheet's, an answer that is none, and for missing ones.
    """
    rows = {row.item: (sheet, row) for sheet in key.sheets for row in sheet.rows}
    places: dict[str, str] = {}
    answered = []
    for file in files:
        for where, answers in _of_file(key, rows, file):
            item = answers.row.item
            if item in places:
                raise UserError(
                    f"{where}: item {item!r} stands at {places[item]} too; give each sheet once"
                )
            places[item] = where
            missing = [name for name in key.questions if name not in answers.answers]
            if missing and not allow_missing:
                raise UserError(
                    f"{where}: no answer to {missing[0]!r}; write A, B or equal, or set "
                    "ALLOW_MISSING=True to go on without it"
                )
            answered.append(answers)
    if not allow_missing:
        for sheet in key.sheets:
            _check_complete(sheet, places, files)
    if not any(x.answers for x in answered):
        raise UserError(f"{files[0]}: no answer at all; give filled sheets")
    return answered


def _check_complete(sheet: Sheet, places: Mapping[str, str], files: Sequence[epath.Path]) -> None:
    missing = [row.item for row in sheet.rows if row.item not in places]
    if missing and len(missing) < len(sheet.rows):
        there = next(places[row.item] for row in sheet.rows if row.item in places)
        file = next(str(f) for f in files if there.startswith(f"{f}:"))
        raise UserError(
            f"{file}: {len(missing)} of the {len(sheet.rows)} items of rater {sheet.rater} are "
            f"missing, the first {missing[0]!r}; put the rows back, or set ALLOW_MISSING=True"
        )


def _of_file(
    key: Key, rows: Mapping[str, tuple[Sheet, Row]], file: epath.Path
) -> Iterator[tuple[str, Answered]]:
    """Where each row stands, and what it says."""
    text, is_exact = _decoded(file.read_bytes())
    lines = _lines(text, str(file))
    number, header = next(lines, (1, []))
    shown = [sheets.ITEM, sheets.PROMPT, *sheets.TEXTS]
    columns = _columns(header, [*shown, *key.questions], f"{file}:{number}")
    for number, line in lines:
        where = f"{file}:{number}"
        cells = {name: line[i] if i < len(line) else "" for name, i in columns.items()}
        sheet, row = _row_of(key, rows, cells[sheets.ITEM], where)
        for name, expected in sheets.cells(key, row).items():
            if not texts.same(cells[name], expected, is_exact):
                raise UserError(
                    f"{where}: the text of {name!r} is not the sheet's: "
                    f"{_quoted(cells[name])}, expected {_quoted(expected)}; "
                    + (_FRESH if is_exact else _UNICODE)
                )
        yield where, Answered(sheet.rater, row, _answers(key.questions, cells, where))


def _row_of(
    key: Key, rows: Mapping[str, tuple[Sheet, Row]], item: str, where: str
) -> tuple[Sheet, Row]:
    if item in rows:
        return rows[item]
    if not item:
        raise UserError(f"{where}: no item; its row is not one of the sheet's")
    if item.startswith(f"{key.code}_"):
        raise UserError(f"{where}: no item {_quoted(item)} in this key")
    raise UserError(
        f"{where}: item {_quoted(item)} is of another key; those of this one begin with {key.code}_"
    )


def _answers(questions: Sequence[str], cells: Mapping[str, str], where: str) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for question in questions:
        cell = cells[question].casefold()
        if cell in _ANSWERS:
            answers[question] = _ANSWERS[cell]
        elif cell:
            said = _quoted(cells[question])
            raise UserError(f"{where}: {question} is {said}; write A, B or equal")
    return answers


def _quoted(text: str) -> str:
    return repr(shortened(text, _SHOWN))
