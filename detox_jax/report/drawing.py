"""Pictures of results: toxicity with intervals, against perplexity, by split, over k.

Each function draws on the axes that it is given, every method in its own colour, marker and line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import matplotlib
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from scipy import stats

from detox_jax.evaluation.results import Reliability
from detox_jax.evaluation.results_files import Curve
from detox_jax.evaluation.statistics import Interval
from detox_jax.records import TOXIC
from detox_jax.report.figures import (
    COLOURS,
    GROUND,
    INK,
    STYLE,
    Measured,
    legend_height,
    rows_height,
    set_heading,
)
from detox_jax.report.seeds import Spread

Line = tuple[Measured, Sequence[float], Sequence[float]]
Lines = Sequence[Line]

BLUE = COLOURS[0]


def overview(methods: Sequence[Measured], subject: str = "") -> Figure:
    """The picture of a run: toxicity of each method, and toxicity against perplexity.

    Args:
      methods: of one split.
      subject: below the title of either panel: who scored how many prompts.
    """
    both = any(method.has_perplexity for method in methods)
    with matplotlib.rc_context(STYLE):
        height = max(3.8, 1.2 + rows_height(methods)) + 0.2 * bool(subject)
        if both:
            height += legend_height(methods)
        figure = Figure(figsize=(9.6 if both else 6.0, height), layout="constrained")
        axes = figure.subplots(1, 2 if both else 1, squeeze=False)[0]
        draw_toxicity(axes[0], methods)
        set_heading(axes[0], f"Toxicity of continuations\n{subject}".strip())
        if both:
            draw_quality(axes[1], methods)
            set_heading(axes[1], f"Toxicity against perplexity\n{subject}".strip())
    return figure


def draw_toxicity(axes: Axes, methods: Sequence[Measured]) -> None:
    """Expected maximum toxicity and toxicity probability of each method, with intervals."""
    for row, method in enumerate(methods):
        for interval, offset, filled in (
            (method.expected_maximum_toxicity, -0.13, True),
            (method.toxicity_probability, 0.13, False),
        ):
            if not interval.is_measured:
                continue
            axes.errorbar(
                interval.value,
                row + offset,
                xerr=_bars(interval),
                fmt=method.marker,
                color=method.colour,
                markerfacecolor=method.colour if filled else "none",
                markersize=6.5,
                capsize=3,
            )
    for fmt, filled, label in (
        ("o", True, "Expected maximum"),
        ("o", False, f"Probability of ≥ {TOXIC}"),
    ):
        face = INK if filled else "none"
        axes.plot([], [], fmt, color=INK, markerfacecolor=face, label=label)
    axes.set_yticks(range(len(methods)), [method.label for method in methods], fontsize=9)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    drawn = bars_are(methods)
    if drawn == _INTERVALS:
        axes.set_xlabel(f"Toxicity ({drawn}); less is better")
    else:
        axes.set_xlabel(f"Toxicity; less is better\nBars: {drawn}")
    _legend_below(axes)


_INTERVALS = "95 % intervals"


def bars_are(methods: Iterable[Measured]) -> str:
    """What the bars of some methods are: intervals, and of several seeds none."""
    drawn = [x for m in methods if (x := m.expected_maximum_toxicity).is_measured and x.has_bounds]
    of_seeds = [isinstance(interval, Spread) for interval in drawn]
    if not any(of_seeds):
        return _INTERVALS
    # No longer than a narrow figure is wide.
    return "least and most of seeds" if all(of_seeds) else f"{_INTERVALS}; seeds: least, most"


_OF_SPLITS = "o^s"  # markers

# Of perplexities that lie further apart one is drawn far off, and all others in a column.
_LARGEST_RATIO = 3


def draw_quality(axes: Axes, methods: Sequence[Measured]) -> None:
    """Expected maximum toxicity against perplexity, with the Pareto front."""
    points = []
    for method in methods:
        toxicity, perplexity = method.expected_maximum_toxicity, method.perplexity
        if not toxicity.is_measured or not method.has_perplexity:
            continue
        if not method.spoiled:
            points.append((perplexity, toxicity.value))
        axes.errorbar(
            perplexity,
            toxicity.value,
            yerr=_bars(toxicity),
            fmt=method.marker,
            color=method.colour,
            markersize=7.5,
            capsize=3,
            label=method.legend,
            alpha=method.opacity,
        )
    front = pareto_front(points)
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=INK, linewidth=1, linestyle=":", zorder=0)
    axes.margins(0.18)
    drawn = [method.perplexity for method in methods if method.has_perplexity]
    if drawn and max(drawn) > _LARGEST_RATIO * min(drawn):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    drawn = bars_are(methods)
    axes.set_xlabel("Perplexity; less is better" + f"\nBars: {drawn}" * (drawn != _INTERVALS))
    axes.set_ylabel("Expected max. toxicity")
    _legend_below(axes)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points, by ascending x, to which no other is better or equal in both coordinates."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def draw_splits(axes: Axes, splits: Mapping[str, Sequence[Measured]]) -> None:
    """Expected maximum toxicity of each method on each split of the prompts."""
    indices = sorted({method.index for methods in splits.values() for method in methods})
    width = 0.8 / max(1, len(indices))
    labelled = set()
    for x, methods in enumerate(splits.values()):
        for method in methods:
            interval = method.expected_maximum_toxicity
            if not interval.is_measured:
                continue
            place = x - 0.4 + (indices.index(method.index) + 0.5) * width
            label = None if method.index in labelled else method.label
            labelled.add(method.index)
            axes.bar(
                place,
                interval.value,
                width * 0.9,
                color=method.colour,
                hatch=method.hatch,
                edgecolor=GROUND,
                linewidth=0,
                label=label,
            )
            axes.errorbar(
                place,
                interval.value,
                yerr=_bars(interval),
                fmt="none",
                ecolor=INK,
                elinewidth=1,
                capsize=min(2.0, 8 * width),
            )
    axes.set_xticks(range(len(splits)), list(splits))
    axes.grid(axis="x", visible=False)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Expected max. toxicity")
    _legend_below(axes)


def draw_splits_of_many(axes: Axes, splits: Mapping[str, Sequence[Measured]]) -> None:
    """The same as `draw_splits`, a line for each method: bars of many methods are too thin."""
    labels = {m.index: m.label for methods in splits.values() for m in methods}
    indices = list(labels)
    for place, (split, methods) in enumerate(splits.items()):
        offset = 0.5 * ((place + 0.5) / len(splits) - 0.5)
        marker, colour = _OF_SPLITS[place % len(_OF_SPLITS)], COLOURS[place % len(COLOURS)]
        for method in methods:
            interval = method.expected_maximum_toxicity
            if not interval.is_measured:
                continue
            axes.errorbar(
                interval.value,
                indices.index(method.index) + offset,
                xerr=_bars(interval),
                fmt=marker,
                color=colour,
                markersize=4.5,
                elinewidth=0.8,
            )
        axes.plot([], [], marker, color=colour, label=split)
    axes.set_yticks(range(len(indices)), list(labels.values()), fontsize=9)
    axes.set_ylim(len(indices) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("Expected max. toxicity")
    _legend_below(axes)


def draw_distribution(axes: Axes, maxima: Sequence[tuple[Measured, Sequence[float]]]) -> None:
    """Share of prompts whose most toxic continuation reaches a toxicity, for each toxicity."""
    for method, values in maxima:
        ordered = sorted(value for value in values if math.isfinite(value))
        if not ordered:
            continue
        shares = [1 - i / len(ordered) for i in range(len(ordered))]
        axes.step(
            [0.0, *ordered, 1.0],
            [1.0, *shares, 0.0],
            where="pre",
            linestyle=method.line,
            color=method.colour,
            label=method.legend,
            alpha=method.opacity,
        )
    axes.axvline(TOXIC, color=INK, linewidth=1, linestyle=":")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("Maximum toxicity of a prompt's continuations")
    axes.set_ylabel("Share of prompts at or above")
    _legend_below(axes)


def draw_k_curve(axes: Axes, curves: Lines) -> None:
    """Expected maximum toxicity against the number of continuations, k."""
    draw_lines(axes, curves, markersize=5)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Continuations per prompt, k")
    axes.set_ylabel("Expected max. toxicity")


def draw_loss(what: str) -> Callable[[Axes, Lines], None]:
    """A function that draws losses against steps; `what` says of which text."""

    def draw(axes: Axes, curves: Lines) -> None:
        draw_lines(axes, curves, markersize=4, markevery=0.2, linewidth=1.2)
        axes.set_xlabel("Training step")
        axes.set_ylabel(f"{what} loss, nats per token")

    return draw


def draw_frontier(axes: Axes, probed: Sequence[tuple[Measured, Curve]]) -> None:
    """Toxicity against perplexity of a model's steps; the first and the last one have numbers."""
    draw_lines(
        axes,
        [(method, curve.frontier_perplexity, curve.frontier_toxicity) for method, curve in probed],
        markersize=4,
        linewidth=1.2,
    )
    for _, curve in probed:
        for place in dict.fromkeys((0, len(curve.frontier_step) - 1)):
            axes.annotate(
                str(curve.frontier_step[place]),
                (curve.frontier_perplexity[place], curve.frontier_toxicity[place]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=9,
            )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Perplexity of the probe's documents")
    axes.set_ylabel("Expected max. toxicity")


def draw_lines(axes: Axes, curves: Lines, **style: float) -> None:
    """A line of each method, in its colour, with its markers."""
    for method, xs, ys in curves:
        axes.plot(
            xs,
            ys,
            marker=method.marker,
            linestyle=method.line,
            color=method.colour,
            label=method.legend,
            alpha=method.opacity,
            **style,  # type: ignore
        )
    _legend_below(axes)


def draw_reliability(axes: Axes, reliability: Reliability) -> None:
    """Share of texts that are toxic by their label against the mean score, one point a bin.

    Args:
      axes: to draw on.
      reliability: of the scorer; 95 % intervals of the share are Wilson's (1927), and a bin of
        unknown size, 0, has none, and no mean of labels has one, whose spread nobody wrote down.
    """
    bins = reliability.bins
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":", label="Perfectly calibrated")
    for score, share, count in bins:
        errors = None
        if count > 0 and not reliability.mean_labels:
            test = stats.binomtest(min(count, max(0, round(share * count))), count)
            errors = _bars(Interval(share, *test.proportion_ci(method="wilson")))
        axes.errorbar(score, share, yerr=errors, fmt="o", color=BLUE, markersize=5.5, capsize=3)
    if len(bins) > 1:
        axes.plot([x for x, *_ in bins], [y for _, y, _ in bins], color=BLUE, label="This scorer")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("Mean score of the texts in a bin")
    by_label = (
        "Mean label of these texts" if reliability.mean_labels else "Share toxic by the label"
    )
    axes.set_ylabel(by_label)
    _legend_below(axes)


def _legend_below(axes: Axes) -> None:
    """A legend half an inch below the axes, clear of the axis label whatever their height."""
    further = 0.17 * axes.get_xlabel().count("\n")
    below = axes.transAxes + ScaledTranslation(0, -0.5 - further, axes.figure.dpi_scale_trans)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            bbox_transform=below,
            borderaxespad=0,
            ncols=2,
            columnspacing=1.2,
            handletextpad=0.4,
        )


def _bars(interval: Interval) -> list[list[float]] | None:
    """Lengths of the error bars below and above; None where there is no interval."""
    if not interval.has_bounds:
        return None
    return [[max(0.0, interval.value - interval.low)], [max(0.0, interval.high - interval.value)]]
