"""Resamples of prompts, each of as many as there are: the sums and means that a bootstrap needs.

Of fewer than `COUNTED_FROM` prompts they are drawn by index, of more as how often each prompt is
drawn, on all processors, whose number decides nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import special

_CHUNK = 1 << 20  # resampled values held at once: they stay in the processor's cache
COUNTED_FROM = 1024  # prompts, from which on resamples are drawn as counts
_COUNTED_CHUNK = 1 << 18
_BELOW_ALL = 2.5  # standard deviations that most totals of counts stay below the number of prompts


def column_means(columns_CP: np.ndarray, draws: int = 10_000, seed: int = 0) -> np.ndarray:
    """The means of several columns in the same bootstrap resamples, of which more is computed.

    Args:
      columns_CP: values of each column by prompt, none of them NaN.
      draws: bootstrap resamples.
      seed: of the resampling.

    Returns:
      The means, [C, draws].
    """
    columns = list(np.asarray(columns_CP, np.float64))
    return np.stack(column_sums(columns, draws, seed)) / columns[0].size


def column_sums(columns: Sequence[np.ndarray], draws: int, seed: int) -> list[np.ndarray]:
    """The sums of each column's values in the same resamples, [draws]."""
    moving = [column for column in columns if np.ptp(column) > 0]
    size = columns[0].size
    draw = _sums_by_index if size < COUNTED_FROM else _sums_by_count
    drawn = iter(draw(moving, draws, seed) if moving else ())
    # Of equal values all sums are equal, whatever the order in which a processor adds them.
    return [
        next(drawn) if np.ptp(column) > 0 else np.full(draws, column.sum()) for column in columns
    ]


def _sums_by_index(columns: Sequence[np.ndarray], draws: int, seed: int) -> np.ndarray:
    """Sums [C, draws] of as many values as there are, each drawn by its index."""
    rng = np.random.default_rng(seed)
    size, sums = columns[0].size, []
    for rows in chunks(draws, size):
        drawn = rng.integers(size, size=(rows, size))
        sums.append([column[drawn].sum(axis=1) for column in columns])
    return np.concatenate(sums, axis=1)


def _sums_by_count(columns: Sequence[np.ndarray], draws: int, seed: int) -> np.ndarray:
    """The same, drawn as how often each value is in a resample, on all processors.

    Pieces have seeds of their own, so that the sums do not depend on the number of processors.
    """
    size = columns[0].size
    pieces = [*chunks(draws, size, _COUNTED_CHUNK)]
    seeds = np.random.SeedSequence(seed).spawn(len(pieces))
    table = np.stack(columns)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sums = pool.map(lambda rows, piece: _counted_sums(table, rows, piece), pieces, seeds)
        return np.concatenate([*sums], axis=1)


def _counted_sums(table_CP: np.ndarray, rows: int, seed: np.random.SeedSequence) -> np.ndarray:
    """Sums [C, rows] of resamples.

    How often each value is drawn is a Poisson number a little below 1 in the mean. Given their
    total such numbers are those of as many uniform draws; what the total lacks is drawn by index,
    and a resample whose total is more than all is drawn anew, which leaves the others what they
    are. The Poisson probabilities are whole numbers of 2^-16: the variance of a sum is within
    2 in 10,000 of what it should be.
    """
    rng = np.random.Generator(np.random.SFC64(seed))
    size = table_CP.shape[1]
    thresholds = _poisson_thresholds(1 - _BELOW_ALL / math.sqrt(size))
    sums = np.empty((len(table_CP), 0))
    while sums.shape[1] < rows:
        counts = _poisson_counts(rng, thresholds, (rows - sums.shape[1], size))
        lacking = size - counts.sum(axis=1, dtype=np.uint32).astype(np.int64)
        few = lacking >= 0
        exact, lacking = counts[few].astype(np.float64), lacking[few]
        drawn, ends = rng.integers(size, size=lacking.sum()), np.cumsum(lacking)
        parts = []
        for column in table_CP:
            before = np.append(0.0, np.cumsum(column[drawn]))
            parts.append(_dot(exact, column) + before[ends] - before[ends - lacking])
        sums = np.concatenate([sums, parts], axis=1)
    return sums


def _dot(counts_DP: np.ndarray, column_P: np.ndarray) -> np.ndarray:
    """Without BLAS, whose threads would wait for each other beside those that draw."""
    return np.einsum("dp,p->d", counts_DP, column_P)


def _poisson_thresholds(rate: float) -> np.ndarray:
    """A uniform 16-bit number is at least so many of these as a Poisson number is large."""
    below = np.rint(special.pdtr(np.arange(32), rate) * (1 << 16))
    return below[below < 1 << 16].astype(np.uint16)


def _poisson_counts(
    rng: np.random.Generator, thresholds: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    words = -(-math.prod(shape) // 4)
    uniform = rng.integers(1 << 64, size=words, dtype=np.uint64).view(np.uint16)
    uniform = uniform[: math.prod(shape)].reshape(shape)
    counts, reaches = np.zeros(shape, np.uint8), np.empty(shape, bool)
    for threshold in thresholds:
        np.greater_equal(uniform, threshold, out=reaches)
        counts += reaches.view(np.uint8)
    return counts


def chunks(draws: int, size: int, values: int | None = None) -> Iterator[int]:
    """Numbers of rows that make up `draws`, each small in memory at `size` values a row."""
    rows = max(1, (values or _CHUNK) // size)
    for start in range(0, draws, rows):
        yield min(rows, draws - start)
