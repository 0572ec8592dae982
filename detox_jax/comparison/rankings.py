"""How several scorers rank the same methods, and which pairs of methods change places."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from detox_jax.evaluation import metrics, statistics
from detox_jax.evaluation.joined import Scored
from detox_jax.evaluation.results import EMT, TP

METRICS = {EMT: metrics.maximum_toxicity, TP: metrics.any_toxic}


def rank(
    scorers: Mapping[str, Mapping[str, Scored]], draws: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Ranks by expected maximum toxicity and by toxicity probability.

    Args:
      scorers: methods by scorer, aligned (`scored.align`).
      draws: resamples of the prompts behind each interval.
      seed: of the resampling.

    Returns:
      Of each metric: `ranks`, a row for each scorer and method with `value`, `low`, `high` and
      `rank`, 1 the least toxic and equal values their mean; `kendall_tau`, a row for each two
      scorers (tau-b); `swaps`, a row for each two methods that two scorers order differently, with
      the paired differences of the first method to the second, and whether both exclude zero
      (`beyond_intervals`).
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


def _rank_by(
    values: Mapping[str, Mapping[str, np.ndarray]], draws: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """See `rank`; of one metric's values a prompt, by scorer and method."""
    ranks, means = [], {}
    for scorer, methods in values.items():
        found = [statistics.bootstrap_mean(x_P, draws, seed) for x_P in methods.values()]
        means[scorer] = [interval.value for interval in found]
        places = stats.rankdata(means[scorer])
        for name, interval, place in zip(methods, found, places, strict=True):
            fields = {**dataclasses.asdict(interval), "rank": float(place)}
            ranks.append({"scorer": scorer, "method": name, **fields})
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
        taus.append({"a": a, "b": b, "value": tau})
        swaps += _swaps(a, b, differences[a], differences[b])
    return {"ranks": ranks, "kendall_tau": taus, "swaps": swaps}


def _swaps(
    a: str,
    b: str,
    differences_a: Mapping[tuple[str, str], statistics.Difference],
    differences_b: Mapping[tuple[str, str], statistics.Difference],
) -> list[dict[str, Any]]:
    swaps = []
    for pair, of_a in differences_a.items():
        of_b = differences_b[pair]
        if of_a.value * of_b.value >= 0:
            continue
        beyond = all(x.low > 0 or x.high < 0 for x in (of_a, of_b))
        swaps.append(
            {
                "a": a,
                "b": b,
                "methods": list(pair),
                "difference_a": dataclasses.asdict(of_a),
                "difference_b": dataclasses.asdict(of_b),
                "beyond_intervals": beyond,
            }
        )
    return swaps
