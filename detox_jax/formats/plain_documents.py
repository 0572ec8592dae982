"""Documents of nothing but id, text and score, taken from JSON Lines and put there by the block.

Most corpora hold no other line. One expression takes apart a megabyte of them; a block with any
other line in it, right or wrong, is left to `records`, which knows all that there may be.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from json.encoder import encode_basestring  # What the encoder calls, which asks for kinds first.

import numpy as np

# A text as it stands between its quotes: what JSON escapes is only told to be sound.
_TEXT = r'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+'
# The same of sound lines, in half of the time: a quote behind one backslash is the text's own.
_SOUND_TEXT = r'[^"]*+(?:(?<=[^\\]\\)"[^"]*+)*+'


def _line_of(text: str) -> re.Pattern[str]:
    return re.compile(
        rf'^\{{"id": ?"([^"\\\x00-\x1f]+)", ?"text": ?"({text})"'
        # No sign: "-0" is a whole number without one to JSON, and to a float it is not.
        r'(?:, ?"toxicity": ?([0-9](?:\.[0-9]+)?(?:e-?[0-9]{1,3})?|null))?\}\r?\n',
        re.MULTILINE,
    )


_LINE, _SOUND_LINE = _line_of(_TEXT), _line_of(_SOUND_TEXT)
_IS_TEXT = re.compile(_TEXT).fullmatch
_Columns = tuple[Sequence[str], Sequence[str], Sequence[str | None]]


@dataclasses.dataclass(frozen=True)
class Plain:
    """Documents that stand one behind the other in a file.

    Attributes:
      ids: of each, never none.
      escaped: their texts as they stand in the lines, see `texts`.
      scores: of each, None for one without.
      lines: their lines, whole.
    """

    ids: Sequence[str]
    escaped: Sequence[str]
    scores: Sequence[float | None]
    lines: bytes

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, first: int, end: int) -> Plain:
        """Some of the documents; of their lines none."""
        return Plain(self.ids[first:end], self.escaped[first:end], self.scores[first:end], b"")

    def texts(self) -> list[str]:
        """The texts without the escapes with which they stand in their lines."""
        texts = list(self.escaped)
        for i, text in zip(*_read_escapes(self.escaped), strict=True):
            texts[i] = text
        return texts


def read(block: bytes) -> Plain | None:
    """The documents of whole lines; None if any of these is another thing, or is wrong.

    Args:
      block: the lines, one at least; the last one may lack its end.
    """
    whole = block if block.endswith(b"\n") else block + b"\n"
    try:
        text = whole.decode()
    except UnicodeDecodeError:
        return None
    columns = _of_sound_lines(whole, text) or _columns(_LINE, text)
    if columns is None:
        return None
    ids, escaped, digits = columns
    scores = _numbers(digits)
    if max(filter(None, scores), default=0.0) > 1:
        return None
    return Plain(ids, escaped, scores, whole)


def _columns(line: re.Pattern[str], text: str) -> _Columns | None:
    """Ids, texts and scores as they stand; None if anything stands before, between or behind."""
    parts = line.split(text)
    ids, escaped, digits = (parts[1 + i :: line.groups + 1] for i in range(line.groups))
    return None if any(parts[:: line.groups + 1]) else (ids, escaped, digits)


def _of_sound_lines(whole: bytes, text: str) -> _Columns | None:
    """The same; None too where a text may have been taken for another."""
    columns = _columns(_SOUND_LINE, text)
    ends, returns = whole.count(b"\n"), whole.count(b"\r") and whole.count(b"}\r\n")
    if (
        columns is None
        or len(columns[0]) != ends
        or np.count_nonzero(np.frombuffer(whole, np.uint8) < ord(" ")) != ends + returns
        or not all(map(_IS_TEXT, [escaped for escaped in columns[1] if "\\" in escaped]))
    ):
        return None
    return columns


def _numbers(digits: Sequence[str | None]) -> Sequence[float | None]:
    try:
        return list(map(float, digits))  # type: ignore  # Without a score is the exception.
    except (TypeError, ValueError):
        return [float(score) if score and score != "null" else None for score in digits]


def _read_escapes(escaped: Sequence[str]) -> tuple[list[int], list[str]]:
    """Which texts have escapes, and what these read without them: one call reads them all."""
    places = [i for i, text in enumerate(escaped) if "\\" in text]
    quoted = '","'.join([escaped[i] for i in places])
    return places, json.loads(f'["{quoted}"]') if places else []


def encoded(plain: Plain, scores: Sequence[float | None], unreadable: Sequence[bool] = ()) -> bytes:
    """Documents as lines, the bytes that `records.Document` is written as.

    Args:
      plain: the documents.
      scores: in place of what their lines say.
      unreadable: see `records.Document`; none of them where it is empty.
    """
    ends = ["}\n", ', "unreadable": true}\n']
    marks = unreadable or [False] * len(scores)
    lines = [
        f'{{"id": "{id}", "text": "{text}", "toxicity": '
        f"{'null' if score is None else repr(score)}{ends[mark]}"
        for id, text, score, mark in zip(
            plain.ids, _quoted(plain.escaped), scores, marks, strict=True
        )
    ]
    try:
        return "".join(lines).encode()
    except UnicodeEncodeError:  # A lone surrogate, which only escapes can write.
        return b"".join(map(_bytes, lines))


def _quoted(escaped: Sequence[str]) -> Sequence[str]:
    """Texts with the escapes that they need, and no others."""
    quoted = list(escaped)
    for i, text in zip(*_read_escapes(escaped), strict=True):
        quoted[i] = encode_basestring(text)[1:-1]
    return quoted


def _bytes(line: str) -> bytes:
    try:
        return line.encode()
    except UnicodeEncodeError:
        return f"{json.dumps(json.loads(line))}\n".encode()


def as_written(lines: Sequence[bytes], scores: Sequence[float]) -> list[bytes]:
    """Lines that `read` has read or `records` wrote, as `records.Document` is written.

    Args:
      lines: one each, with its end.
      scores: what they say.
    """
    if not lines:
        return []
    ends = "\0".join([f'", "toxicity": {score!r}}}\n' for score in scores]).encode().split(b"\0")
    # Quotes without a backslash before them stand around names and values alone. Of the escapes
    # that are read, two may stand where we write the character itself.
    odd = [
        i
        for i, (line, end) in enumerate(zip(lines, ends, strict=True))
        if (b"\\" in line and (b"\\u" in line or b"\\/" in line))
        or not line.startswith(b'{"id": "')
        or b'", "text": "' not in line
        or not line.endswith(end)
    ]
    written = list(lines)
    for i, line in zip(odd, _rewritten([lines[i] for i in odd]), strict=True):
        written[i] = line
    return written


def _rewritten(lines: Sequence[bytes]) -> list[bytes]:
    plain = read(b"".join(lines)) if lines else None
    if plain is not None:
        return encoded(plain, plain.scores).splitlines(keepends=True)
    return [line for one in lines for line in _rewritten([one])] if len(lines) > 1 else list(lines)
