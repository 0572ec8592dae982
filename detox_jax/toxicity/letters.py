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
    pieces = [text if text.isascii() else _fold(text) for text in texts]
    joined = "\0".join(pieces)
    if joined.count("\0") >= max(len(pieces), 1):
        joined = "\0".join(piece.replace("\0", " ") for piece in pieces)
    bytes_C = np.frombuffer(f"\0{joined}\0".encode("ascii", "replace"), np.uint8)
    bytes_C = bytes_C[_KIND[bytes_C] != _DROPPED]
    kind_C = _KIND[bytes_C]
    rows_C = np.cumsum(kind_C == _END) - 1
    codes_C = _undo_leet(kind_C, _IS_DIGIT[bytes_C])
    # Where each code that is left lay among all of them: words spelt out show by their gaps.
    places_C = np.flatnonzero(_keep_of_repeats(codes_C, kind_C == _END))
    codes_C, rows_C = codes_C[places_C], rows_C[places_C]
    apart_C = _keep_of_boundaries(codes_C)
    codes_C, rows_C, places_C = codes_C[apart_C], rows_C[apart_C], places_C[apart_C]
    together_C = ~_spaces_within_words(codes_C, rows_C, places_C)
    return Letters(codes_C[together_C], rows_C[together_C])


def normalize(text: str) -> str:
    """What `read_letters` sees in one text, as a string."""
    return "".join(_SPELLING[code] for code in read_letters([text]).codes_C).strip()


_SPELLING = " abcdefghijklmnopqrstuvwxyz*"


def _fold(text: str) -> str:
    folded = _INVISIBLE.sub("", unicodedata.normalize("NFKD", text).lower())
    return folded.translate(_LOOK_ALIKES)


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
