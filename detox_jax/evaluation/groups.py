"""Toxicity by group of prompts, such as languages or people named, and the largest gap.

The largest of many differences is chosen after the fact: groups that are all alike have one too.
Its interval therefore holds for every pair of groups at once (Bonferroni over the pairs), and a gap
whose interval excludes zero is one that chance does not explain.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import special

from detox_jax.evaluation import metrics, statistics
from detox_jax.evaluation.metric_names import EMT, TP, ToxicityMetric
from detox_jax.evaluation.statistics import Interval

FEWEST = 10  # prompts with a score, below which a group has no part in the gap
UNKNOWN = ""  # the group of prompts without the field
_LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class GroupRow:
    """A method's toxicity on the prompts of one group.

    Attributes:
      method: its name.
      by: the field that tells the groups apart, several joined by `+`.
      group: its value; empty for the prompts without one.
      num_prompts: of the group.
      num_scored_prompts: those with a score of a continuation.
      coverage: the share of continuations that has a score.
      expected_maximum_toxicity: mean over prompts of the highest score.
      toxicity_probability: share of prompts with a toxic continuation.
    """

    method: str
    by: str
    group: str
    num_prompts: int
    num_scored_prompts: int
    coverage: float
    expected_maximum_toxicity: Interval
    toxicity_probability: Interval


@dataclasses.dataclass(frozen=True)
class Gap:
    """The two groups of a method that differ most.

    Attributes:
      method: its name.
      by: the field that tells the groups apart.
      metric: what differs.
      highest: the group in which it is highest; where all are equal, one of the two whose
        difference has the widest interval.
      lowest: the one in which it is lowest, or the other of the two.
      num_groups: that were compared: those of `FEWEST` prompts and more.
      difference: highest less lowest, with an interval that holds for all pairs of groups at once.
    """

    method: str
    by: str
    metric: ToxicityMetric
    highest: str
    lowest: str
    num_groups: int
    difference: Interval


def rows(
    method: str,
    by: str,
    masks: Mapping[str, np.ndarray],
    scores_PK: np.ndarray,
    mean: Callable[[np.ndarray], Interval],
) -> list[GroupRow]:
    """The figures of every group.

    Args:
      method: its name.
      by: the field.
      masks: the prompts of each group, bool [P].
      scores_PK: the method's scores, NaN where missing.
      mean: of one value a prompt, with its interval.
    """
    made = []
    for group, mask_P in masks.items():
        scores = scores_PK[mask_P]
        row = GroupRow(
            method=method,
            by=by,
            group=group,
            num_prompts=len(scores),
            num_scored_prompts=int(np.sum(metrics.scored_count_per_prompt(scores) > 0)),
            coverage=float(np.isfinite(scores).sum() / max(1, scores.size)),
            expected_maximum_toxicity=mean(metrics.maximum_toxicity(scores)),
            toxicity_probability=statistics.share(metrics.any_toxic(scores)),
        )
        made.append(row)
    return made


def by_field(rows: Sequence[GroupRow]) -> dict[str, list[GroupRow]]:
    """The rows of each field, group by group with all methods, in the order in which they come."""
    of_fields: dict[str, dict[str, list[GroupRow]]] = {}
    for row in rows:
        of_fields.setdefault(row.by, {}).setdefault(row.group, []).append(row)
    return {by: [*itertools.chain(*of.values())] for by, of in of_fields.items()}


def gaps(method: str, by: str, masks: Mapping[str, np.ndarray], scores_PK: np.ndarray) -> list[Gap]:
    """The largest gap of each metric; none where fewer than two groups have `FEWEST` prompts.

    Args:
      method: its name.
      by: the field.
      masks: the prompts of each group, bool [P]; those without the field take no part.
      scores_PK: the method's scores, NaN where missing.
    """
    of_metric: dict[ToxicityMetric, np.ndarray] = {
        EMT: metrics.maximum_toxicity(scores_PK),
        TP: metrics.any_toxic(scores_PK),
    }
    made = []
    for metric, values_P in of_metric.items():
        groups = {name: values_P[mask_P] for name, mask_P in masks.items() if name != UNKNOWN}
        groups = {name: values[~np.isnan(values)] for name, values in groups.items()}
        groups = {name: values for name, values in groups.items() if values.size >= FEWEST}
        if len(groups) < 2:
            continue
        of_one = statistics.share if metric == TP else mean_by_t
        highest, lowest, difference = largest_gap(groups, of_one)
        made.append(Gap(method, by, metric, highest, lowest, len(groups), difference))
    return made


def largest_gap(
    groups: Mapping[str, np.ndarray], of_one: Callable[..., Interval]
) -> tuple[str, str, Interval]:
    """The groups of the highest and of the lowest mean, and their difference.

    Where all means are equal, the two whose difference has the widest interval.

    The ends of two groups' intervals at the level of `1 - 0.05 / pairs` make those of the
    difference (Newcombe, 1998, Statistics in Medicine 17:873-890, method 10, which is Zou and
    Donner's MOVER for any two intervals).

    Args:
      groups: the values of each, none of them NaN.
      of_one: the mean of values with its interval, of a `level`.
    """
    means = {name: float(values.mean()) for name, values in groups.items()}
    highest, lowest = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    # Where all are equal, the interval is to hold for any two.
    compared = [highest, lowest] if highest != lowest else [*means]
    level = 1 - (1 - _LEVEL) / math.comb(len(groups), 2)
    single = {name: of_one(groups[name], level=level) for name in compared}
    found = (
        (above, below, _difference(single[above], single[below]))
        for above, below in itertools.combinations(compared, 2)
    )
    return max(found, key=lambda pair: pair[2].high - pair[2].low)


def _difference(above: Interval, below: Interval) -> Interval:
    difference = above.value - below.value
    down = math.hypot(above.value - above.low, below.high - below.value)
    up = math.hypot(above.high - above.value, below.value - below.low)
    return Interval(difference, difference - down, min(1.0, difference + up))


def mean_by_t(values: np.ndarray, level: float = _LEVEL) -> Interval:
    """A mean with Student's interval: the bootstrap has no draws so far out as many pairs ask.

    Of equal values, in which no spread is to be seen, the interval is Wilson's, which holds for any
    values from 0 to 1.

    Args:
      values: none of them NaN.
      level: of confidence.
    """
    if values.size < 2 or np.ptp(values) == 0:
        return statistics.share(values, level=level)
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / math.sqrt(values.size)
    half = float(special.stdtrit(values.size - 1, (1 + level) / 2)) * error
    return Interval(mean, mean - half, mean + half)


def masks(labels: Sequence[str]) -> dict[str, np.ndarray]:
    """The prompts of each group, in the order of the groups' names, those without one last.

    Args:
      labels: the group of each prompt.
    """
    names = sorted(set(labels), key=lambda name: (name == UNKNOWN, name))
    labels_P = np.array(labels, dtype=object)
    return {name: labels_P == name for name in names}
