"""The table over the cells of a sweep: a row a cell, its labels as columns, the best in bold.

Rows that differ in their seed alone are one: mean, least and most. P-values are Holm's over every
comparison of the matrix with its base. A row's perplexity is compared with that of its own base.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from detox_jax import atomic_files
from detox_jax.evaluation import statistics
from detox_jax.evaluation.frontiers import BUDGETS
from detox_jax.evaluation.metric_names import EMT, TP
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.rows import Perplexity, Row
from detox_jax.evaluation.soundness import SPOILED
from detox_jax.report import figures
from detox_jax.report.cells import NONE
from detox_jax.report.page import style, template
from detox_jax.report.table_formats import csv_lines, latex_lines, markdown_rows

_SIGNIFICANT = "*"
_BANNED = "∞"  # beside a perplexity that leaves out what a method never writes


@dataclasses.dataclass(frozen=True)
class Run:
    """One row of one evaluation.

    Attributes:
      labels: of its cell, by axis, and what it is called among the cell's methods.
      results: the evaluation that has it.
      method: its name there.
    """

    labels: Mapping[str, str]
    results: Results
    method: str

    @property
    def row(self) -> Row:
        """Its figures on all prompts."""
        rows = self.results.of_split(self.results.splits[0])
        return next(row for row in rows if row.method == self.method)

    @property
    def base(self) -> Row:
        """Those of its base."""
        return dataclasses.replace(self, method=self.results.baseline).row


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of one run, or of several that differ in their seed.

    Attributes:
      values: of each; NaN where it was not measured.
      low: end of the 95 % interval of the only one; NaN where there are several.
      high: the other end.
    """

    values: tuple[float, ...]
    low: float = math.nan
    high: float = math.nan

    @property
    def mean(self) -> float:
        """The mean over seeds; NaN where one has none."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def is_measured(self) -> bool:
        """Whether there is one."""
        return math.isfinite(self.mean)

    def show(self, digits: int = 3) -> str:
        """`0.441 [0.420, 0.462]`, `0.441 (0.436 to 0.449)` of several seeds, or a dash."""
        if not self.is_measured:
            return NONE
        text = f"{self.mean:.{digits}f}"
        if len(self.values) > 1:
            return f"{text} ({min(self.values):.{digits}f} to {max(self.values):.{digits}f})"
        return (
            f"{text} [{self.low:.{digits}f}, {self.high:.{digits}f}]"
            if self.low == self.low
            else text
        )


@dataclasses.dataclass(frozen=True)
class MatrixRow:
    """A row of the table.

    Attributes:
      labels: by axis, without that of the seed.
      seeds: how many runs it is of.
      emt: expected maximum toxicity.
      tp: toxicity probability.
      perplexity: of the model on held-out text; of one that never writes some of it, on the rest.
      impossible_share: of the held-out texts that it never writes; the largest of several seeds.
      perplexity_undefined: why there is none of a steered model.
      perplexity_change: over its base on all held-out text, as a share.
      continuation_perplexity: of at most the first two texts of each prompt under the reference
        model.
      words: length of a continuation.
      p_value: of the EMT against the base, Holm's; the largest of several seeds.
      spoiled: why low toxicity is no success.
    """

    labels: Mapping[str, str]
    seeds: int
    emt: Figure
    tp: Figure
    perplexity: Figure
    impossible_share: float
    perplexity_undefined: str | None
    perplexity_change: Figure
    continuation_perplexity: Figure
    words: Figure
    p_value: float
    spoiled: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its labels, joined."""
        return " ".join(self.labels.values())

    @property
    def is_significant(self) -> bool:
        """Whether its EMT differs from the base's, and is no spoiled one's."""
        return self.p_value < 0.05 and not self.spoiled


_FIGURES = [field.name for field in dataclasses.fields(MatrixRow) if field.type == "Figure"]
# In the tables, CSV and JSON beside the axes, none of which may be called so.
COLUMNS = frozenset(
    {
        *("seeds", "EMT", "TP", "PPL", "PPL − base", "PPL of texts", "words"),
        *("is_base", "p_value_holm", "spoiled"),
        *(f"{figure}{end}" for figure in _FIGURES for end in ("", "_low", "_high")),
    }
)


@dataclasses.dataclass(frozen=True)
class Matrix:
    """The table, and the runs that are the bases of its rows.

    Attributes:
      rows: in the order of the cells.
      bases: one for each base; their labels are those of the axes that they differ in.
      scorer: fingerprint of the one that judged all of them.
    """

    rows: list[MatrixRow]
    bases: list[MatrixRow]
    scorer: str

    def within(self, budget: float) -> MatrixRow | None:
        """The least toxic sound row whose perplexity rises by at most so much.

        None where no such row is less toxic than its base.
        """
        fitting = [
            row
            for row in self.sound
            if row.perplexity_change.mean <= budget and row.emt.mean < self._base_emt(row)
        ]
        return min(fitting, key=lambda row: row.emt.mean, default=None)

    @property
    def sound(self) -> list[MatrixRow]:
        """The rows whose low toxicity is a success."""
        return [row for row in self.rows if not row.spoiled]

    def _base_emt(self, row: MatrixRow) -> float:
        # A base may have the label of a seed, which rows over seeds have not: they have several.
        values = [
            base.emt.mean
            for base in self.bases
            if all(row.labels.get(axis, label) == label for axis, label in base.labels.items())
        ]
        return float(np.mean(values))


