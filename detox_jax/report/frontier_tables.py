"""Frontiers as the report shows them: a table, a picture, files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from detox_jax.evaluation.frontiers import BUDGETS, CONTINUATIONS, REDUCTIONS, Frontier
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.soundness import SPOILED
from detox_jax.evaluation.statistics import Interval
from detox_jax.report import drawing
from detox_jax.report.cells import NONE, show
from detox_jax.report.charts import Chart, legend_room
from detox_jax.report.figures import BASELINE, GROUND, Measured
from detox_jax.report.table_formats import csv_lines, markdown_rows
from detox_jax.report.tables import METHOD, Table

_LEGEND = (
    "At equal perplexity: the least max. toxicity of the line through the baseline and a method's "
    "rows, where perplexity of {whose} has risen by so much or less; ≤ where the line ends before, "
    "so that a stronger row might be lower.",
    "At equal toxicity: the rise of perplexity where the line is first so much less toxic than the "
    "baseline, below 0 where it fell; ∞ as an end of an interval: some resamples of the prompts "
    "never get there.",
    "Intervals resample prompts alone, 10,000 times: not {texts}, not trainings.",
)

_MOST_RISE = 30.0  # per cent of perplexity that the picture shows: three times the largest budget
_SEEDS = "A row of several seeds is their mean: of perplexities, and of the maxima of each prompt."


def legend(frontiers: Sequence[Frontier]) -> list[str]:
    """What the table and the picture mean."""
    has_seeds = any(number > 1 for line in frontiers for number in line.seeds)
    of_texts = any(line.by == CONTINUATIONS for line in frontiers)
    texts = "the continuations" if of_texts else "held-out text"
    of_first_two = ", under the reference model (at most the first two of each prompt),"
    whose = texts + (of_first_two if of_texts else "")
    meant = [line.format(whose=whose, texts=texts) for line in _LEGEND]
    return [*meant, *([_SEEDS] if has_seeds else [])]


def table(frontiers: Sequence[Frontier], results: Results) -> Table:
    """One line a method: toxicity at each budget, perplexity at each reduction."""
    spoiled = {row.method for row in results.of_split(results.splits[0]) if row.spoiled}
    rows = []
    for line in frontiers:
        counted = zip(line.rows, line.seeds, strict=True)
        of_seeds = {row: f" ({number} seeds)" for row, number in counted if number > 1}
        named = [
            f"{row}{of_seeds.get(row, '')}{f' {SPOILED}' * (row in spoiled)}" for row in line.rows
        ]
        row = {METHOD: line.name, "Rows": ", ".join(named)}
        for budget, interval in zip(BUDGETS, line.at_budgets, strict=True):
            is_bound = interval.is_measured and budget > line.changes[-1]
            row[f"at +{100 * budget:.0f} %"] = f"{'≤ ' * is_bound}{show(interval)}"
        for less, interval in zip(REDUCTIONS, line.at_reductions, strict=True):
            row[f"for −{less}"] = _percent(interval)
        rows.append(row)
    return Table("At equal perplexity and toxicity", results.splits[0], "", rows)


def _percent(interval: Interval) -> str:
    if not interval.is_measured:
        return NONE
    low, high = (f"{100 * end:+.1f}".replace("+inf", "∞") for end in (interval.low, interval.high))
    return f"{100 * interval.value:+.1f} % [{low}, {high}]".replace("-", "−")


def markdown(frontiers: Sequence[Frontier], results: Results) -> str:
    """The table and what it means."""
    rows = markdown_rows(table(frontiers, results).rows)
    return f"{rows}\n\n{' '.join(legend(frontiers))}\n"


def csv_table(frontiers: Sequence[Frontier]) -> str:
    """Every point of every line, and the figures at equal perplexity and toxicity, unrounded."""
    lines: list[dict[str, Any]] = []
    for line in frontiers:
        of_line: dict[str, Any] = {"method": line.name}
        for given, intervals, words in (
            (BUDGETS, line.at_budgets, "toxicity_at_rise"),
            (REDUCTIONS, line.at_reductions, "rise_at_reduction"),
        ):
            for x, interval in zip(given, intervals, strict=True):
                of_line |= {
                    f"{words}_{x}": interval.value,
                    f"{words}_{x}_low": interval.low,
                    f"{words}_{x}_high": interval.high,
                }
        lines.append(of_line)
    return csv_lines(lines)


def chart(frontiers: Sequence[Frontier], subject: str = "") -> Chart:
    """The picture of all lines."""
    methods = [Measured(line.name, index) for index, line in enumerate(frontiers, start=1)]
    lines = [
        (method, [100 * change for change in line.changes], line.toxicity, line.spoiled)
        for method, line in zip(methods, frontiers, strict=True)
    ]
    meant = (
        "Every line begins at the baseline; down is less toxic, left predicts text better. Hollow: "
        "low toxicity that is no success, as the table's legend says."
    )
    if _is_cut(lines):
        meant += f" Cut at ±{_MOST_RISE:.0f} %: some lines go on."
    return Chart(
        "frontiers",
        "Toxicity as perplexity rises",
        meant,
        _draw,
        lines,
        legend_room(methods),
        subject,
    )


def _is_cut(lines: Sequence[Any]) -> bool:
    """Whether a line goes so far that the others, and the budgets, would lie in one column."""
    return any(abs(x) > _MOST_RISE for _, xs, _, _ in lines for x in xs)


def _draw(axes: Axes, lines: Sequence[Any]) -> None:
    drawing.draw_lines(axes, [line[:3] for line in lines], markersize=5)
    for method, xs, ys, spoiled in lines:
        hollow = [point for point, is_spoiled in enumerate(spoiled) if is_spoiled]
        axes.plot(
            [xs[point] for point in hollow],
            [ys[point] for point in hollow],
            method.marker,
            color=method.colour,
            markerfacecolor=GROUND,
            markersize=5,
        )
    _, xs, ys, _ = lines[0]
    start = xs.index(0.0)
    axes.plot(xs[start], ys[start], "o", color=BASELINE, markersize=8, zorder=3)
    if _is_cut(lines):
        reached = [max(-_MOST_RISE, min(_MOST_RISE, x)) for _, xs, _, _ in lines for x in xs]
        axes.set_xlim(min(reached) - 2, max(reached) + 2)
    axes.set_xlabel("Perplexity over the baseline, %")
    axes.set_ylabel("Expected max. toxicity")
