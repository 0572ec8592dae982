"""Which pictures a set of results has figures for, with their titles and captions."""

from __future__ import annotations

import dataclasses
import itertools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detox_jax.evaluation.frontiers import BUDGETS
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.results_files import Curve, Evaluation
from detox_jax.evaluation.soundness import SPOILED
from detox_jax.records import TOXIC
from detox_jax.report import drawing, figures
from detox_jax.report.drawing import Line
from detox_jax.report.figures import Measured
from detox_jax.report.seeds import MergedRow
from detox_jax.report.tables import kind

_K_CURVE = "k-curve"
_ORDER = ("toxicity", "quality", "splits", "distribution", _K_CURVE, "reliability")
_MOST_TOLD_APART = 12  # methods, in one picture
_POINTS = 200  # of a training curve: a picture shows no more
_OF_SEEDS = " Of several seeds that ended at different steps it shows the first."


@dataclasses.dataclass(frozen=True)
class Chart:
    """A picture of results.

    Attributes:
      name: of its files.
      title: above it.
      caption: below it.
      on_axes: one of the functions of `drawing`.
      shown: what it draws.
      height: of the figure, in inches.
      subject: who scored how many prompts; nothing where no scorer did.
    """

    name: str
    title: str
    caption: str
    on_axes: Callable[[Axes, Any], None]
    shown: Any
    height: float
    subject: str = ""

    def draw(self) -> Figure:
        """The figure, for a page that has a heading above it."""
        return figures.single(self.on_axes, self.shown, self.height)

    def draw_alone(self) -> Figure:
        """The figure with its heading, for a file."""
        heading = f"{self.title}\n{self.subject}".strip()
        return figures.single(self.on_axes, self.shown, self.height, heading)


def charts(evaluation: Evaluation) -> list[Chart]:
    """Every picture that an evaluation has figures for."""
    return [*of_scores(evaluation), *of_training(evaluation)]


def of_scores(evaluation: Evaluation) -> list[Chart]:
    """The pictures of what the scorer said."""
    results = evaluation.results
    of_first = [*_toxicity(results), *_maxima(evaluation), *_k_curve(evaluation)]
    drawn = [
        *(dataclasses.replace(x, subject=_subject_of(x, results)) for x in of_first),
        *(dataclasses.replace(x, subject=_all_splits(results)) for x in _splits(results)),
        *(dataclasses.replace(x, subject=results.scorer.name) for x in _reliability(evaluation)),
    ]
    return sorted(drawn, key=lambda chart: _ORDER.index(chart.name))


def subject(results: Results, split: str) -> str:
    """`ngram, 499 prompts × 25 continuations`: who scored what a panel shows."""
    rows = [row.toxicity for row in results.of_split(split)]
    prompts, *others = {row.num_prompts for row in rows}
    samples, *more = {row.samples_per_prompt for row in rows}
    words = results.scorer.name
    if prompts and not others:
        words += f", {prompts:,} {'prompts' if split == 'full' else f'{split} prompts'}"
        words += f" × {samples} continuations" if samples and not more else ""
    return _short(words)


def _subject_of(chart: Chart, results: Results) -> str:
    """Of prompts of which some have too few scores for a curve it does not say how many."""
    is_of_some = chart.name == _K_CURVE and _lacks_scores(results)
    return _short(results.scorer.name) if is_of_some else subject(results, results.splits[0])


def _lacks_scores(results: Results) -> bool:
    return any(row.toxicity.coverage < 1 for row in results.of_split(results.splits[0]))


def _all_splits(results: Results) -> str:
    """`ngram; prompts: full 499, toxic 100, nontoxic 399`."""
    counted = []
    for split in results.splits:
        count, *others = {row.toxicity.num_prompts for row in results.of_split(split)}
        if count and not others:
            counted.append(f"{split} {count:,}")
    words = results.scorer.name
    return _short(f"{words}; prompts: {', '.join(counted)}" if counted else words)


def _short(words: str) -> str:
    """On one line of a narrow figure, and printable, as SVG asks for."""
    printable = "".join(c if c.isprintable() else " " for c in words)
    return textwrap.shorten(printable, 60, placeholder="…")