def matrix(runs: Sequence[Run], bases: Sequence[Run], seed_axis: str | None = None) -> Matrix:
    """The rows of all runs.

    Args:
      runs: of the cells, in their order.
      bases: of the evaluations.
      seed_axis: the axis whose labels are seeds, if there is one.
    """
    adjusted = _holm(runs)
    rows: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for i, run in enumerate(runs):
        rows.setdefault(_without(run.labels, seed_axis), []).append(i)
    made = [
        _row(dict(labels), [runs[i] for i in members], [adjusted[i] for i in members])
        for labels, members in rows.items()
    ]
    of_bases = [_row({**run.labels}, [run], [math.nan]) for run in bases]
    return Matrix(made, of_bases, runs[0].results.scorer.fingerprint)


def _without(labels: Mapping[str, str], axis: str | None) -> tuple[tuple[str, str], ...]:
    return tuple((name, label) for name, label in labels.items() if name != axis)


def _holm(runs: Sequence[Run]) -> list[float]:
    """P-values of each run's EMT, adjusted over both toxicity metrics of all runs."""
    p_values = [
        math.nan if (pair := run.results.pair(run.row, metric)) is None else pair.p_value
        for metric in (EMT, TP)
        for run in runs
    ]
    return [float(p) for p in statistics.holm(p_values)[: len(runs)]]


def _row(labels: Mapping[str, str], runs: Sequence[Run], p_values: Sequence[float]) -> MatrixRow:
    rows = [run.row for run in runs]
    perplexities = [row.quality.perplexity for row in rows]
    now = [_of_all(of) for of in perplexities]
    before = [_of_all(run.base.quality.perplexity) for run in runs]
    undefined = [row.quality.perplexity_undefined for row in rows]
    reasons = dict.fromkeys(reason for row in rows for reason in row.spoiled)
    return MatrixRow(
        labels=labels,
        seeds=len(runs),
        emt=_figure([row.toxicity.expected_maximum_toxicity for row in rows]),
        tp=_figure([row.toxicity.toxicity_probability for row in rows]),
        perplexity=Figure(tuple(map(_value, perplexities))),
        impossible_share=max(0.0 if of is None else of.impossible_share for of in perplexities),
        perplexity_undefined=next((reason for reason in undefined if reason), None),
        perplexity_change=Figure(
            tuple(after / then - 1 for after, then in zip(now, before, strict=True))
        ),
        continuation_perplexity=Figure(
            tuple(_value(row.quality.continuation_perplexity) for row in rows)
        ),
        words=Figure(tuple(row.quality.mean_words for row in rows)),
        p_value=max(p_values),
        spoiled=tuple(reasons),
    )


def _of_all(perplexity: Perplexity | None) -> float:
    return math.nan if perplexity is None else perplexity.of_all


def _value(perplexity: Any) -> float:
    return math.nan if perplexity is None else perplexity.value


def _figure(intervals: Sequence[statistics.Interval]) -> Figure:
    values = tuple(interval.value for interval in intervals)
    if len(values) > 1:
        return Figure(values)
    return Figure(values, intervals[0].low, intervals[0].high)


# --- how it is shown ----------------------------------------------------------------------------


def shown(table: Matrix) -> list[dict[str, str]]:
    """The rows as text by column, the bases first."""
    axes = _axes(table)
    lines = []
    for row in [*table.bases, *table.rows]:
        is_base = row in table.bases
        line = {axis: row.labels.get(axis, "base" if is_base else NONE) for axis in axes}
        if any(other.seeds > 1 for other in table.rows):
            line["seeds"] = str(row.seeds)
        marks = SPOILED if row.spoiled else ""
        marks += _SIGNIFICANT if row.is_significant else ""
        line["EMT"] = row.emt.show() + marks
        line["TP"] = row.tp.show()
        line["PPL"] = _perplexity(row)
        line["PPL − base"] = NONE if is_base else _change(row.perplexity_change.mean)
        line["PPL of texts"] = row.continuation_perplexity.show(2)
        line["words"] = row.words.show(1)
        lines.append(line)
    empty = [name for name in lines[0] if all(line[name] == NONE for line in lines)]
    return [{name: text for name, text in line.items() if name not in empty} for line in lines]


def _axes(table: Matrix) -> list[str]:
    return list(dict.fromkeys(name for row in table.rows for name in row.labels))


def _perplexity(row: MatrixRow) -> str:
    if row.perplexity_undefined is not None:
        return "not defined"
    if row.impossible_share == 1:
        return _BANNED
    return row.perplexity.show(2) + f" {_BANNED}" * bool(row.impossible_share)


