"""Figures: their style, one method's look in all of them, and their files.

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
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from detox_jax.evaluation.soundness import SPOILED
from detox_jax.evaluation.statistics import UNMEASURED, Interval

# Okabe and Ito without yellow, which is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BASELINE = "#6E6E6E"
INK = "#222222"
GROUND = "#FEFEFE"  # of the page, where a picture draws over itself
_GRID = "#DDDDDD"
_MARKERS = "osD^vPX*"
_FAINT = 0.3  # the opacity of what is not told apart
_LABEL_WIDTH = 24
_LINE = 0.165  # inches, of a line of a label
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a method's name may hold a dollar sign
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the pictures show of one method on one split.

    Attributes:
      name: the method's.
      index: its place among the methods; 0 is the baseline.
      expected_maximum_toxicity: with its interval.
      toxicity_probability: with its interval.
      perplexity: of held-out text, NaN where it was not measured.
      spoiled: whether its low toxicity is no success.
      look: the number of its colour, marker and line where that is not `index`.
      is_faint: whether it is one of many, drawn pale and without a name in legends.
    """

    name: str
    index: int
    expected_maximum_toxicity: Interval = UNMEASURED
    toxicity_probability: Interval = UNMEASURED
    perplexity: float = math.nan
    spoiled: bool = False
    look: int | None = None
    is_faint: bool = False

    @property
    def has_perplexity(self) -> bool:
        """Whether a perplexity was measured."""
        return math.isfinite(self.perplexity)

    @property
    def _look(self) -> int:
        return self.index if self.look is None else self.look

    @property
    def colour(self) -> str:
        """Grey for the baseline and for one of many, its own for every other method."""
        is_grey = self._look == 0 or self.is_faint
        return BASELINE if is_grey else COLOURS[(self._look - 1) % len(COLOURS)]

    @property
    def marker(self) -> str:
        """A marker of its own, for readers without colour."""
        return _MARKERS[self._look % len(_MARKERS)]

    @property
    def opacity(self) -> float:
        """Less than 1 for one of many."""
        return _FAINT if self.is_faint else 1.0

    @property
    def legend(self) -> str | None:
        """What a legend says of it; None for one of many."""
        return None if self.is_faint else self.label

    @property
    def line(self) -> str:
        """Solid, then dashed and dotted where the colours come round again."""
        return ("-", "--", ":")[max(0, self._look - 1) // len(COLOURS) % 3]

    @property
    def hatch(self) -> str:
        """None, then strokes where the colours come round again."""
        return ("", "////", "....")[max(0, self._look - 1) // len(COLOURS) % 3]

    @property
    def label(self) -> str:
        """The name on at most three short lines; of a longer one, its beginning and its end."""
        # Control characters have no place in SVG.
        name = "".join(c if c.isprintable() else " " for c in self.name)
        name += f" {SPOILED}" * self.spoiled
        lines = textwrap.wrap(name, _LABEL_WIDTH, break_on_hyphens=False) or ["?"]
        if len(lines) <= 3:
            return "\n".join(lines)
        # Long names often begin alike, so the end has to be there.
        end = textwrap.wrap(name[::-1], _LABEL_WIDTH - 1, break_on_hyphens=False)[0][::-1]
        return "\n".join([*lines[:2], "…" + end])


# --- files ------------------------------------------------------------------------------------


def png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as PNG."""
    with matplotlib.rc_context(STYLE):
        stream = io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def pdf(figure: Figure) -> bytes:
    """The figure as PDF, its fonts embedded as TrueType, which journals ask for."""
    with matplotlib.rc_context({**STYLE, "pdf.fonttype": 42}):
        stream = io.BytesIO()
        FigureCanvasPdf(figure).print_pdf(stream, metadata={"CreationDate": None, "Creator": None})
    return stream.getvalue()


def svg(figure: Figure, name: str) -> str:
    """The figure as a file of SVG; `name` keeps its ids apart from those of other figures."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        stream = io.StringIO()
        # Not by `savefig`, which draws once more for the layout that the drawing itself finds.
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an SVG element for a page, whose colours follow the page's CSS variables.

    Args:
      figure: with its text drawn as text.
      name: unique on the page; prefixes every id.
      description: what a screen reader says in place of the picture; plain text.
    """
    return inline(svg(figure, name), name, description)


def inline(picture: str, name: str, description: str) -> str:
    """A file of SVG as an element for a page, see `inline_svg`."""
    element = picture[picture.index("<svg") :]
    # Ids such as figure_1 and axes_1 are the same in every figure; a page wants them unique.
    element = re.sub(r'\bid="', f'id="{name}-', element)
    element = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", element)
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.S)
    for i, colour in enumerate((BASELINE, *COLOURS)):
        element = element.replace(colour.lower(), f"var(--series-{i})")
    for colour, variable in ((_GRID, "--line"), (GROUND, "--card"), ("#ffffff", "--card")):
        element = element.replace(colour.lower(), f"var({variable})")
    element = element.replace(INK, "currentColor")
    opening = f'<svg role="img" aria-label="{escape(description)}" focusable="false"'
    return element.replace("<svg", opening, 1)


def single(
    draw: Callable[[Axes, Any], None], data: Any, height: float, heading: str = ""
) -> Figure:
    """A figure of one of the functions of `drawing`, narrow enough for a phone.

    Args:
      draw: the function.
      data: what it draws.
      height: of the figure, in inches, without a heading.
      heading: see `set_heading`; a page has its own.
    """
    with matplotlib.rc_context(STYLE):
        lines = len(heading.splitlines())
        figure = Figure(figsize=(4.9, height + 0.22 * lines), layout="constrained")
        axes = figure.subplots()
        draw(axes, data)
        set_heading(axes, heading)
    return figure


def set_heading(axes: Axes, heading: str) -> None:
    """A title in bold, and below it in smaller letters of what the panel is: scorer, prompts."""
    title, _, subject = heading.partition("\n")
    axes.set_title(title, pad=20 if subject else 6)
    if subject:
        words = axes.annotate(
            subject,
            (0, 1),
            (0, 7),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=8.5,
        )
        words.set_in_layout(False)  # a long name would squeeze the axes


def legend_height(methods: Sequence[Measured]) -> float:
    """Inches that a legend of two columns takes."""
    lines = [label.count("\n") + 1 for m in methods if (label := m.legend) is not None]
    half = -(-len(lines) // 2)
    return max(sum(lines[:half]), sum(lines[half:])) * _LINE + 0.06 * half


def rows_height(methods: Sequence[Measured]) -> float:
    """Inches that an axis with a tick for every method takes."""
    return sum(max(0.36, (method.label.count("\n") + 1) * _LINE + 0.12) for method in methods)


def transparent(figure: Figure) -> Figure:
    """The same figure without a ground of its own: a page has one, light or dark."""
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    return figure
