"""Lines of JSON that hold an id, a text and at most a score, taken apart in arrays of their bytes.

What Python does for each line would take longer than all that is done for it here: a few passes of
NumPy over many lines tell where each id, text and score begins and ends, and whether every
byte between them is one that may stand there.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

_KEYS = (b"id", b"text", b"toxicity")
_QUOTE, _BACKSLASH, _SPACE = b'"\\ '
_U = ord("u")


def _kind_of_bytes(members: bytes) -> np.ndarray:
    """Bool [256]: which bytes are among some."""
    return np.isin(np.arange(256), list(members))


_ESCAPABLE = _kind_of_bytes(b'"\\/bfnrtu')
_HEX = _kind_of_bytes(b"0123456789abcdefABCDEF")
_ESCAPED_WHITE = _kind_of_bytes(b"fnrt")  # what these letters escape


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Where things stand in L whole lines, as positions in their bytes, int64.

    Attributes:
      lines_L2: where each line begins, and where it ends, behind its line feed.
      ids_L2: the ids, without their quotes.
      texts_L2: the texts, without their quotes.
      scores_L2: the scores; of no bytes where there is none.
      escapes_E: the backslashes that begin an escape.
    """

    lines_L2: np.ndarray
    ids_L2: np.ndarray
    texts_L2: np.ndarray
    scores_L2: np.ndarray
    escapes_E: np.ndarray

    def part(self, first: int, end: int) -> Places:
        """Those of some of the lines."""
        return Places(
            self.lines_L2[first:end],
            self.ids_L2[first:end],
            self.texts_L2[first:end],
            self.scores_L2[first:end],
            self.escapes_E,
        )

    def followed_by(self, other: Places, offset: int) -> Places:
        """Those of these lines and others, which begin at a position behind them."""
        both = zip(self._arrays(), other._arrays(), strict=True)
        return Places(*[np.concatenate([one, another + offset]) for one, another in both])

    def _arrays(self) -> list[np.ndarray]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


def places(lines: bytes) -> Places | None:
    """What stands where; None if any line is another thing, but for what stands as a score.

    Args:
      lines: whole ones, at least one.
    """
    bytes_B = np.frombuffer(lines, np.uint8)
    ends_L = np.flatnonzero(bytes_B == ord("\n"))
    starts_L = np.concatenate([[0], ends_L[:-1] + 1])
    braces_L = ends_L - 1 - (bytes_B[ends_L - 1] == ord("\r"))
    controls = 2 * len(ends_L) - np.count_nonzero(braces_L == ends_L - 1)
    if np.count_nonzero(bytes_B < _SPACE) != controls or not _is_utf8(lines):
        return None
    escapes_E = _escapes(bytes_B)
    if escapes_E is None:
        return None
    quotes = _quotes(bytes_B, escapes_E, starts_L)
    if quotes is None:
        return None
    quotes_QL, has_score_L = quotes
    if not _are_between(bytes_B, starts_L, quotes_QL, braces_L, has_score_L):
        return None
    texts_L2 = np.stack([quotes_QL[6] + 1, quotes_QL[7]], axis=1)
    lines_E = np.searchsorted(ends_L, escapes_E)
    if not np.all((texts_L2[lines_E, 0] <= escapes_E) & (escapes_E < texts_L2[lines_E, 1])):
        return None
    scores_L = np.where(has_score_L, _behind(bytes_B, quotes_QL[9] + 1), braces_L)
    if np.any(has_score_L & (scores_L == braces_L)):
        return None
    return Places(
        np.stack([starts_L, ends_L + 1], axis=1),
        np.stack([quotes_QL[2] + 1, quotes_QL[3]], axis=1),
        texts_L2,
        np.stack([scores_L, braces_L], axis=1),
        escapes_E,
    )


def _is_utf8(lines: bytes) -> bool:
    try:
        return lines.isascii() or bool(lines.decode())
    except UnicodeDecodeError:
        return False


def _escapes(bytes_B: np.ndarray) -> np.ndarray | None:
    """The backslashes that begin an escape, as each second one of a row does; None if any is wrong.

    A line's end escapes nothing, so that there is a byte behind each.
    """
    backslashes = np.flatnonzero(bytes_B == _BACKSLASH)
    begins_row = np.diff(backslashes, prepend=-2) != 1
    row = np.maximum.accumulate(np.where(begins_row, backslashes, 0))
    escapes_E = backslashes[(backslashes - row) % 2 == 0]
    escaped_E = bytes_B[escapes_E + 1]
    codes = escapes_E[escaped_E == _U]
    are_hex = [_HEX[bytes_B.take(codes + i, mode="clip")].all() for i in range(2, 6)]
    return escapes_E if _ESCAPABLE[escaped_E].all() and all(are_hex) else None


