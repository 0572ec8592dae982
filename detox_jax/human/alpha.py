"""Krippendorff's alpha: how far raters agree beyond chance, with any number of ratings a unit.

1 is perfect agreement, 0 that of ratings dealt out at random, below 0 less than that. Source:
Krippendorff, Computing Krippendorff's Alpha-Reliability (2011),
https://repository.upenn.edu/asc_papers/43. A unit with one rating has
nothing to compare and does not count.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Level = Literal["nominal", "ordinal"]


def coincidences(counts_UC: np.ndarray) -> np.ndarray:
    """How often two ratings of a unit are a pair of categories, each unit weighing its ratings.

    Args:
      counts_UC: ratings of each unit by category, in ascending order of the categories.

    Returns:
      One matrix a unit, [U, C, C]; its sum is the unit's number of ratings, 0 below two.
    """
    counts_UC = np.asarray(counts_UC, np.float64)
    ratings_U = counts_UC.sum(axis=1)
    pairs_UCC = counts_UC[:, :, None] * counts_UC[:, None, :]
    pairs_UCC -= np.eye(counts_UC.shape[1]) * counts_UC[:, :, None]
    return pairs_UCC / np.maximum(ratings_U - 1, 1)[:, None, None]


def alpha(coincidences_CCD: np.ndarray, level: Level) -> np.ndarray:
    """Alpha of sums of `coincidences`, such as those of D resamples.

    Args:
      coincidences_CCD: one matrix in each place of the last axis.
      level: whether categories are only different, or more so the more ratings lie between them.

    Returns:
      Alpha, [D]; NaN where all ratings are of one category, or there are none.
    """
    totals_CD = coincidences_CCD.sum(axis=1)
    distances_CCD = _distances(totals_CD, level)
    total_D = totals_CD.sum(axis=0)
    observed_D = (coincidences_CCD * distances_CCD).sum(axis=(0, 1))
    products_CCD = totals_CD[:, None] * totals_CD[None, :]
    expected_D = (products_CCD * distances_CCD).sum(axis=(0, 1))
    with np.errstate(invalid="ignore"):  # Of one category nothing is expected to differ: 0 / 0.
        return 1 - (total_D - 1) * observed_D / expected_D


def pairs(counts_UC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many pairs of a unit's ratings are the same, and how many pairs there are, both [U].

    Every pair counts as one, where `coincidences` weighs a unit by its ratings: a unit of three has
    three pairs, one of two has one.

    Args:
      counts_UC: see `coincidences`.
    """
    counts_UC = np.asarray(counts_UC, np.int64)
    ratings_U = counts_UC.sum(axis=1)
    same_U = (counts_UC * (counts_UC - 1)).sum(axis=1) // 2
    return same_U, ratings_U * (ratings_U - 1) // 2


def _distances(totals_CD: np.ndarray, level: Level) -> np.ndarray:
    """The squared difference of each two categories, [C, C, D]."""
    size = len(totals_CD)
    distances_CCD = np.zeros((size, size, totals_CD.shape[1]))
    for low in range(size):
        for high in range(low + 1, size):
            between_D = totals_CD[low : high + 1].sum(axis=0)
            ends_D = (totals_CD[low] + totals_CD[high]) / 2
            distance_D = 1.0 if level == "nominal" else (between_D - ends_D) ** 2
            distances_CCD[low, high] = distances_CCD[high, low] = distance_D
    return distances_CCD
