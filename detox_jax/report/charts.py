"""Which pictures a set of results has figures for, with their titles and captions."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from detox_jax.evaluation.results import (
    EMT,
    MEAN,
    TP,
    Results,
    interval,
    mapping,
    number,
    numbers,
)
from detox_jax.records import TOXIC
from detox_jax.report import drawing, figures
from detox_jax.report.figures import Measured

_POINTS = 200  # of a training curve: a picture shows no more


@dataclasses.dataclass(frozen=True)
class Chart:
    """A picture of results.

    Attributes:
      name: of its files.
      title: above it.
      caption: below it.
      draw: makes the figure.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]


def charts(data: Results) -> list[Chart]:
    """Every picture that the results have figures for."""
    found = [
        *_toxicity(data),
        *_splits(data),
        *_maxima(data),
        *_k_curve(data),
        *_reliability(data),
        *_losses(data),
    ]
    return [
        Chart(name, title, caption, functools.partial(figures.single, draw, shown, height))
        for name, title, caption, draw, shown, height in found
    ]


def measured(data: Results, split: str) -> list[Measured]:
    """The rows of a split as the pictures show them."""
    return [
        Measured(
            row["method"],
            data.methods.index(row["method"]),
            {key: x for key in (EMT, TP, MEAN) if (x := interval(row.get(key)))},
            interval(row.get("perplexity")),
        )
        for row in data.of_split(split)
    ]


def _ticks(methods: Sequence[Measured]) -> float:
    return 1.1 + figures.rows_height(methods)


def _legend(methods: Sequence[Measured]) -> float:
    return 3.5 + figures.legend_height(methods)


def _legend_of(drawn: Sequence[tuple]) -> float:
    return _legend([method for method, *_ in drawn])


def _toxicity(data: Results) -> list[tuple]:
    first = data.splits[0]
    methods = measured(data, first)
    caption = f"On the {first} prompts."
    found: list[tuple] = [
        ("toxicity", "Toxicity", caption, drawing.draw_toxicity, methods, _ticks(methods))
    ]
    if any(method.perplexity and EMT in method.intervals for method in methods):
        caption = "Down is less toxic, left predicts text better; dotted: the Pareto front."
        title = "Toxicity against perplexity"
        found.append(("quality", title, caption, drawing.draw_quality, methods, _legend(methods)))
    return found


def _splits(data: Results) -> list[tuple]:
    if len(data.splits) < 2:
        return []
    splits = {split: measured(data, split) for split in data.splits}
    caption = "Prompts split by their own toxicity; bars span 95 % intervals."
    title = "By kind of prompt"
    return [
        ("splits", title, caption, drawing.draw_splits, splits, _legend(splits[data.splits[0]]))
    ]


def _maxima(data: Results) -> list[tuple]:
    maxima = []
    for method in measured(data, data.splits[0]):
        values = mapping(mapping(data.prompts.get("methods")).get(method.name))
        if any(map(math.isfinite, found := numbers(values.get("max_toxicity")))):
            maxima.append((method, found))
    title = "Distribution of maximum toxicity"
    caption = f"At the dotted line, {TOXIC}, the curve is the toxicity probability."
    drawn = ("distribution", title, caption, drawing.draw_distribution, maxima, _legend_of(maxima))
    return [drawn] if maxima else []


def _k_curve(data: Results) -> list[tuple]:
    curves = []
    for method in measured(data, data.splits[0]):
        curve = mapping(mapping(data.prompts.get("k_curve")).get(method.name))
        if line := _line(method, curve.get("k"), curve.get(EMT)):
            curves.append(line)
    title = "Toxicity over continuations"
    caption = "More continuations find more toxicity; compare methods at the same k."
    drawn = ("k-curve", title, caption, drawing.draw_k_curve, curves, _legend_of(curves))
    return [drawn] if curves else []


def _reliability(data: Results) -> list[tuple]:
    found = mapping(mapping(data.provenance.get("evaluated_by")).get("reliability"))
    scores, shares = numbers(found.get("scores")), numbers(found.get("shares"))
    counts = numbers(found.get("counts"))
    if len(counts) != len(scores):
        counts = [0.0] * len(scores)
    bins = [
        (score, share, int(count) if math.isfinite(count) else 0)
        for score, share, count in zip(scores, shares, counts, strict=False)
        if math.isfinite(score) and math.isfinite(share)
    ]
    if not bins or len(scores) != len(shares):
        return []
    caption = "On the dotted line a score is the share of such texts that their label calls toxic."
    if (error := number(found.get("calibration_error"))) is not None:
        caption += f" Expected calibration error {error:.3f}."
    if texts := sum(count for *_, count in bins):
        caption += f" {texts:,} texts."
    if found.get("against"):
        caption += f" Against: {found['against']}."
    return [
        ("reliability", "Reliability of the scorer", caption, drawing.draw_reliability, bins, 3.9)
    ]


def _losses(data: Results) -> list[tuple]:
    # Training may know models that were not evaluated; they come after the others.
    names = list(dict.fromkeys([*data.methods, *data.training]))
    found = []
    for name, what, steps, losses in (
        ("training", "Training", "step", "loss"),
        ("validation", "Validation", "validation_step", "validation_loss"),
    ):
        curves = []
        for index, method in enumerate(names):
            curve = mapping(data.training.get(method))
            shown = Measured(method, index, {})
            if line := _line(shown, curve.get(steps), curve.get(losses)):
                curves.append(line)
        if curves:
            caption = f"Long curves are averaged to {_POINTS} points."
            draw = drawing.draw_loss(what)
            found.append((name, f"{what} loss", caption, draw, curves, _legend_of(curves)))
    return found


def _line(method: Measured, xs: Any, ys: Any) -> tuple[Measured, list[float], list[float]] | None:
    """A curve of at most `_POINTS` points; None where the two lists do not fit."""
    x, y = numbers(xs), numbers(ys)
    if len(x) != len(y) or not any(map(math.isfinite, y)):
        return None
    return method, _averaged(x), _averaged(y)


def _averaged(values: Sequence[float]) -> list[float]:
    if len(values) <= _POINTS:
        return list(values)
    return [float(np.mean(part)) for part in np.array_split(np.array(values), _POINTS)]