def measured(results: Results, split: str) -> list[Measured]:
    """The rows of a split as the pictures show them."""
    looks = _looks(results)
    return [
        Measured(
            row.method,
            results.methods.index(row.method),
            row.toxicity.expected_maximum_toxicity,
            row.toxicity.toxicity_probability,
            math.nan if row.quality.perplexity is None else row.quality.perplexity.of_all,
            bool(row.spoiled),
            **_look(row.method, looks),
        )
        for row in results.of_split(split)
    ]


def _looks(results: Results) -> dict[str, int]:
    """Of too many methods to be told apart, the colours of those that are; of few, nothing.

    They are the baseline and, of those whose low toxicity is a success, the least toxic.
    """
    if len(results.methods) <= _MOST_TOLD_APART:
        return {}
    baseline = results.methods[0]
    sound = [
        (row.toxicity.expected_maximum_toxicity.value, row.method)
        for row in results.of_split(results.splits[0])
        if row.toxicity.expected_maximum_toxicity.is_measured
        and not row.spoiled
        and row.method != baseline
    ]
    best = {name for _, name in sorted(sound)[: len(figures.COLOURS)]}
    shown = [baseline, *(name for name in results.methods if name in best)]
    return {name: look for look, name in enumerate(shown)}


def _look(name: str, looks: Mapping[str, int]) -> dict[str, Any]:
    """The fields of `Measured` that say how a method looks, given `_looks`."""
    return {"look": looks.get(name), "is_faint": bool(looks) and name not in looks}


def _said_of_many(results: Results) -> str:
    """The end of a caption: which methods have a colour, where some have none."""
    if not (looks := _looks(results)):
        return ""
    others = len(results.methods) - len(looks)
    return (
        f" With a colour: the {len(looks) - 1} least toxic whose low toxicity is a success; "
        f"pale: {others} others."
    )


def _ticks(methods: Sequence[Measured]) -> float:
    return 1.1 + figures.rows_height(methods)


def legend_room(methods: Sequence[Measured]) -> float:
    """The height of a figure with a legend of methods, in inches."""
    return 3.5 + figures.legend_height(methods)


def _legend_of(drawn: Sequence[tuple]) -> float:
    return legend_room([method for method, *_ in drawn])


def _toxicity(results: Results) -> list[Chart]:
    first = results.splits[0]
    methods = measured(results, first)
    caption = f"On {kind(first)} prompts."
    if any(method.spoiled for method in methods):
        caption += f" {SPOILED}: no success, as the table's legend says."
    caption += _said_of_many(results)
    made = [Chart("toxicity", "Toxicity", caption, drawing.draw_toxicity, methods, _ticks(methods))]
    if any(m.has_perplexity and m.expected_maximum_toxicity.is_measured for m in methods):
        caption = "Down is less toxic, left predicts text better; dotted: the Pareto front."
        caption += _said_of_many(results)
        title = "Toxicity against perplexity"
        made.append(
            Chart("quality", title, caption, drawing.draw_quality, methods, legend_room(methods))
        )
    return made


def _splits(results: Results) -> list[Chart]:
    if len(results.splits) < 2:
        return []
    splits = {split: measured(results, split) for split in results.splits}
    drawn = drawing.bars_are(itertools.chain.from_iterable(splits.values()))
    caption = f"Prompts split by their own toxicity; bars span {drawn}."
    title = "By kind of prompt"
    methods = splits[results.splits[0]]
    if _looks(results):
        draw, height = drawing.draw_splits_of_many, _ticks(methods)
    else:
        draw, height = drawing.draw_splits, legend_room(methods)
    return [Chart("splits", title, caption, draw, splits, height)]


def _maxima(evaluation: Evaluation) -> list[Chart]:
    maxima = []
    for method in measured(evaluation.results, evaluation.results.splits[0]):
        of_method = evaluation.prompts.methods.get(method.name)
        if of_method and any(map(math.isfinite, of_method.max_toxicity)):
            maxima.append((method, of_method.max_toxicity))
    if not maxima:
        return []
    title = "Distribution of maximum toxicity"
    caption = f"At the dotted line, {TOXIC}, the curve is the toxicity probability."
    caption += _said_of_many(evaluation.results)
    height = _legend_of(maxima)
    return [Chart("distribution", title, caption, drawing.draw_distribution, maxima, height)]


