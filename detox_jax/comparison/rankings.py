"""How several scorers rank the same methods, and which pairs of methods change places.

Ranked is what all scorers scored: by other texts each, two that agree on every text might differ.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

from detox_jax.comparison.comparison import Coverage, Rank, Ranking, Swap, Tau
from detox_jax.evaluation import metrics, statistics
from detox_jax.evaluation.metric_names import EMT, TP, RankedMetric
from detox_jax.evaluation.scored_texts import Scored
from detox_jax.evaluation.statistics import Difference, Interval

METRICS: dict[RankedMetric, Callable[[np.ndarray], np.ndarray]] = {
    EMT: metrics.maximum_toxicity,
    TP: metrics.any_toxic,
}


def rank(
    scorers: Mapping[str, Mapping[str, Scored]], draws: int = 1000, seed: int = 0
) -> dict[RankedMetric, Ranking]:
    """Ranks by expected maximum toxicity and by toxicity probability, of texts that all scored.

    Args:
      scorers: methods by scorer, aligned (`joined.align`).
      draws: resamples of the prompts behind each interval.
      seed: of the resampling.
    """
    by_all = _scored_by_all(scorers)
    return {
        metric: _rank_by(
            metric,
            {
                scorer: {
                    name: per_prompt(np.where(by_all[name], method.scores_PK, np.nan))
                    for name, method in methods.items()
                }
                for scorer, methods in scorers.items()
            },
            draws,
            seed,
        )
        for metric, per_prompt in METRICS.items()
    }


def coverage(scorers: Mapping[str, Mapping[str, Scored]]) -> tuple[Coverage, ...]:
    """How many texts of each method each scorer scored; nothing where all texts have all scores.

    Args:
      scorers: see `rank`.
    """
    by_all = {name: int(mask_PK.sum()) for name, mask_PK in _scored_by_all(scorers).items()}
    found = tuple(
        Coverage(
            scorer, name, method.num_samples, int(np.isfinite(method.scores_PK).sum()), by_all[name]
        )
        for scorer, methods in scorers.items()
        for name, method in methods.items()
    )
    return found if any(one.scored < one.texts for one in found) else ()


def _scored_by_all(scorers: Mapping[str, Mapping[str, Scored]]) -> dict[str, np.ndarray]:
    """Which continuations of each method have a score of every scorer, bool [P, K]."""
    names = next(iter(scorers.values()))
    return {
        name: np.all([np.isfinite(methods[name].scores_PK) for methods in scorers.values()], axis=0)
        for name in names
    }


def _rank_by(
    metric: RankedMetric,
    values: Mapping[str, Mapping[str, np.ndarray]],
    draws: int,
    seed: int,
) -> Ranking:
    """See `rank`; of one metric's values a prompt, by scorer and method."""
    ranks, means = [], {}
    for scorer, methods in values.items():
        estimates = [_estimate(metric, x_P, draws, seed) for x_P in methods.values()]
        means[scorer] = [estimate.value for estimate in estimates]
        places = stats.rankdata(means[scorer], nan_policy="omit")
        for (name, x_P), estimate, place in zip(methods.items(), estimates, places, strict=True):
            prompts = int(np.sum(~np.isnan(x_P)))
            ranks.append(Rank(scorer, name, estimate, float(place), prompts))
    differences = {
        scorer: {
            pair: statistics.paired_difference(methods[pair[0]], methods[pair[1]], draws, seed)
            for pair in itertools.combinations(methods, 2)
        }
        for scorer, methods in values.items()
    }
    taus, swaps = [], []
    for a, b in itertools.combinations(values, 2):
        taus.append(Tau(a, b, _tau(means[a], means[b])))
        swaps += _swaps(a, b, differences[a], differences[b])
    return Ranking(tuple(ranks), tuple(taus), tuple(swaps))


def _estimate(metric: RankedMetric, values_P: np.ndarray, draws: int, seed: int) -> Interval:
    """As `evaluate` has it: a share has an interval with a width at 0 and at 1."""
    if metric == TP:
        return statistics.share(values_P)
    return statistics.bootstrap_mean(values_P, draws, seed)


def _tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b over the methods that both have a figure of; NaN of fewer than two."""
    both = [pair for pair in zip(a, b, strict=True) if np.isfinite(pair).all()]
    if len(both) < 2:
        return math.nan
    return float(stats.kendalltau(*zip(*both, strict=True)).statistic)  # type: ignore


def _swaps(
    a: str,
    b: str,
    differences_a: Mapping[tuple[str, str], Difference],
    differences_b: Mapping[tuple[str, str], Difference],
) -> list[Swap]:
    swaps = []
    for pair, of_a in differences_a.items():
        of_b = differences_b[pair]
        if of_a.value * of_b.value >= 0:
            continue
        beyond = of_a.excludes_zero and of_b.excludes_zero
        swaps.append(Swap(a, b, pair, of_a, of_b, beyond))
    return swaps
