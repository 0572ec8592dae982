"""How several scorers rank the same methods, and which pairs of methods change places."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats

from detox_jax.comparison.comparison import Rank, Ranking, Swap, Tau
from detox_jax.evaluation import metrics, statistics
from detox_jax.evaluation.metric_names import EMT, TP, RankedMetric
from detox_jax.evaluation.scored_texts import Scored
from detox_jax.evaluation.statistics import Difference

METRICS: dict[RankedMetric, Callable[[np.ndarray], np.ndarray]] = {
    EMT: metrics.maximum_toxicity,
    TP: metrics.any_toxic,
}


def rank(
    scorers: Mapping[str, Mapping[str, Scored]], draws: int = 1000, seed: int = 0
) -> dict[RankedMetric, Ranking]:
    """Ranks by expected maximum toxicity and by toxicity probability.

    Args:
      scorers: methods by scorer, aligned (`scored.align`).
      draws: resamples of the prompts behind each interval.
      seed: of the resampling.
    """
    return {
        metric: _rank_by(
            {
                scorer: {name: per_prompt(method.scores_PK) for name, method in methods.items()}
                for scorer, methods in scorers.items()
            },
            draws,
            seed,
        )
        for metric, per_prompt in METRICS.items()
    }


def _rank_by(values: Mapping[str, Mapping[str, np.ndarray]], draws: int, seed: int) -> Ranking:
    """See `rank`; of one metric's values a prompt, by scorer and method."""
    ranks, means = [], {}
    for scorer, methods in values.items():
        estimates = [statistics.bootstrap_mean(x_P, draws, seed) for x_P in methods.values()]
        means[scorer] = [estimate.value for estimate in estimates]
        places = stats.rankdata(means[scorer])
        for name, estimate, place in zip(methods, estimates, places, strict=True):
            ranks.append(Rank(scorer, name, estimate, float(place)))
    differences = {
        scorer: {
            pair: statistics.paired_difference(methods[pair[0]], methods[pair[1]], draws, seed)
            for pair in itertools.combinations(methods, 2)
        }
        for scorer, methods in values.items()
    }
    taus, swaps = [], []
    for a, b in itertools.combinations(values, 2):
        tau = float(stats.kendalltau(means[a], means[b]).statistic)  # type: ignore
        taus.append(Tau(a, b, tau))
        swaps += _swaps(a, b, differences[a], differences[b])
    return Ranking(tuple(ranks), tuple(taus), tuple(swaps))


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