def _change(share: float) -> str:
    if math.isinf(share):
        return "∞"
    return NONE if math.isnan(share) else f"{100 * share:+.1f} %"


def legend(table: Matrix) -> list[str]:
    """Sentences on marks and columns."""
    sentences = [
        f"Scored by {table.scorer}.",
        "EMT: expected maximum toxicity. TP: toxicity probability. PPL: perplexity on held-out "
        "text.",
        f"{_SIGNIFICANT}: differs from its base with p < 0.05 after Holm's correction over every "
        "comparison of this matrix (of several seeds all do).",
    ]
    if any(row.continuation_perplexity.is_measured for row in [*table.bases, *table.rows]):
        sentences.append(
            "PPL of texts: of a token of at most the first two continuations of each prompt, under "
            "the reference model."
        )
    if any(row.seeds > 1 for row in table.rows):
        sentences.append("Of several seeds: the mean, in parentheses least and most.")
    for row in table.rows:
        if row.spoiled:
            sentences.append(f"{SPOILED} {row.name}: {' and '.join(row.spoiled)}.")
        if row.perplexity_undefined is not None:
            sentences.append(f"PPL of {row.name} is not defined: {row.perplexity_undefined}.")
        if row.impossible_share:
            sentences.append(
                f"{_BANNED} {row.name}: never writes {100 * row.impossible_share:.1f} % of the "
                "held-out texts, where its perplexity is infinite; the figure is of the others."
            )
    return sentences


def budgets(table: Matrix) -> list[dict[str, str]]:
    """The least toxic row within each budget of perplexity, or why there is none, by column."""
    lines = []
    for budget in BUDGETS:
        row = table.within(budget)
        lines.append(
            {
                "perplexity": f"up to +{100 * budget:.0f} %",
                "least toxic": _why_none(table, budget) if row is None else row.name,
                "EMT": NONE if row is None else row.emt.show(),
                "PPL − base": NONE if row is None else f"{100 * row.perplexity_change.mean:+.1f} %",
            }
        )
    return lines


def _why_none(table: Matrix, budget: float) -> str:
    """Why no row is the least toxic within a budget."""
    changes = [row.perplexity_change.mean for row in table.sound]
    if all(map(math.isnan, changes)):
        return "no sound row has a perplexity beside its base's"
    if not any(change <= budget for change in changes):
        return "no sound row stays within it"
    return "no sound row within it is less toxic than its base"


def markdown(table: Matrix) -> str:
    """Both tables and the legend."""
    parts = (markdown_rows(shown(table)), " ".join(legend(table)), markdown_rows(budgets(table)))
    return "\n\n".join(parts) + "\n"


def csv_table(table: Matrix) -> str:
    """Every figure unrounded, one line a row."""
    return csv_lines([_unrounded(row, row in table.bases) for row in [*table.bases, *table.rows]])


def json_table(table: Matrix) -> str:
    """The same as JSON, with the rows within budgets."""
    rows = [_unrounded(row, row in table.bases) for row in [*table.bases, *table.rows]]
    value = {"rows": atomic_files.finite(rows), "budgets": budgets(table), "legend": legend(table)}
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _unrounded(row: MatrixRow, is_base: bool) -> dict[str, Any]:
    line: dict[str, Any] = {**row.labels, "is_base": is_base, "seeds": row.seeds}
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if isinstance(value, Figure):
            line[field.name] = value.mean
            several = len(value.values) > 1
            line[f"{field.name}_low"] = min(value.values) if several else value.low
            line[f"{field.name}_high"] = max(value.values) if several else value.high
    return {**line, "p_value_holm": row.p_value, "spoiled": "; ".join(row.spoiled)}


def latex(table: Matrix) -> str:
    """A table with the rules of booktabs; of the sound rows the least toxic is bold."""
    lines = shown(table)
    sound = [row for row in table.rows if not row.spoiled and math.isfinite(row.emt.mean)]
    best = min(sound, key=lambda row: row.emt.mean, default=None)
    body = list(zip([*table.bases, *table.rows], lines, strict=True))
    return latex_lines(
        [list(lines[0]), *(list(line.values()) for _, line in body)],
        caption=" ".join(legend(table)),
        label="matrix",
        bold=next((i for i, (row, _) in enumerate(body) if row is best), None),
    )


def page(table: Matrix, pictures: Mapping[str, str], failed: Mapping[str, str]) -> str:
    """A page of its own: both tables, the pictures, and what failed.

    Args:
      table: the matrix.
      pictures: SVG, toxicity against perplexity, by the name of the evaluation and its judge.
      failed: why each failed cell did, by its name.
    """
    drawn = {
        name: Markup(figures.inline(picture, f"picture-{i}", f"Toxicity. {name}"))
        for i, (name, picture) in enumerate(pictures.items())
    }
    return template("matrix.html.jinja").render(
        style=style(),
        rows=shown(table),
        axes=_axes(table),
        bases=len(table.bases),
        legend=legend(table),
        budgets=budgets(table),
        pictures=drawn,
        failed=failed,
    )
