"""How far two scorers agree on the same texts, and how the scores of one read as the other's.

Texts that one of the two did not score are left out. Texts of one record are alike, so intervals
are over records: Wilson's of the share of texts that both call the same, which has a width where
that is all of them; percentile bootstraps of the others.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import optimize

from detox_jax.comparison.comparison import (
    Agreement,
    Bin,
    Calibration,
    Compared,
    Step,
    Threshold,
)
from detox_jax.evaluation import statistics
from detox_jax.evaluation.statistics import Interval
from detox_jax.records import TOXIC

NUM_BINS = 10


def compare(
    a_N: np.ndarray, b_N: np.ndarray, record_N: np.ndarray, draws: int = 1000, seed: int = 0
) -> Compared:
    """Everything that is said of two scorers, A the reference.

    Args:
      a_N: A's scores in [0, 1], NaN where missing.
      b_N: B's.
      record_N: number of the record that a text belongs to, from 0.
      draws: bootstrap resamples of the records.
      seed: of the resampling, and of the halves behind `calibrated_difference`.
    """
    both_N = ~np.isnan(a_N) & ~np.isnan(b_N)
    a, b = a_N[both_N].astype(np.float64), b_N[both_N].astype(np.float64)
    record = np.unique(record_N[both_N], return_inverse=True)[1]
    return Compared(
        texts=len(a_N),
        scored_by_a=int(np.sum(~np.isnan(a_N))),
        scored_by_b=int(np.sum(~np.isnan(b_N))),
        scored_by_both=int(np.sum(both_N)),
        agreement=_agreement(a, b, record, draws, seed) if a.size else None,
    )


def _agreement(
    a: np.ndarray, b: np.ndarray, record: np.ndarray, draws: int, seed: int
) -> Agreement:
    """Of texts that both scored, and the records that they belong to."""
    intervals = _with_intervals(_Statistics.of(a, b), record, draws, seed)
    half = np.random.default_rng(seed).permutation(record.max() + 1)[record] % 2
    return Agreement(
        share_toxic_a=float(np.mean(a >= TOXIC)),
        share_toxic_b=float(np.mean(b >= TOXIC)),
        agreement=_share_called_the_same(a, b, record),
        kappa=intervals["kappa"],
        spearman=intervals["spearman"],
        pearson=intervals["pearson"],
        calibration=Calibration(isotonic_steps(a, b), _bins(a, b)),
        difference=float(np.sqrt(np.mean((a - b) ** 2))),
        calibrated_difference=_calibrated_difference(a, b, half),
        threshold=matching_threshold(a, b),
        records=int(record.max()) + 1,
    )


def _share_called_the_same(a: np.ndarray, b: np.ndarray, record: np.ndarray) -> Interval:
    same = (a >= TOXIC) == (b >= TOXIC)
    return statistics.share(np.bincount(record, same), np.bincount(record))


# --- agreement --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Statistics:
    """Figures of agreement as functions of how often each text counts.

    A resample is a count for each text, so that nothing is sorted more than once.

    Attributes:
      a: scores [N]; `b` alike.
      groups_a: which of A's different scores, in ascending order, a text has, [N]; `groups_b`.
    """

    a: np.ndarray
    b: np.ndarray
    groups_a: np.ndarray
    groups_b: np.ndarray

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray) -> _Statistics:
        groups_a, groups_b = (np.unique(x, return_inverse=True)[1] for x in (a, b))
        return cls(a, b, groups_a, groups_b)

    def __call__(self, weights: np.ndarray) -> dict[str, float]:
        toxic_a, toxic_b = self.a >= TOXIC, self.b >= TOXIC
        _, kappa = agreement_and_kappa(toxic_a, toxic_b, weights)
        ranks_a, ranks_b = _ranks(self.groups_a, weights), _ranks(self.groups_b, weights)
        return {
            "kappa": kappa,
            "spearman": _pearson(ranks_a, ranks_b, weights),
            "pearson": _pearson(self.a, self.b, weights),
        }


def agreement_and_kappa(
    toxic_a: np.ndarray, toxic_b: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """The share of texts that both call the same, and that beyond chance.

    Source: Cohen, A coefficient of agreement for nominal scales, Educational and Psychological
    Measurement 20 (1960). NaN where chance alone would agree on everything.
    """
    total = weights.sum()
    same, of_a, of_b = (weights[x].sum() for x in (toxic_a == toxic_b, toxic_a, toxic_b))
    # Of whole numbers: by shares, rounding would give a kappa of 0 in every resample a width.
    chance = of_a * of_b + (total - of_a) * (total - of_b)
    beyond, most = total * same - chance, total**2 - chance
    return float(same / total), float(beyond / most) if most > 0 else math.nan


def _ranks(groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean ranks of texts that count `weights` times; those of equal scores are equal."""
    counts = np.bincount(groups, weights)
    return (np.cumsum(counts) - (counts - 1) / 2)[groups]