def _quotes(
    bytes_B: np.ndarray, escapes_E: np.ndarray, starts_L: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """The quotes around each line's names and values, int64 [10, L], and which lines have a score.

    Of a line without a score the last two are the one before them again; None where there are more
    or fewer.
    """
    is_quote_B = bytes_B == _QUOTE
    is_quote_B[escapes_E + 1] = False
    quotes = np.flatnonzero(is_quote_B)
    first_L = np.searchsorted(quotes, starts_L)
    number_L = np.diff(first_L, append=len(quotes))
    has_score_L = number_L == 10
    if not np.all(has_score_L | (number_L == 8)):
        return None
    last_L = first_L + number_L - 1
    return quotes[np.minimum(first_L + np.arange(10)[:, None], last_L)], has_score_L


def _are_between(
    bytes_B: np.ndarray,
    starts_L: np.ndarray,
    quotes_QL: np.ndarray,
    braces_L: np.ndarray,
    has_score_L: np.ndarray,
) -> bool:
    """Whether what stands before, between and behind the values is what has to."""
    opened, closed = quotes_QL[::2], quotes_QL[1::2]
    every, scored = np.arange(len(starts_L)), np.flatnonzero(has_score_L)
    keys = list(zip(_KEYS, (0, 2, 4), (every, every, scored), strict=True))
    marks = list(zip(b":,:,", range(4), (every, every, every, scored), strict=True))
    are_places = [
        opened[0] == starts_L + 1,
        closed[1] > opened[1] + 1,
        has_score_L | (braces_L == closed[3] + 1),
        *[closed[i][L] == opened[i][L] + 1 + len(key) for key, i, L in keys],
        *[opened[i + 1][L] == _behind(bytes_B, closed[i][L] + 1) for _, i, L in marks],
    ]
    return all(are.all() for are in are_places) and all(
        np.all(bytes_B[places_L] == byte)
        for places_L, byte in [
            (starts_L, ord("{")),
            (braces_L, ord("}")),
            (closed[4][scored] + 1, ord(":")),
            *[(opened[i][L] + 1 + n, byte) for key, i, L in keys for n, byte in enumerate(key)],
            *[(closed[i][L] + 1, mark) for mark, i, L in marks],
        ]
    )


def _behind(bytes_B: np.ndarray, marks_L: np.ndarray) -> np.ndarray:
    """Where it goes on behind a colon or a comma, and a space where there is one."""
    return marks_L + 1 + (bytes_B[marks_L + 1] == _SPACE)


# --- what is told of many places at once ------------------------------------------------------


class Ranks:
    """How many bytes of a kind stand before a position: counted in bits, by the 64.

    Args:
      is_kind_B: which bytes are of the kind.
    """

    def __init__(self, is_kind_B: np.ndarray):
        bits = np.packbits(is_kind_B, bitorder="little")
        self._words = np.zeros(len(bits) // 8 + 1, "<u8")
        self._words.view(np.uint8)[: len(bits)] = bits
        numbers = np.bitwise_count(self._words)
        self._before = np.cumsum(numbers, dtype=np.int64) - numbers

    def __call__(self, positions_N: np.ndarray) -> np.ndarray:
        """The numbers, int64 [N]."""
        words, bits = positions_N >> 6, (positions_N & 63).astype(np.uint64)
        below = (np.uint64(1) << bits) - np.uint64(1)
        return self._before[words] + np.bitwise_count(self._words[words] & below)


def are_decimals(lines: bytes, places_N2: np.ndarray) -> np.ndarray:
    """Whether what stands at some places is a digit, a point and more digits, bool [N]."""
    bytes_B = np.frombuffer(lines, np.uint8)
    rank = Ranks(bytes_B - np.uint8(ord("0")) < 10)
    first_N, end_N = places_N2.T
    lengths_N = end_N - first_N
    return (
        (lengths_N > 2)
        & (rank(end_N) - rank(first_N) == lengths_N - 1)
        & (bytes_B[first_N + 1] == ord("."))
    )


def num_words(lines: bytes, of: Places) -> np.ndarray:
    """How many words each text has, int64 [L]: what `str.split` parts it into."""
    bytes_B = np.frombuffer(lines, np.uint8)
    white_B = _white(bytes_B, of.escapes_E, lines.isascii())
    begins_B = np.zeros(len(bytes_B), bool)
    np.greater(white_B[:-1], white_B[1:], out=begins_B[1:])
    rank = Ranks(begins_B)
    first_L, end_L = of.texts_L2.T
    # A word with which its text begins has no white space before it.
    return rank(end_L) - rank(first_L) + ((first_L < end_L) & ~white_B[first_L])


def _white(bytes_B: np.ndarray, escapes_E: np.ndarray, is_ascii: bool) -> np.ndarray:
    """Which bytes are white space, or a part of what stands for it in UTF-8 or escaped."""
    white_B = bytes_B == _SPACE
    escaped_E = bytes_B[escapes_E + 1]
    _mark(white_B, escapes_E[_ESCAPED_WHITE[escaped_E]], 2)
    coded = escapes_E[escaped_E == _U]
    codes = np.zeros(len(coded), np.int64)
    for i in range(2, 6):
        digits = bytes_B[coded + i].astype(np.int64)
        codes = codes * 16 + (digits & 15) + 9 * (digits > ord("9"))
    _mark(white_B, coded[_is_space()[codes]], 6)
    for head, head_bits, length in () if is_ascii else ((0xC0, 0x1F, 2), (0xE0, 0x0F, 3)):
        heads = np.flatnonzero((bytes_B & ~np.uint8(head_bits)) == head)
        codes = bytes_B[heads].astype(np.int64) & head_bits
        for i in range(1, length):
            codes = codes * 64 + (bytes_B[heads + i] & 0x3F)
        _mark(white_B, heads[_is_space()[codes]], length)
    return white_B


def _mark(white_B: np.ndarray, places: np.ndarray, length: int) -> None:
    for i in range(length):
        white_B[places + i] = True


@functools.cache
def _is_space() -> np.ndarray:
    """Bool [65536]: which characters `str.split` parts words by; none stands beyond."""
    return np.array([chr(code).isspace() for code in range(1 << 16)])
