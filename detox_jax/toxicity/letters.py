"""The letters that a reader sees: text with its disguises undone, as arrays.

All texts of a call are laid end to end in one array of C bytes, and everything below is done to the
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

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
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
PARTS = b"\0"  # texts, in what `read_runs` gives


def _run_bytes() -> bytes:
    """What each byte is in a run, and a space for one that is in none."""
    kept = np.flatnonzero(_KIND.astype(bool) | _IS_DIGIT).tolist()
    table = bytearray(b" " * 256)
    for byte in kept:
        table[byte] = ord(chr(byte).lower())
    return bytes(table)


_RUN_BYTES = _run_bytes()


@dataclasses.dataclass(frozen=True)
class Letters:
    """Words of some texts, one boundary before, between and after them.

    Attributes:
      codes_C: uint8, `BOUNDARY`, a letter or `STAR` at every place.
      rows_C: int, the index of the text that the place belongs to.
    """

    codes_C: np.ndarray
    rows_C: np.ndarray


def read_letters(texts: Sequence[str]) -> Letters:
    """The words of `texts`, lower case, with nothing but letters and the stars that mask letters.

    Undone are compatibility forms and accents, zero-width characters, Cyrillic and Greek
    look-alikes, digits and signs that stand for letters inside words ("1d10t", "b@d", but neither
    "1984" nor "no!"), letters three times or more in a row (kept once), and three or more letters
    spaced out by one character each. Apostrophes are dropped. Linear in the number of characters.

    >>> normalize("1d10t in 1984")
    'idiot in'
    >>> normalize("y o u  are a f\u043eooool")
    'you are a fol'
    """
    codes_C, rows_C, places_C = _words_apart(texts)
    together_C = ~_spaces_within_words(codes_C, rows_C, places_C)
    return Letters(codes_C[together_C], rows_C[together_C])


def lone_letters(texts: Sequence[str]) -> np.ndarray:
    """How many letters of each text stand alone, int [N], before those spaced out are joined."""
    codes_C, rows_C, _ = _words_apart(texts)
    boundaries = np.flatnonzero(codes_C == BOUNDARY)
    lone = boundaries[:-1][np.diff(boundaries) == 2] + 1
    return np.bincount(rows_C[lone], minlength=len(texts))


def read_runs(texts: Sequence[str]) -> list[bytes]:
    """The runs of letters, digits and signs in texts, in lower case, with `PARTS` before each text.

    Within a run disguises are undone: the words of a text are those that `read_letters` finds in
    each of its runs by itself, but where letters are spaced out over several runs.
    """
    joined = _joined(texts).replace(PARTS, b" \0 ")
    return joined.translate(_RUN_BYTES, b"'").split()


def _joined(texts: Sequence[str]) -> bytes:
    """Texts in ASCII, each behind a zero byte."""
    pieces = [text if text.isascii() else _fold(text) for text in texts]
    joined = "\0".join(["", *pieces])
    if joined.count("\0") > len(pieces):
        joined = "\0".join(["", *(piece.replace("\0", " ") for piece in pieces)])
    return joined.encode("ascii", "replace")


def _words_apart(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes and rows before letters spaced out are joined, and where each code lay."""
    bytes_C = np.frombuffer(_joined(texts) + b"\0", np.uint8)
    bytes_C = bytes_C[_KIND[bytes_C] != _DROPPED]
    kind_C = _KIND[bytes_C]
    rows_C = np.cumsum(kind_C == _END) - 1
    codes_C = _undo_leet(kind_C, _IS_DIGIT[bytes_C])
    # Where each code that is left lay among all of them: words spelt out show by their gaps.
    places_C = np.flatnonzero(_keep_of_repeats(codes_C, kind_C == _END))
    codes_C, rows_C = codes_C[places_C], rows_C[places_C]
    apart_C = _keep_of_boundaries(codes_C)
    return codes_C[apart_C], rows_C[apart_C], places_C[apart_C]


def normalize(text: str) -> str:
    """What `read_letters` sees in one text, as a string."""
    return "".join(_SPELLING[code] for code in read_letters([text]).codes_C).strip()


_SPELLING = " abcdefghijklmnopqrstuvwxyz*"


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text).lower()
    return _NOT_ASCII.sub(_unmask, folded)


def _unmask(run: re.Match[str]) -> str:
    return _INVISIBLE.sub("", run[0]).translate(_LOOK_ALIKES)


def _undo_leet(kind_C: np.ndarray, digit_C: np.ndarray) -> np.ndarray:
    """Codes of letters, of signs that stand for letters, and of stars that mask letters."""
    letter_C = (kind_C > BOUNDARY) & (kind_C < STAR)
    sign_C = (kind_C >= STAR) & (kind_C < _DROPPED)
    codes_C = kind_C * letter_C
    signs = np.flatnonzero(sign_C)  # A few in a hundred bytes: what follows is of them alone.
    # Letters before and after each sign in its run; a run lies between two bytes outside runs.
    breaks = np.flatnonzero(~(letter_C | sign_C | digit_C))
    run = np.searchsorted(breaks, signs)
    num_letters_C = np.cumsum(letter_C)
    before = num_letters_C[signs] - num_letters_C[breaks[run - 1]]
    after = num_letters_C[breaks[run]] - num_letters_C[signs]
    star = kind_C[signs] == STAR
    # At the end of a word a digit may be a letter ("1d10t5"), a sign is punctuation ("no!").
    meant = ~star & (before + after >= 2) & ((after > 0) | (digit_C[signs] & (before > 0)))
    codes_C[signs[meant]] = kind_C[signs[meant]] - _LEET
    # "f**k" and "f***" mask letters; "*word*" is emphasis.
    beside_star = (kind_C[signs - 1] == STAR) | (kind_C[signs + 1] == STAR)
    codes_C[signs[star & (before > 0) & ((after > 0) | beside_star)]] = STAR
    return codes_C


def _keep_of_repeats(codes_C: np.ndarray, end_C: np.ndarray) -> np.ndarray:
    """All but the repeats of a letter that comes three times or more in a row, and of stars."""
    changes = (codes_C[1:] != codes_C[:-1]) | end_C[1:] | end_C[:-1]
    first_C = np.concatenate([[True], changes])
    lengths = np.diff(np.append(np.flatnonzero(first_C), len(codes_C)))
    length_C = np.repeat(lengths, lengths)
    return first_C | ((length_C < 3) & (codes_C != STAR))


def _keep_of_boundaries(codes_C: np.ndarray) -> np.ndarray:
    boundary_C = codes_C == BOUNDARY
    return np.concatenate([[True], ~(boundary_C[1:] & boundary_C[:-1])])


def _spaces_within_words(
    codes_C: np.ndarray, rows_C: np.ndarray, places_C: np.ndarray
) -> np.ndarray:
    """Marks the boundaries between letters spaced out; `places_C` is where the codes lay before."""
    boundaries = np.flatnonzero(codes_C == BOUNDARY)
    starts, ends = boundaries[:-1] + 1, boundaries[1:]
    single = ends - starts == 1
    joins = (
        (single[1:] & single[:-1])
        & (places_C[starts[1:]] - places_C[starts[:-1]] == 2)
        & (rows_C[starts[1:]] == rows_C[starts[:-1]])
    )
    # Two letters alone are no word spelt out; a join counts beside another.
    beside = np.concatenate([[False], joins[:-1]]) | np.concatenate([joins[1:], [False]])
    marked_C = np.zeros(len(codes_C), bool)
    marked_C[starts[1:][joins & beside] - 1] = True
    return marked_C
