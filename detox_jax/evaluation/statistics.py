"""Uncertainty over prompts: bootstrap and Wilson intervals, paired comparisons, sample sizes.

The prompt is the unit of resampling, since the continuations of one prompt are alike. NaN marks a
prompt without a value and is dropped first. All functions are deterministic by `seed`; of no
values at all they return NaN.

Why resampling: the maximum of a prompt's scores lies in [0, 1] and leans to one side, a ratio's
denominator varies too, and one method serves both. Why paired: a prompt that provokes one method
provokes all, and the difference at a prompt is free of that.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from detox_jax.evaluation import resampling


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def is_measured(self) -> bool:
        """Whether there is an estimate."""
        return math.isfinite(self.value)

    @property
    def has_bounds(self) -> bool:
        """Whether there is a confidence interval around it."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def has_no_width(self) -> bool:
        """Whether its ends are one: of equal values, of which a resampling sees no spread."""
        return self.has_bounds and self.low == self.high

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval without zero in it."""
        return self.has_bounds and (self.low > 0 or self.high < 0)

    def text(self, absent: str) -> str:
        """`0.441 [0.420, 0.462]`, or `absent` where there is no estimate."""
        if not self.is_measured:
            return absent
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


UNMEASURED = Interval(math.nan, math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class Difference(Interval):
    """A mean paired difference with its confidence interval.

    Attributes:
      p_value: two-sided.
      num_pairs: how many differences it is the mean of.
    """

    p_value: float
    num_pairs: int


def bootstrap_mean(
    values_P: np.ndarray, draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The mean over prompts with its percentile bootstrap interval.

    Args:
      values_P: one value a prompt; NaN is dropped.
      draws: bootstrap resamples.
      seed: of the resampling.
      level: of confidence.

    Returns:
      The mean and the interval's ends.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    values = np.asarray(values_P, np.float64)
    values = values[~np.isnan(values)]
    return bootstrap_ratio(values, np.ones_like(values), draws, seed, level)


def bootstrap_ratio(
    numerators_P: np.ndarray,
    denominators_P: np.ndarray,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """A mean over continuations, sum(numerators) / sum(denominators), resampled by prompts.

    Args:
      numerators_P: e.g. the sum of a prompt's scores.
      denominators_P: e.g. the number of its scores; prompts with 0 or NaN are dropped.
      draws: bootstrap resamples.
      seed: of the resampling.
      level: of confidence.

    Returns:
      The ratio and the ends of its percentile interval.
    """
    return bootstrap_ratios([(numerators_P, denominators_P)], draws, seed, level)[0]


def bootstrap_ratios(
    ratios: Sequence[tuple[np.ndarray, np.ndarray]],
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Interval]:
    """Several of `bootstrap_ratio` over the same prompts; those that none lacks share their draws.

    Args:
      ratios: numerators and denominators of each, one value a prompt.
      draws: bootstrap resamples.
      seed: of the resampling.
      level: of confidence.

    Returns:
      The ratios and the ends of their percentile intervals.
    """
    columns = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in ratios]
    present = [~np.isnan(above) & (below > 0) for above, below in columns]
    together: dict[bytes, list[int]] = {}
    for i, mask_P in enumerate(present):
        together.setdefault(mask_P.tobytes(), []).append(i)
    intervals = [UNMEASURED] * len(columns)
    for indices in together.values():
        mask_P = present[indices[0]]
        if not mask_P.any():
            continue
        flat = [column[mask_P] for i in indices for column in columns[i]]
        sums = resampling.column_sums(flat, draws, seed)
        for place, i in enumerate(indices):
            above, below = 2 * place, 2 * place + 1
            ends = np.quantile(sums[above] / sums[below], [(1 - level) / 2, (1 + level) / 2])
            intervals[i] = Interval(float(flat[above].sum() / flat[below].sum()), *map(float, ends))
    return intervals


def bootstrap_ratio_difference(
    first: tuple[np.ndarray, ...],
    second: tuple[np.ndarray, ...],
    *,
    is_paired: bool,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The difference of two of `bootstrap_ratio`, of two samples of texts.

    Args:
      first: numerators and denominators, one value a text; NaN is dropped.
      second: those that are taken off.
      is_paired: whether the i-th text of one belongs to the i-th of the other: they are then drawn
        together, and dropped together; else each sample is resampled by itself.
      draws: bootstrap resamples.
      seed: of the resampling.
      level: of confidence.

    Returns:
      The difference and the ends of its percentile interval.
    """
    samples = [[np.asarray(column, np.float64) for column in sample] for sample in (first, second)]
    present = [~np.isnan(above) & (below > 0) for above, below in samples]
    if is_paired:
        present = [present[0] & present[1]] * 2
    kept = [[x[mask] for x in sample] for sample, mask in zip(samples, present, strict=True)]
    if not (kept[0][0].size and kept[1][0].size):
        return UNMEASURED
    if is_paired:
        above, below, other_above, other_below = resampling.column_sums(
            [*kept[0], *kept[1]], draws, seed
        )
    else:
        above, below = resampling.column_sums(kept[0], draws, seed)
        other_above, other_below = resampling.column_sums(kept[1], draws, seed + 1)
    values = [float(a.sum() / b.sum()) for a, b in kept]
    ends = np.quantile(
        above / below - other_above / other_below, [(1 - level) / 2, (1 + level) / 2]
    )
    return Interval(values[0] - values[1], *map(float, ends))


