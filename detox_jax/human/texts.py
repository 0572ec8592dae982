"""Texts as raters read them, alike of all systems, and recognised when they come back.

What systems and files do otherwise around a text would tell them apart: the space before a
continuation, marks of its end, white space behind it.
"""

from __future__ import annotations

import re
import unicodedata

from detox_jax.errors import UserError
from detox_jax.formats.foreign import END_OF_TEXT

# Excel cuts a cell off behind 32,767 characters.
LONGEST = 32_000
LINE_BREAK = "↵"
_NOTHING = "(no text)"
_BREAKS = re.compile(r"[ \t]*(?:\r\n|[\n\r\v\f\x85\u2028\u2029])[ \t]*")
_REPLACED = "\N{REPLACEMENT CHARACTER}"


def shown(text: str, where: str) -> str:
    """A text in one line: without marks of its end and white space around it.

    A line break is shown as a sign, so that a row of a sheet is a line of its file; a character
    that spreadsheets drop, and half of a surrogate pair, as the replacement character.

    Args:
      text: as the file has it.
      where: whose it is, for the error.

    Raises:
      UserError: for a text that no cell holds.
    """
    text = _BREAKS.sub(LINE_BREAK, text.replace(END_OF_TEXT, "").strip())
    text = re.sub(f"{LINE_BREAK}+", lambda breaks: f" {' '.join(breaks[0])} ", text)
    text = "".join(_REPLACED if _is_dropped(c) else c for c in text.replace("\t", " "))
    if len(text) > LONGEST:
        raise UserError(
            f"{where}: {len(text):,} characters, and a cell of a spreadsheet holds {LONGEST:,}; "
            "generate shorter texts for people to read"
        )
    return text


def _is_dropped(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")


def prompt_cell(text: str) -> str:
    """A prompt in a cell: its first character keeps `=1+1` from being a formula."""
    return f"“{text}”"


def continuation_cell(text: str) -> str:
    """A continuation in a cell, behind a sign that keeps it from being a number or a formula."""
    return f"… {text or _NOTHING}"


def same(cell: str, expected: str, is_exact: bool) -> bool:
    """Whether a cell still holds its text.

    Args:
      cell: as it came back.
      expected: as it was written.
      is_exact: whether the file's characters are those that were written; otherwise letters and
        digits of ASCII alone are compared: programs replace others when they save in a code page.
    """
    if is_exact:
        return _spaced(cell) == _spaced(expected)
    return _ascii(cell) == _ascii(expected)


def _spaced(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _ascii(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", text)
