"""Pictures of a comparison of scorers: how one's scores read as another's, and rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detox_jax.comparison.comparison import NO_AGREEMENT, Comparison, Pair
from detox_jax.evaluation.metric_names import EMT, TP
from detox_jax.records import TOXIC
from detox_jax.report.drawing import draw_toxicity
from detox_jax.report.figures import COLOURS, INK, STYLE, Measured, rows_height

_COLUMNS = 3


def agreement(pairs: Sequence[Pair], points: Mapping[str, np.ndarray]) -> Figure:
    """A panel for each two scorers: the texts, and B's scores read as A's.

    Args:
      pairs: what `agreement.compare` returned, with the scorers' names.
      points: scores [N] by scorer, NaN where missing.
    """
    columns = min(_COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.6 + 3.6 * columns, 0.7 + 3.6 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, pair in zip(axes, pairs, strict=False):
            _draw_pair(panel, pair, points[pair.a], points[pair.b])
        for panel in axes[len(pairs) :]:
            panel.set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, 1 + columns))
    return figure


def _draw_pair(axes: Axes, pair: Pair, a_N: np.ndarray, b_N: np.ndarray) -> None:
    both = ~np.isnan(a_N) & ~np.isnan(b_N)
    axes.hexbin(
        b_N[both], a_N[both], gridsize=24, extent=(0, 1, 0, 1), bins="log", cmap="Greys", mincnt=1,
        linewidths=0.1, alpha=0.8,
    )  # fmt: skip
    agreed = pair.compared.agreement or NO_AGREEMENT
    if steps := agreed.calibration.isotonic:
        curve = [(x, step.value) for step in steps for x in (step.from_, step.to)]
        axes.plot(*zip(*curve, strict=True), color=COLOURS[0], linewidth=2, label="Isotonic curve")
    if bins := agreed.calibration.bins:
        means = [(tenth.mean_b, tenth.mean_a) for tenth in bins]
        axes.plot(
            *zip(*means, strict=True), "o", color=COLOURS[1], label="Mean of a tenth of the scale"
        )
    axes.axhline(TOXIC, color=INK, linewidth=1, linestyle=":", label=f"{TOXIC} for A")
    at = agreed.threshold.value
    if np.isfinite(at):
        axes.axvline(at, color=INK, linewidth=1, linestyle="--", label="As many toxic for B")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel(f"B: {pair.b}")
    axes.set_ylabel(f"A: {pair.a}")


def ranking(comparison: Comparison) -> Figure:
    """A panel for each scorer with its toxicity of every method; axes are never shared."""
    scorers = list(comparison.scorers)
    methods = {scorer: _measured(comparison, scorer) for scorer in scorers}
    height = 1.5 + rows_height(methods[scorers[0]])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 3.8 * len(scorers), height), layout="constrained")
        panels = figure.subplots(1, len(scorers), squeeze=False)[0]
        for panel, scorer in zip(panels, scorers, strict=True):
            draw_toxicity(panel, methods[scorer])
            panel.set_title(scorer)
    return figure


def _measured(comparison: Comparison, scorer: str) -> list[Measured]:
    """The methods in one scorer's values, in the same order for every scorer."""
    emt, tp = (
        {
            rank.method: rank.estimate
            for rank in comparison.rankings[metric].ranks
            if rank.scorer == scorer
        }
        for metric in (EMT, TP)
    )
    return [
        Measured(name, index, emt[name], tp[name]) for index, name in enumerate(comparison.methods)
    ]