def _pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    drawn, total = weights > 0, weights.sum()
    if np.ptp(x[drawn]) == 0 or np.ptp(y[drawn]) == 0:
        return math.nan
    x = x - (weights @ x) / total
    y = y - (weights @ y) / total
    return float((weights @ (x * y)) / math.sqrt((weights @ (x * x)) * (weights @ (y * y))))


def _with_intervals(
    figures: _Statistics, record: np.ndarray, draws: int, seed: int
) -> dict[str, Interval]:
    rng = np.random.default_rng(seed)
    num_records = int(record.max()) + 1
    drawn: dict[str, list[float]] = {}
    for _ in range(draws):
        counts = np.bincount(rng.integers(num_records, size=num_records), minlength=num_records)
        for name, value in figures(counts[record].astype(np.float64)).items():
            drawn.setdefault(name, []).append(value)
    intervals = {}
    for name, value in figures(np.ones(len(record))).items():
        present = np.array([x for x in drawn.get(name, []) if not math.isnan(x)])
        low, high = np.quantile(present, [0.025, 0.975]) if present.size else (math.nan, math.nan)
        intervals[name] = Interval(value, float(low), float(high))
    return intervals


# --- calibration ------------------------------------------------------------------------------


def isotonic_steps(a: np.ndarray, b: np.ndarray) -> tuple[Step, ...]:
    """The increasing function of B's score that is nearest to A's in least squares, as its steps.

    Returns:
      Ascending steps.
    """
    scores, fitted, counts = _isotonic(a, b)
    starts = np.flatnonzero(np.diff(fitted, prepend=-1.0) > 0)
    ends = np.append(starts[1:], len(scores))
    return tuple(
        Step(
            from_=float(scores[start]),
            to=float(scores[end - 1]),
            value=float(fitted[start]),
            texts=int(counts[start:end].sum()),
        )
        for start, end in zip(starts, ends, strict=True)
    )


def _isotonic(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B's different scores, the fit at each, and how many texts have it."""
    scores, group, counts = np.unique(b, return_inverse=True, return_counts=True)
    means = np.bincount(group, a) / counts
    return scores, optimize.isotonic_regression(means, weights=counts).x, counts


def _calibrated_difference(a: np.ndarray, b: np.ndarray, half: np.ndarray) -> float:
    """RMS distance of A to B read through a curve that was fitted to the other half."""
    total = 0.0
    for part in (0, 1):
        fitted_to, read = half != part, half == part
        if not fitted_to.any():
            return math.nan
        scores, fitted, _ = _isotonic(a[fitted_to], b[fitted_to])
        total += float(np.sum((a[read] - np.interp(b[read], scores, fitted)) ** 2))
    return math.sqrt(total / len(a))


def _bins(a: np.ndarray, b: np.ndarray) -> tuple[Bin, ...]:
    """A's mean score in ten equally wide bins of B's; empty bins are left out."""
    bin_of = np.minimum((b * NUM_BINS).astype(int), NUM_BINS - 1)
    return tuple(
        Bin(
            from_=number / NUM_BINS,
            texts=int(np.sum(bin_of == number)),
            mean_b=float(b[bin_of == number].mean()),
            mean_a=float(a[bin_of == number].mean()),
        )
        for number in np.unique(bin_of).tolist()
    )


def matching_threshold(a: np.ndarray, b: np.ndarray) -> Threshold:
    """The threshold at which B calls as many texts toxic as A does at 0.5, as nearly as B can."""
    scores, counts = np.unique(b, return_counts=True)
    candidates = np.append(scores, np.inf)
    toxic_from = np.append(np.cumsum(counts[::-1])[::-1], 0)
    # Of two that are equally near, the higher.
    nearest = len(candidates) - 1 - np.argmin(np.abs(toxic_from - np.sum(a >= TOXIC))[::-1])
    threshold = float(candidates[nearest])
    toxic_b = b >= threshold
    agreement, kappa = agreement_and_kappa(a >= TOXIC, toxic_b, np.ones(len(a)))
    share = float(np.mean(toxic_b))
    return Threshold(threshold, share, agreement, kappa)
