"""The letters that a reader sees: text with its disguises undone, as arrays.

All texts of a call are laid end to end in one array of bytes, and everything below is done to the
whole array at once. Only texts with characters outside ASCII are folded one by one first.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

BOUNDARY, STAR = 0, 27  # codes 1 to 26 are the letters a to z
_LEET, _DROPPED, _END = 32, 64, 65  # kinds of bytes in `_KIND`; _LEET + n may stand for letter n

# Soft hyphens, zero-width characters, direction marks, variation selectors; and combining accents.
_INVISIBLE = re.compile(
    "[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufe00-\ufe0f"
    "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
)
# Cyrillic, then Greek and other letters that look like Latin ones; quotation marks.
_LOOK_ALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u043a\u043c\u0442\u043d\u0432"
    "\u0501\u04cf\u051b\u051d\u03b1\u03b5\u03bf\u03c1\u03c4\u03c5\u03b9\u03ba\u03bd\u0131\u2018\u2019",
    "aeopcyxijskmthbdlqwaeoptuikvi''",
)
LOOK_ALIKE_LETTERS = frozenset(chr(code) for code in _LOOK_ALIKES if chr(code).isalpha())


def _kinds() -> np.ndarray:
    kind = np.zeros(256, np.uint8)
    for index in range(26):
        kind[ord("a") + index] = kind[ord("A") + index] = index + 1
    for sign, letter in zip("013457@$!", "oieastasi", strict=True):
        kind[ord(sign)] = _LEET + ord(letter) - ord("a") + 1
    kind[ord("*")], kind[ord("'")], kind[0] = STAR, _DROPPED, _END
    return kind


_KIND = _kinds()
_IS_DIGIT = np.isin(np.arange(256), np.frombuffer(b"0123456789", np.uint8))


@dataclasses.dataclass(frozen=True)
class Letters:
    """Words of some texts, one boundary before, between and after them.

    Attributes:
      codes: uint8 [N], `BOUNDARY`, a letter or `STAR`.
      rows: int [N], index of the text.
    """

    codes: np.ndarray
    rows: np.ndarray


def read_letters(texts: Sequence[str]) -> Letters:
    """The words of `texts`, lower case, with nothing but letters and the stars that mask letters.

    Undone are compatibility forms and accents, zero-width characters, Cyrillic and Greek
    look-alikes, digits and signs that stand for letters inside words ("1d10t", "b@d", but neither
    "1984" nor "no!"), letters three times or more in a row (kept once), and three or more letters
    spaced out by one character each. Apostrophes are dropped. Linear in the number of characters.
    """
    pieces = [text if text.isascii() else _fold(text) for text in texts]
    joined = "\0".join(pieces)
    if joined.count("\0") >= max(len(pieces), 1):
        joined = "\0".join(piece.replace("\0", " ") for piece in pieces)
    raw = np.frombuffer(f"\0{joined}\0".encode("ascii", "replace"), np.uint8)
    raw = raw[_KIND[raw] != _DROPPED]
    kind = _KIND[raw]
    rows = np.cumsum(kind == _END) - 1
    codes = _undo_leet(kind, _IS_DIGIT[raw])
    kept = np.flatnonzero(_keep_of_repeats(codes, kind == _END))
    codes, rows = codes[kept], rows[kept]
    kept = kept[spaced := _keep_of_boundaries(codes)]
    codes, rows = codes[spaced], rows[spaced]
    together = ~_spaces_within_words(codes, rows, kept)
    return Letters(codes[together], rows[together])


def normalize(text: str) -> str:
    """What `read_letters` sees in one text, as a string."""
    return "".join(_SPELLING[code] for code in read_letters([text]).codes).strip()


_SPELLING = " abcdefghijklmnopqrstuvwxyz*"


def _fold(text: str) -> str:
    folded = _INVISIBLE.sub("", unicodedata.normalize("NFKD", text).lower())
    return folded.translate(_LOOK_ALIKES)


def _undo_leet(kind: np.ndarray, digit: np.ndarray) -> np.ndarray:
    """Codes of letters, of signs that stand for letters, and of stars that mask letters."""
    letter = (kind > BOUNDARY) & (kind < STAR)
    star = kind == STAR
    leet = (kind > _LEET) & (kind < _DROPPED)
    in_run = letter | digit | leet | star
    # Letters before and after each byte in its run; a run lies between two bytes outside runs.
    breaks = np.flatnonzero(~in_run)
    run = np.cumsum(~in_run) - 1
    num_letters = np.concatenate([[0], np.cumsum(letter)])
    before = num_letters[:-1] - num_letters[breaks[run]]
    after = num_letters[np.append(breaks, len(kind))[run + 1]] - num_letters[1:]
    codes = np.where(letter, kind, BOUNDARY).astype(np.uint8)
    meant = leet & (before + after >= 2) & ((after > 0) | (digit & (before > 0)))
    codes[meant] = kind[meant] - _LEET
    # "f**k" and "f***" mask letters; "*word*" is emphasis.
    beside_star = np.concatenate([[False], star[:-1]]) | np.concatenate([star[1:], [False]])
    codes[star & (before > 0) & ((after > 0) | beside_star)] = STAR
    return codes


def _keep_of_repeats(codes: np.ndarray, end: np.ndarray) -> np.ndarray:
    """All but the repeats of a letter that comes three times or more in a row, and of stars."""
    first = np.concatenate([[True], (codes[1:] != codes[:-1]) | end[1:] | end[:-1]])
    lengths = np.diff(np.append(np.flatnonzero(first), len(codes)))
    length = np.repeat(lengths, lengths)
    return first | ((length < 3) & (codes != STAR))


def _keep_of_boundaries(codes: np.ndarray) -> np.ndarray:
    boundary = codes == BOUNDARY
    return np.concatenate([[True], ~(boundary[1:] & boundary[:-1])])


def _spaces_within_words(codes: np.ndarray, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Marks the boundaries between letters spaced out; `places` are the codes' bytes of old."""
    boundaries = np.flatnonzero(codes == BOUNDARY)
    starts, ends = boundaries[:-1] + 1, boundaries[1:]
    single = ends - starts == 1
    joins = (
        (single[1:] & single[:-1])
        & (places[starts[1:]] - places[starts[:-1]] == 2)
        & (rows[starts[1:]] == rows[starts[:-1]])
    )
    # Two letters alone are no word spelt out; a join counts beside another.
    beside = np.concatenate([[False], joins[:-1]]) | np.concatenate([joins[1:], [False]])
    marked = np.zeros(len(codes), bool)
    marked[starts[1:][joins & beside] - 1] = True
    return marked