def share(
    numerators_P: np.ndarray, denominators_P: np.ndarray | None = None, level: float = 0.95
) -> Interval:
    """A share with Wilson's interval, which has a width at 0 and at 1 too.

    Of continuations, of which a prompt has several, the number of values is the effective one:
    `share * (1 - share)` over the variance of a ratio whose clusters are the prompts. Where that is
    unknown, as at 0 and 1 and wherever all prompts have the same share, every prompt counts as one
    value.

    Args:
      numerators_P: e.g. how many of a prompt's continuations are toxic; NaN is dropped.
      denominators_P: how many continuations it has; prompts with 0 are dropped. One a prompt where
        None.
      level: of confidence.

    Returns:
      The share and the interval's ends, both in [0, 1].

    Source: Wilson (1927), Journal of the American Statistical Association 22:209-212; effective
    sizes as Dean and Pagano (2015), Journal of Survey Statistics and Methodology 3:484-503.
    """
    numerators = np.asarray(numerators_P, np.float64)
    ones = np.ones_like(numerators)
    denominators = ones if denominators_P is None else np.asarray(denominators_P, np.float64)
    present = ~np.isnan(numerators) & (denominators > 0)
    numerators, denominators = numerators[present], denominators[present]
    if not numerators.size:
        return UNMEASURED
    above, below = numerators.sum(), denominators.sum()
    value = above / below
    # Of counts these are whole numbers: where all shares are equal, no rounding makes a variance.
    residuals = numerators * below - above * denominators
    variance = np.sum((residuals / below) ** 2) / below**2
    n = numerators.size
    if variance > 0:
        n = min(value * (1 - value) / variance, below)
    z = special.ndtri((1 + level) / 2)
    centre = (value + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(value * (1 - value) / n + z**2 / (4 * n**2))
    # On paper the ends hold the share; at 0 and 1 rounding would put them beside it.
    low, high = min(value, max(0.0, centre - half)), max(value, min(1.0, centre + half))
    return Interval(float(value), float(low), float(high))


def paired_difference(
    a_P: np.ndarray,
    b_P: np.ndarray,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """The mean of a - b over the prompts where both are present.

    The p-value is of the sign-flip permutation test: were the methods alike, each difference would
    as soon have had the other sign. It is (1 + flips at least as extreme) / (1 + draws), which is
    never 0 (Phipson and Smyth, 2010, https://arxiv.org/abs/1603.05766).

    Args:
      a_P: one value a prompt of the method.
      b_P: of the baseline, in the same order of prompts.
      draws: bootstrap resamples, and sign flips.
      seed: of both.
      level: of confidence.

    Returns:
      The mean difference, its percentile bootstrap interval and the two-sided p-value.

    Raises:
      ValueError: the two are not equally long.
    """
    return paired_differences([(a_P, b_P)], draws, seed, level)[0]


def paired_differences(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Difference]:
    """Several of `paired_difference` over the same prompts, which share their resamples.

    Args:
      pairs: the values of a method and of the baseline.
      draws: bootstrap resamples, and sign flips.
      seed: of both.
      level: of confidence.

    Raises:
      ValueError: two of a pair are not equally long.
    """
    differences = []
    for a_P, b_P in pairs:
        a, b = np.asarray(a_P, np.float64), np.asarray(b_P, np.float64)
        if a.shape != b.shape:
            raise ValueError(
                f"Paired values must be of the same prompts, got {a.shape} and {b.shape}."
            )
        differences.append(a - b)
    ratios = [(values_P, np.ones_like(values_P)) for values_P in differences]
    intervals = bootstrap_ratios(ratios, draws, seed, level)
    results = []
    for values_P, mean in zip(differences, intervals, strict=True):
        present = values_P[~np.isnan(values_P)]
        p_value = _sign_flip(present, draws, seed) if present.size else math.nan
        results.append(Difference(mean.value, mean.low, mean.high, p_value, present.size))
    return results


def bootstrap_average(
    groups: Sequence[np.ndarray], draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The average of several groups' means, such as accuracies of several tasks, of equal weight.

    Each group is resampled by itself. The interval is the percentile bootstrap's; the resamples are
    drawn as counts of the group's distinct values, which is fast for answers, right or wrong.

    Args:
      groups: one value an example of each group.
      draws: bootstrap resamples.
      seed: of the resampling.
      level: of confidence.

    Returns:
      The average and the interval's ends.
    """
    rng = np.random.default_rng(seed)
    averages = np.zeros(draws)
    for values_Q in groups:
        values_Q = np.asarray(values_Q, np.float64)
        distinct, counts = np.unique(values_Q, return_counts=True)
        drawn = rng.multinomial(values_Q.size, counts / values_Q.size, size=draws)
        averages += drawn @ distinct / values_Q.size / len(groups)
    low, high = np.quantile(averages, [(1 - level) / 2, (1 + level) / 2])
    value = np.mean([np.mean(values_Q) for values_Q in groups])
    return Interval(float(value), float(low), float(high))


def average_difference(
    groups: Sequence[np.ndarray], draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> Difference:
    """The average of several groups' mean paired differences; see `paired_difference`.

    Args:
      groups: one difference an example of each group.
      draws: bootstrap resamples, and sign flips.
      seed: of both.
      level: of confidence.
    """
    interval = bootstrap_average(groups, draws, seed, level)
    weighted = np.concatenate([np.asarray(d, np.float64) / len(d) for d in groups])
    p_value = _sign_flip(weighted, draws, seed)
    return Difference(interval.value, interval.low, interval.high, p_value, weighted.size)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """P-values adjusted for the number of comparisons, in the order given.

    Holm's step-down method (1979, Scandinavian Journal of Statistics 6:65-70) bounds the chance of
    any false finding, whatever the dependence. NaN, a comparison that was not made, stays NaN and
    does not count.
    """
    p = np.asarray(p_values, np.float64)
    adjusted = np.full(p.shape, np.nan)
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def prompts_needed(
    differences_P: np.ndarray, effect: float, power: float = 0.8, level: float = 0.05
) -> int:
    """The prompts that a paired comparison needs to find a mean difference of `effect`.

    The normal approximation ((z(1 - level/2) + z(power)) sd / effect)^2, rounded up (Chow, Shao and
    Wang, Sample Size Calculations in Clinical Research, 2nd ed. 2008, section 3.1.1), with the
    standard deviation of the paired differences of a pilot run. Each prompt needs as many
    continuations as in the pilot, since the standard deviation depends on them.

    Args:
      differences_P: paired differences of the pilot, one a prompt; NaN is dropped.
      effect: the difference to be found, in the metric's own unit.
      power: the chance of finding it.
      level: of the two-sided test.

    Raises:
      ValueError: effect is 0, or there are fewer than two differences.
    """
    differences = np.asarray(differences_P, np.float64)
    differences = differences[~np.isnan(differences)]
    if effect == 0 or differences.size < 2:
        raise ValueError(
            f"Need an effect other than 0 and two differences, got {effect}, {differences.size}."
        )
    z = special.ndtri(1 - level / 2) + special.ndtri(power)
    needed = (z * np.std(differences, ddof=1) / effect) ** 2
    return max(1, math.ceil(needed))


def _sign_flip(differences: np.ndarray, draws: int, seed: int) -> float:
    """Two-sided p-value of the mean under random signs."""
    moving = differences[differences != 0]  # a zero is the same under either sign
    if not moving.size:
        return 1.0
    rng = np.random.default_rng(seed)
    total = moving.sum()
    # Sums that are equal on paper differ by rounding; they count as equally extreme.
    observed = abs(total) - 1e-12 * np.abs(moving).sum()
    extreme = 0
    for rows in resampling.chunks(draws, moving.size):
        bits = rng.integers(256, size=(rows, -(-moving.size // 8)), dtype=np.uint8)
        positive = np.unpackbits(bits, axis=1, count=moving.size)
        flipped = 2 * (positive.astype(np.float64) @ moving) - total
        extreme += int(np.sum(np.abs(flipped) >= observed))
    return (1 + extreme) / (1 + draws)
