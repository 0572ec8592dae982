"""Methods at equal perplexity and at equal toxicity: each pushed further, from the base on.

A method has a strength: how many steps it trains, how strongly it steers. Its frontier is the line
through the base and its rows, in the order of their perplexity. Methods compare by the least
toxicity that their lines have within a budget of perplexity, or by the perplexity at the same
toxicity. A row that is both less toxic and no less probable than the base costs nothing. Rows that
differ in nothing but their seed are one point of a line: the mean of their perplexities, and of
their maxima of every prompt.

The perplexity is of held-out text or, since some ways to decode are no distribution over all tokens
and have none, of the continuations under the reference model. A row whose perplexity is infinite is
beyond every budget and on no line.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from detox_jax.errors import UserError
from detox_jax.evaluation import resampling, statistics
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.results_files import Evaluation
from detox_jax.evaluation.rows import Quality
from detox_jax.evaluation.statistics import Interval

By = Literal["heldout", "continuations"]  # whose perplexity
HELDOUT: By = "heldout"
CONTINUATIONS: By = "continuations"
BUDGETS = (0.01, 0.05, 0.10)  # rise of perplexity over the base, as a share
REDUCTIONS = (0.1, 0.2)  # of the expected maximum toxicity below the base's


@dataclasses.dataclass(frozen=True)
class Frontier:
    """One method from the base on.

    Attributes:
      name: the method's.
      rows: those that it consists of, in the order of their perplexity; several seeds are one.
      seeds: of how many trainings each of them is.
      changes: perplexity over the base's, as a share, the base's 0 among them; ascending.
      toxicity: expected maximum toxicity at these, the base's among them.
      spoiled: whether the low toxicity of each is no success, see `soundness`.
      at_budgets: the least expected maximum toxicity of the line within each of `BUDGETS`; a line
        that ends before might go lower with a stronger row.
      at_reductions: the rise of perplexity at each of `REDUCTIONS`, as a share, below 0 where
        perplexity falls; unmeasured where the line does not get there.
      by: whose perplexity it is, `HELDOUT` or `CONTINUATIONS`.
    """

    name: str
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    changes: tuple[float, ...]
    toxicity: tuple[float, ...]
    spoiled: tuple[bool, ...]
    at_budgets: tuple[Interval, ...]
    at_reductions: tuple[Interval, ...]
    by: By = HELDOUT


def check(frontiers: Any, methods: Sequence[str], baseline: str) -> None:
    """Refuses what is not rows by name.

    Args:
      frontiers: as the user gave them.
      methods: the rows that there are.
      baseline: the one from which every line begins.

    Raises:
      UserError: naming the frontier and the row.
    """
    example = "{'whole': ['12-steps', '50-steps'], 'adapter': ['adapter']}"
    if not isinstance(frontiers, Mapping):
        raise UserError(f"FRONTIERS is {frontiers!r}; give rows by name: {example}")
    for name, rows in frontiers.items():
        if not isinstance(name, str) or not isinstance(rows, list | tuple) or not rows:
            raise UserError(f"FRONTIERS: {name!r} is {rows!r}; give rows by name: {example}")
        for i, row in enumerate(rows):
            if row not in methods or row == baseline:
                there = ", ".join(method for method in methods if method != baseline)
                raise UserError(f"FRONTIERS: {name!r} names {row!r}; there are {there}")
            if row in rows[:i]:
                raise UserError(f"FRONTIERS: {name!r} names {row!r} twice")


def check_figures(
    evaluation: Evaluation,
    rows_by_name: Mapping[str, Sequence[str]],
    seeds: Mapping[str, Sequence[str]] | None = None,
    by: By = HELDOUT,
) -> None:
    """Refuses lines that an evaluation has no figures for.

    Args:
      evaluation: with the maxima of every prompt (`prompts.json`) and perplexities.
      rows_by_name: the rows of each line.
      seeds: see `frontiers`.
      by: whose perplexity is compared, `HELDOUT` or `CONTINUATIONS`.

    Raises:
      UserError: for a row that is not there, or lacks what is compared.
    """
    if by not in (HELDOUT, CONTINUATIONS):
        raise UserError(f"FRONTIERS_BY is {by!r}; one of {HELDOUT}, {CONTINUATIONS}")
    baseline, perplexities = evaluation.results.baseline, _perplexities(evaluation.results, by)
    methods = evaluation.results.methods
    known = [name for name, rows in (seeds or {}).items() if {*rows} & {*methods}]
    check(rows_by_name, [*methods, *known], baseline)
    if rows_by_name and math.isinf(perplexities[baseline]):
        raise UserError(
            f"FRONTIERS: the perplexity of {baseline!r} is infinite, and nothing rises from it; "
            f"set FRONTIERS_BY to {CONTINUATIONS!r}, or take another BASELINE"
        )
    for name, rows in rows_by_name.items():
        points = _points(rows, seeds or {}, methods).values()
        for row in (baseline, *itertools.chain(*points)):
            if math.isnan(perplexities[row]):
                raise UserError(f"FRONTIERS: {name!r}: {row!r} has no {_LACKS[by]}")
            if row not in evaluation.prompts.methods:
                raise UserError(
                    f"FRONTIERS: {name!r}: {evaluation.directory}/prompts.json lacks {row!r}; "
                    "evaluate again"
                )
        on_line = [
            evaluation.prompts.methods[row].max_toxicity
            for rows in ((baseline,), *points)
            if all(math.isfinite(perplexities[row]) for row in rows)
            for row in rows
        ]
        if all(any(map(math.isnan, values)) for values in zip(*on_line, strict=False)):
            raise UserError(
                f"FRONTIERS: {name!r}: no prompt has a score of all of its rows and of "
                f"{baseline!r}; leave rows out, or evaluate with a higher MIN_COVERAGE"
            )


_LACKS = {
    HELDOUT: "perplexity of held-out text to compare it at; evaluate with HELDOUT, leave the row "
    f"out, or set FRONTIERS_BY to {CONTINUATIONS!r}",
    CONTINUATIONS: "perplexity of its continuations to compare it at; evaluate with REFERENCE",
}


def _perplexities(results: Results, by: By) -> dict[str, float]:
    """By method; NaN where it was not measured."""
    return {row.method: _perplexity(row.quality, by) for row in results.of_split(results.splits[0])}


def _perplexity(quality: Quality, by: By) -> float:
    if by == CONTINUATIONS:
        of_texts = quality.continuation_perplexity
        return math.nan if of_texts is None else of_texts.value
    return math.nan if quality.perplexity is None else quality.perplexity.of_all


def _points(
    rows: Sequence[str], seeds: Mapping[str, Sequence[str]], methods: Sequence[str]
) -> dict[str, list[str]]:
    """The rows behind each point of a line, by its name: of one with seeds all of them, once."""
    name_of = {row: name for name, several in seeds.items() for row in several}
    points: dict[str, list[str]] = {}
    for row in rows:
        name = name_of.get(row, row)
        there = [one for one in seeds.get(name, [name]) if one in methods]
        points[name if len(there) > 1 else there[0]] = there
    return points


def frontiers(
    evaluation: Evaluation,
    rows_by_name: Mapping[str, Sequence[str]],
    seeds: Mapping[str, Sequence[str]] | None = None,
    by: By = HELDOUT,
) -> list[Frontier]:
    """The lines of an evaluation, on all prompts.

    Intervals resample prompts, the same ones for all rows of a line. The perplexities are taken as
    they are: they are of as many held-out texts for every row.

    Args:
      evaluation: with the maxima of every prompt (`prompts.json`) and perplexities.
      rows_by_name: the rows of each line.
      seeds: rows that differ in nothing but their seed, by the name that they have as one: each of
        their names stands for the mean of all that the evaluation has.
      by: whose perplexity is compared, `HELDOUT` or `CONTINUATIONS`.

    Raises:
      UserError: see `check_figures`.
    """
    check_figures(evaluation, rows_by_name, seeds, by)
    methods = evaluation.results.methods
    return [
        _frontier(evaluation, name, _points(rows, seeds or {}, methods), by)
        for name, rows in rows_by_name.items()
    ]


def _frontier(
    evaluation: Evaluation, name: str, points: Mapping[str, Sequence[str]], by: By
) -> Frontier:
    results = evaluation.results
    of_rows = _perplexities(results, by)
    spoiled = {row.method for row in results.of_split(results.splits[0]) if row.spoiled}
    points = {results.baseline: [results.baseline], **points}
    perplexities = {
        point: float(np.mean([of_rows[row] for row in rows])) for point, rows in points.items()
    }
    ordered = sorted(points, key=lambda point: perplexities[point])
    of_line = [point for point in ordered if math.isfinite(perplexities[point])]
    rows = [point for point in ordered if point != results.baseline]
    changes_R = np.array([perplexities[point] for point in of_line])
    changes_R = changes_R / perplexities[results.baseline] - 1
    of_prompts = evaluation.prompts.methods
    maxima_RP = np.array(
        [
            np.mean([of_prompts[row].max_toxicity for row in points[point]], axis=0)
            for point in of_line
        ]
    )
    maxima_RP = maxima_RP[:, ~np.isnan(maxima_RP).any(axis=0)]
    means_RD = resampling.column_means(maxima_RP)
    means_R, base = maxima_RP.mean(axis=1), of_line.index(results.baseline)
    return Frontier(
        name,
        tuple(rows),
        tuple(len(points[point]) for point in rows),
        tuple(map(float, changes_R)),
        tuple(map(float, means_R)),
        tuple(not spoiled.isdisjoint(points[point]) for point in of_line),
        tuple(_at_budget(changes_R, means_R, means_RD, budget) for budget in BUDGETS),
        tuple(_at_reduction(changes_R, means_R, means_RD, base, less) for less in REDUCTIONS),
        by,
    )


def _at_budget(
    changes_R: np.ndarray, means_R: np.ndarray, means_RD: np.ndarray, budget: float
) -> Interval:
    """The least toxicity of the line where perplexity has risen by the budget or less."""
    if len(changes_R) == 1:  # the base alone
        return statistics.UNMEASURED
    rows = np.eye(len(changes_R))
    at_budget_R = np.array([np.interp(budget, changes_R, row) for row in rows])
    places = [at_budget_R, *rows[changes_R <= budget]]
    least_R = min(places, key=lambda weights_R: float(weights_R @ means_R))
    return _interval(float(least_R @ means_R), least_R @ means_RD)


def _at_reduction(
    changes_R: np.ndarray, means_R: np.ndarray, means_RD: np.ndarray, base: int, less: float
) -> Interval:
    """The rise of perplexity at which the line is first so much less toxic than the base."""
    value = rise_at(changes_R, means_R[:, None], base, less)[0]
    if math.isinf(value):
        return statistics.UNMEASURED
    return _interval(float(value), rise_at(changes_R, means_RD, base, less))


def rise_at(changes_R: np.ndarray, means_RD: np.ndarray, base: int, less: float) -> np.ndarray:
    """Where lines first fall by `less` below the base; infinity where none does.

    First is to the left of the base, from it on, for that costs no perplexity; then to its right.

    Args:
      changes_R: rise of perplexity, ascending.
      means_RD: toxicity at these, one line a column.
      base: the base's place among them.
      less: of the toxicity.

    Returns:
      The rises, [D].
    """
    rises_D = np.full(means_RD.shape[1], np.inf)
    target_D = means_RD[base] - less
    leftwards = [(near, near - 1) for near in range(base, 0, -1)]
    rightwards = [(near, near + 1) for near in range(base, len(changes_R) - 1)]
    for near, far in (*leftwards, *rightwards):
        before_D, after_D = means_RD[near], means_RD[far]
        falls = np.isinf(rises_D) & (after_D <= target_D)
        share_D = (before_D[falls] - target_D[falls]) / (before_D[falls] - after_D[falls])
        rises_D[falls] = changes_R[near] + share_D * (changes_R[far] - changes_R[near])
    return rises_D


def _interval(value: float, drawn_D: np.ndarray) -> Interval:
    # Of neighbours, so that infinity beside a number is no NaN.
    low, high = np.quantile(drawn_D, [0.025, 0.975], method="closest_observation")
    return Interval(value, float(low), float(high))
