"""Texts side by side in rows of few shapes: few programs, and little padding to compute.

A row holds as many texts as fit, the longest that is left first; attention keeps them apart
(`models/encoder.py`). Nearly all tokens then stand in full rows of `ROW_LENGTH`, whatever the
lengths of the texts.

Dimensions: B rows of a batch, L places of a row, T texts that a row can hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

# Attention to a row as short as this costs little beside products with weights.
ROW_LENGTH = 64
_SHORTEST_ROW = 8
# Lengths beside the powers of two, for many texts that would leave a power of two half empty.
_FURTHER_LENGTHS = (80, 96, 112, 160, 192, 224, 320, 384, 448)
_MANY_ROWS = 8  # Of fewer, behind which nothing comes, a program more costs more than it saves.
_WORTH_A_PROGRAM = 1.1  # Fuller by this factor.
_PARTS = 8  # The rows of a short batch are rounded up by at most a quarter.


@dataclasses.dataclass(frozen=True)
class Batch:
    """Texts in rows.

    Attributes:
      tokens_BL: ids, int32, 0 for padding.
      starts_BT: where each text of a row begins, int32; L for none.
      texts: that are here.
      rows: of each of them.
      places: of each of them among the texts of its row.
    """

    tokens_BL: np.ndarray
    starts_BT: np.ndarray
    texts: list[int]
    rows: list[int]
    places: list[int]


def batches(
    ids: Mapping[int, np.ndarray], *, rows: int, multiple: int = 1, shortest: int = 1
) -> Iterator[Batch]:
    """Batches of about `rows * ROW_LENGTH` places, the longest texts first.

    Args:
      ids: the tokens of each text, at least one, all above 0, by the text's number.
      rows: of `ROW_LENGTH` in a batch. Of longer rows there are fewer, but at least one.
      multiple: of which the rows of each batch are a multiple.
      shortest: length of a text.
    """
    left: list[list[int]] = [[] for _ in range(1 + max(map(len, ids.values()), default=0))]
    for text in reversed(list(ids)):
        left[len(ids[text])].append(text)
    while any(left):
        while not left[-1]:
            left.pop()
        length, packed = _pack([len(texts) for texts in left], rows, multiple)
        size = _round_up(len(packed), max(1, _power_of_two(len(packed)) // _PARTS))
        size = _round_up(min(size, _most(rows, length, multiple)), multiple)
        tokens_BL = np.zeros((size, length), np.int32)
        starts_BT = np.full((size, length // shortest), length, np.int32)
        batch = Batch(tokens_BL, starts_BT, [], [], [])
        for row, lengths in enumerate(packed):
            start = 0
            for place, of_text in enumerate(lengths):
                text = left[of_text].pop()
                tokens_BL[row, start : start + of_text] = ids[text]
                starts_BT[row, place] = start
                start += of_text
                batch.texts.append(text)
                batch.rows.append(row)
                batch.places.append(place)
        yield batch


def _pack(counts: Sequence[int], rows: int, multiple: int) -> tuple[int, list[list[int]]]:
    """The length of the rows of the next batch, and of the texts in each row.

    Args:
      counts: of the texts that are left, by length; the last one is not 0.
      rows: of `ROW_LENGTH` in a batch.
      multiple: of the rows of a batch.
    """
    longest = len(counts) - 1
    tokens = sum(length * count for length, count in enumerate(counts))
    # A few short texts are a short row on each device.
    least = min(ROW_LENGTH, -(-tokens // multiple))
    length = max(_power_of_two(max(longest, least)), _SHORTEST_ROW)
    packed = _fill(counts, length, _most(rows, length, multiple))
    if len(packed) >= _MANY_ROWS or sum(map(sum, packed)) < tokens:
        full = _fullness(length, packed)
        for other in _FURTHER_LENGTHS:
            if other >= longest:
                candidate = _fill(counts, other, _most(rows, other, multiple))
                if (fullness := _fullness(other, candidate)) > full * _WORTH_A_PROGRAM:
                    length, packed, full = other, candidate, fullness
    return length, packed


def _fill(counts: Sequence[int], length: int, most: int) -> list[list[int]]:
    """The lengths of the texts in each row: the longest that fits, again and again."""
    left, packed = list(counts), []
    while len(packed) < most and any(left):
        row, free, at = [], length, len(left) - 1
        while at := min(at, free):
            taken = min(left[at], free // at)
            left[at] -= taken
            free -= taken * at
            row += [at] * taken
            at -= 1
        packed.append(row)
    return packed


def _fullness(length: int, packed: Sequence[Sequence[int]]) -> float:
    return sum(map(sum, packed)) / (length * len(packed))


def _most(rows: int, length: int, multiple: int) -> int:
    """Rows of a full batch."""
    return _round_up(max(1, min(rows, rows * ROW_LENGTH // length)), multiple)


def _power_of_two(number: int) -> int:
    """The least that is not below `number`."""
    return 1 << (number - 1).bit_length()


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
