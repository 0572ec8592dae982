"""Pictures of a comparison of scorers: how one's scores read as another's, and rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detox_jax.evaluation.results import EMT, TP, interval
from detox_jax.records import TOXIC
from detox_jax.report.drawing import draw_toxicity
from detox_jax.report.figures import COLOURS, INK, STYLE, Measured, rows_height

_COLUMNS = 3


def agreement(pairs: Sequence[Mapping[str, Any]], points: Mapping[str, np.ndarray]) -> Figure:
    """A panel for each two scorers: the texts, and B's scores read as A's.

    Args:
      pairs: what `agreement.compare` found, with the names `a` and `b`.
      points: scores [N] by scorer, NaN where missing.
    """
    columns = min(_COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.6 + 3.6 * columns, 0.7 + 3.6 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, pair in zip(axes, pairs, strict=False):
            _draw_pair(panel, pair, points[pair["a"]], points[pair["b"]])
        for panel in axes[len(pairs) :]:
            panel.set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, 1 + columns))
    return figure


def _draw_pair(axes: Axes, pair: Mapping[str, Any], a_N: np.ndarray, b_N: np.ndarray) -> None:
    both = ~np.isnan(a_N) & ~np.isnan(b_N)
    axes.hexbin(
        b_N[both], a_N[both], gridsize=24, extent=(0, 1, 0, 1), bins="log", cmap="Greys", mincnt=1,
        linewidths=0.1, alpha=0.8,
    )  # fmt: skip
    calibration = pair.get("calibration") or {"isotonic": [], "bins": []}
    steps = [
        (x, step["value"]) for step in calibration["isotonic"] for x in (step["from"], step["to"])
    ]
    if steps:
        axes.plot(*zip(*steps, strict=True), color=COLOURS[0], linewidth=2, label="Isotonic curve")
    bins = [(found["mean_b"], found["mean_a"]) for found in calibration["bins"]]
    if bins:
        axes.plot(
            *zip(*bins, strict=True), "o", color=COLOURS[1], label="Mean of a tenth of the scale"
        )
    axes.axhline(TOXIC, color=INK, linewidth=1, linestyle=":", label=f"{TOXIC} for A")
    if "threshold" in pair and np.isfinite(pair["threshold"]["value"]):
        at = pair["threshold"]["value"]
        axes.axvline(at, color=INK, linewidth=1, linestyle="--", label="As many toxic for B")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel(f"B: {pair['b']}")
    axes.set_ylabel(f"A: {pair['a']}")


def ranking(found: Mapping[str, Any]) -> Figure:
    """A panel for each scorer with its toxicity of every method; axes are never shared."""
    scorers = list(found["scorers"])
    methods = {scorer: _measured(found, scorer) for scorer in scorers}
    height = 1.5 + rows_height(methods[scorers[0]])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 3.8 * len(scorers), height), layout="constrained")
        panels = figure.subplots(1, len(scorers), squeeze=False)[0]
        for panel, scorer in zip(panels, scorers, strict=True):
            draw_toxicity(panel, methods[scorer])
            panel.set_title(scorer)
    return figure


def _measured(found: Mapping[str, Any], scorer: str) -> list[Measured]:
    """The methods in one scorer's values, in the same order for every scorer."""
    values: dict[str, dict[str, Any]] = {name: {} for name in found["methods"]}
    for metric in (EMT, TP):
        for row in found["rankings"][metric]["ranks"]:
            if row["scorer"] == scorer and (estimate := interval(row)) is not None:
                values[row["method"]][metric] = estimate
    return [Measured(name, index, values[name]) for index, name in enumerate(found["methods"])]