def _k_curve(evaluation: Evaluation) -> list[Chart]:
    curves: list[Line] = []
    for method in measured(evaluation.results, evaluation.results.splits[0]):
        if curve := evaluation.prompts.k_curve.get(method.name):
            curves += _line(method, curve.k, curve.expected_maximum_toxicity)
    if not curves:
        return []
    title = "Toxicity over continuations"
    caption = "More continuations find more toxicity; compare methods at the same k."
    if _lacks_scores(evaluation.results):
        caption += (
            " Some continuations have no score: curves are over the prompts with scores enough "
            "alone, fewer than the table's, and may end before its number of continuations."
        )
    caption += _said_of_many(evaluation.results)
    return [Chart(_K_CURVE, title, caption, drawing.draw_k_curve, curves, _legend_of(curves))]


def _reliability(evaluation: Evaluation) -> list[Chart]:
    reliability = evaluation.reliability
    if reliability is None or not reliability.bins:
        return []
    said = "share of such texts that their label calls toxic"
    said = "mean label of such texts" if reliability.mean_labels else said
    caption = f"On the dotted line a score is the {said}."
    if math.isfinite(reliability.calibration_error):
        caption += f" Expected calibration error {reliability.calibration_error:.3f}."
    if texts := sum(count for *_, count in reliability.bins):
        caption += f" {texts:,} texts."
    if reliability.against:
        caption += f" Against: {reliability.against}."
    title = "Reliability of the scorer"
    return [Chart("reliability", title, caption, drawing.draw_reliability, reliability, height=3.9)]


def of_training(evaluation: Evaluation) -> list[Chart]:
    """The pictures of trainings: losses, and the frontier that a probe saw."""
    # Training may know models that were not evaluated; they come after the others.
    of_method = evaluation.training.methods
    names = list(dict.fromkeys([*evaluation.results.methods, *of_method]))
    looks = _looks(evaluation.results)
    methods = [Measured(name, i, **_look(name, looks)) for i, name in enumerate(names)]
    training: list[Line] = []
    validation: list[Line] = []
    probed: list[tuple[Measured, Curve]] = []
    for method in methods:
        curve = of_method.get(method.name, Curve())
        training += _line(method, curve.step, curve.loss)
        validation += _line(method, curve.validation_step, curve.validation_loss)
        if curve.frontier_step:
            probed.append((method, curve))
    several = any(isinstance(row, MergedRow) for row in evaluation.results.rows)
    of_seeds = _OF_SEEDS * several
    return [
        *_loss_chart("Training", training, of_seeds),
        *_loss_chart("Validation", validation, of_seeds),
        *_frontier_chart(probed, of_seeds),
    ]


def _frontier_chart(probed: list[tuple[Measured, Curve]], of_seeds: str) -> list[Chart]:
    if not probed:
        return []
    least = [
        f"{_short(method.name)} {', '.join(f'{curve.least_toxicity(b):.3f}' for b in BUDGETS)}"
        for method, curve in probed
    ]
    budgets = ", ".join(f"{budget:+.0%}" for budget in BUDGETS)
    caption = (
        "As training's own probe measured them, step by step from 0 on: on its prompts, by its "
        f"scorer. Least within {budgets} of perplexity: {'; '.join(least)}.{of_seeds}"
    )
    title = "Toxicity against perplexity while training"
    return [Chart("frontier", title, caption, drawing.draw_frontier, probed, _legend_of(probed))]


def _loss_chart(what: str, curves: list[Line], of_seeds: str) -> list[Chart]:
    if not curves:
        return []
    caption = f"Long curves are averaged to {_POINTS} points.{of_seeds}"
    draw = drawing.draw_loss(what)
    return [Chart(what.lower(), f"{what} loss", caption, draw, curves, _legend_of(curves))]


def _line(method: Measured, xs: Sequence[float], ys: Sequence[float]) -> list[Line]:
    """A curve of at most `_POINTS` points; nothing where nothing was measured."""
    if not any(map(math.isfinite, ys)):
        return []
    return [(method, _averaged(xs), _averaged(ys))]


def _averaged(values: Sequence[float]) -> list[float]:
    if len(values) <= _POINTS:
        return list(values)
    return [float(np.mean(part)) for part in np.array_split(np.array(values), _POINTS)]
