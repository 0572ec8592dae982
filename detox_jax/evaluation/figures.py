"""Pictures of results: toxicity with intervals, against perplexity, by split, over k.

Figures are drawn without pyplot, so nothing depends on a display or on global state, and their
bytes depend on the data alone. Colours are those of Okabe and Ito (2008), which colour-blind
readers tell apart; every method has a marker of its own as well.
"""

from __future__ import annotations

import dataclasses
import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from detox_jax.evaluation.statistics import Interval

EMT = "expected_maximum_toxicity"
TP = "toxicity_probability"
TOXIC = 0.5
# Okabe and Ito without yellow, which is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_BASELINE = "#6E6E6E"
_INK = "#222222"
_GRID = "#DDDDDD"
_MARKERS = "osD^vPX*"
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "text.color": _INK,
    "text.parse_math": False,  # a method's name may hold a dollar sign
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "svg.fonttype": "none",
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the pictures show of one method on one split.

    Attributes:
      name: the method's.
      index: its place among the methods, which fixes its colour and marker; 0 is the baseline.
      intervals: toxicity metrics by name; one that was not measured is missing.
      perplexity: with its interval where it has one (NaN bounds where not), or None.
    """

    name: str
    index: int
    intervals: Mapping[str, Interval]
    perplexity: Interval | None = None

    @property
    def colour(self) -> str:
        """Grey for the baseline, its own for every other method."""
        return _BASELINE if self.index == 0 else COLOURS[(self.index - 1) % len(COLOURS)]

    @property
    def marker(self) -> str:
        """A marker of its own, for readers without colour."""
        return _MARKERS[self.index % len(_MARKERS)]

    @property
    def line(self) -> str:
        """Solid, then dashed and dotted where the colours come round again."""
        return ("-", "--", ":")[max(0, self.index - 1) // len(COLOURS) % 3]

    @property
    def label(self) -> str:
        """The name, wrapped to two short lines."""
        # Control characters have no place in SVG.
        name = "".join(c if c.isprintable() else " " for c in self.name)
        return textwrap.fill(name, 20, max_lines=2, placeholder="…")


# --- files ------------------------------------------------------------------------------------


def png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as PNG."""
    with matplotlib.rc_context(_STYLE):
        stream = io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def svg(figure: Figure, name: str) -> str:
    """The figure as a file of SVG; `name` keeps its ids apart from those of other figures."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        stream = io.StringIO()
        FigureCanvasSVG(figure)
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an SVG element for a page, whose colours follow the page's CSS variables.

    Args:
      figure: with its text drawn as text.
      name: unique on the page; prefixes every id.
      description: what a screen reader says in place of the picture; plain text.
    """
    element = svg(figure, name)
    element = element[element.index("<svg") :]
    # Ids such as figure_1 and axes_1 are the same in every figure; a page wants them unique.
    element = re.sub(r'\bid="', f'id="{name}-', element)
    element = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", element)
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.S)
    for i, colour in enumerate((_BASELINE, *COLOURS)):
        element = element.replace(colour.lower(), f"var(--series-{i})")
    element = element.replace(_INK, "currentColor").replace(_GRID.lower(), "var(--line)")
    opening = f'<svg role="img" aria-label="{escape(description)}" focusable="false"'
    return element.replace("<svg", opening, 1)


# --- figures ----------------------------------------------------------------------------------


def overview(methods: Sequence[Measured]) -> Figure:
    """The picture of a run: toxicity of each method, and toxicity against perplexity."""
    with matplotlib.rc_context(_STYLE):
        both = sum(method.perplexity is not None for method in methods) > 0
        height = max(3.6, 1.6 + 0.5 * len(methods))
        figure = Figure(figsize=(9.0 if both else 6.0, height), layout="constrained")
        axes = figure.subplots(1, 2 if both else 1, squeeze=False)[0]
        draw_toxicity(axes[0], methods)
        axes[0].set_title("Toxicity of continuations")
        if both:
            draw_quality(axes[1], methods)
            axes[1].set_title("Toxicity against perplexity")
    return figure


def single(draw: Callable[[Axes, Any], None], data: Any, num_methods: int) -> Figure:
    """A figure of one of the `draw_*` functions below, narrow enough for a phone."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.9, max(3.1, 2.4 + 0.2 * num_methods)), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        draw(axes, data)
    return figure


def draw_toxicity(axes: Axes, methods: Sequence[Measured]) -> None:
    """Expected maximum toxicity and toxicity probability of each method, with intervals."""
    for row, method in enumerate(methods):
        for key, offset, filled in ((EMT, -0.13, True), (TP, 0.13, False)):
            if (interval := method.intervals.get(key)) is None:
                continue
            axes.errorbar(
                interval.value,
                row + offset,
                xerr=_bars(interval),
                fmt="o" if filled else "s",
                color=method.colour,
                markerfacecolor=method.colour if filled else "none",
                markersize=6.5,
                capsize=3,
            )
    for fmt, filled, label in (
        ("o", True, "Expected maximum"),
        ("s", False, f"Probability of ≥ {TOXIC}"),
    ):
        face = _INK if filled else "none"
        axes.plot([], [], fmt, color=_INK, markerfacecolor=face, label=label)
    axes.set_yticks(range(len(methods)), [method.label for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("Toxicity (95 % intervals); less is better")
    _legend_below(axes)


def draw_quality(axes: Axes, methods: Sequence[Measured]) -> None:
    """Expected maximum toxicity against perplexity, with the Pareto front."""
    points = []
    for method in methods:
        toxicity, perplexity = method.intervals.get(EMT), method.perplexity
        if toxicity is None or perplexity is None:
            continue
        points.append((perplexity.value, toxicity.value))
        axes.errorbar(
            perplexity.value,
            toxicity.value,
            xerr=_bars(perplexity),
            yerr=_bars(toxicity),
            fmt=method.marker,
            color=method.colour,
            markersize=7.5,
            capsize=3,
            label=method.label,
        )
    front = pareto_front(points)
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=_INK, linewidth=1, linestyle=":", zorder=0)
    axes.margins(0.18)
    axes.set_xlabel("Perplexity; less is better")
    axes.set_ylabel("Expected maximum toxicity")
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
            if (interval := method.intervals.get(EMT)) is None:
                continue
            place = x - 0.4 + (indices.index(method.index) + 0.5) * width
            label = None if method.index in labelled else method.label
            labelled.add(method.index)
            axes.bar(place, interval.value, width * 0.9, color=method.colour, label=label)
            axes.errorbar(
                place, interval.value, yerr=_bars(interval), fmt="none", ecolor=_INK, capsize=2
            )
    axes.set_xticks(range(len(splits)), list(splits))
    axes.grid(axis="x", visible=False)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Expected maximum toxicity")
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
            label=method.label,
        )
    axes.axvline(TOXIC, color=_INK, linewidth=1, linestyle=":")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("Maximum toxicity of a prompt's continuations")
    axes.set_ylabel("Share of prompts at or above")
    _legend_below(axes)


def draw_k_curve(
    axes: Axes, curves: Sequence[tuple[Measured, Sequence[float], Sequence[float]]]
) -> None:
    """Expected maximum toxicity against the number of continuations, k."""
    for method, ks, values in curves:
        axes.plot(
            ks,
            values,
            marker=method.marker,
            markersize=5,
            linestyle=method.line,
            color=method.colour,
            label=method.label,
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Continuations per prompt, k")
    axes.set_ylabel("Expected maximum toxicity")
    _legend_below(axes)


def _legend_below(axes: Axes) -> None:
    """A legend half an inch below the axes, clear of the axis label whatever their height."""
    below = axes.transAxes + ScaledTranslation(0, -0.5, axes.figure.dpi_scale_trans)
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
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return None
    return [[max(0.0, interval.value - interval.low)], [max(0.0, interval.high - interval.value)]]
