"""Tables for a paper: numbers aligned by siunitx, intervals below them, the best in bold."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from detox_jax.evaluation.results import Results
from detox_jax.evaluation.soundness import SPOILED
from detox_jax.report.cells import NONE
from detox_jax.report.legend import legend_of_columns, legend_of_scorer, legend_of_texts
from detox_jax.report.page_tables import of_scores, of_texts
from detox_jax.report.table_formats import (
    latex_environment,
    latex_needs,
    latex_row,
    latex_text,
)
from detox_jax.report.tables import DESCRIPTION, KEY_COLUMNS, METHOD, QUALITY_COLUMNS, Table

_PACKAGES = (
    "% Needs \\usepackage[T1]{fontenc}, \\usepackage{booktabs} and \\usepackage{siunitx}.\n"
    "\\sisetup{detect-weight=true, retain-explicit-plus=true}"
)
_MOST_COLUMNS = 5  # beside the method, with their intervals: what a page of one column holds
_NUMBER = re.compile(r"([+−]?[\d,]+(?:\.\d+)?)( %)?((?: \[[^]]*\]| \([^)]* to [^)]*\))?[ *‡]*)")
_BETTER = {column.heading: column.better for column in (*KEY_COLUMNS, *QUALITY_COLUMNS)}


def latex(results: Results) -> str:
    """A `table` environment for each table, wide ones in parts, and what the columns mean."""
    tables = [*of_scores(results), *of_texts(results)]
    parts = [part for table in tables for part in _parts(table)]
    words = [
        *legend_of_columns(results, tables),
        *legend_of_texts(results),
        *legend_of_scorer(results),
    ]
    environments = [_environment(results, part, n) for n, part in enumerate(parts, start=1)]
    legend = rf"\paragraph{{Columns and marks.}} {latex_text(' '.join(words))}"
    return "\n\n".join([latex_needs(_PACKAGES, environments), *environments, legend]) + "\n"


def _parts(table: Table) -> list[Table]:
    """A table in parts that are narrow enough."""
    columns = [
        name for name in table.rows[0] if name not in (METHOD, *(x.name for x in DESCRIPTION))
    ]
    parts = []
    for start in range(0, len(columns), _MOST_COLUMNS):
        names = (METHOD, *columns[start : start + _MOST_COLUMNS])
        rows = [{name: row[name] for name in names} for row in table.rows]
        parts.append(Table(table.title, table.split, table.counts, rows))
    return parts


def _environment(results: Results, table: Table, number: int) -> str:
    caption = f"{table.in_words} ({table.counts})"
    if table.title == "Toxicity":
        caption += f", scored by {results.scorer.fingerprint}"
    names = [name for name in table.rows[0] if name != METHOD]
    cells = {name: _cells(name, table.rows) for name in names}
    heads = [f"{{{latex_text(name.partition(' (')[0])}{cells[name].unit}}}" for name in names]
    lines = []
    for i, row in enumerate(table.rows):
        values = [cells[name].values[i] for name in names]
        below = [cells[name].below[i] for name in names]
        lines.append(latex_row([latex_text(row[METHOD]), *values], with_next=any(below)))
        if any(below):
            lines.append(latex_row(["", *below]))
    kinds = "".join(cells[name].kind for name in names)
    label = f"{_label(table)}-{number}"
    return latex_environment([METHOD, *heads], lines, f"l{kinds}", f"{caption}.", label)


def _label(table: Table) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{table.title} {table.split}".lower()).strip("-")


@dataclasses.dataclass(frozen=True)
class _Cells:
    """A column in LaTeX.

    Attributes:
      kind: `S[table-format=…]` where all its cells are numbers or nothing, else `l`.
      unit: behind the heading.
      values: of the rows.
      below: intervals and marks, which stand below the values.
    """

    kind: str
    unit: str
    values: list[str]
    below: list[str]


def _cells(name: str, rows: Sequence[Mapping[str, str]]) -> _Cells:
    texts = [row[name] for row in rows]
    matches = [_NUMBER.fullmatch(text) for text in texts]
    if not all(match or text in (NONE, "∞") for match, text in zip(matches, texts, strict=True)):
        return _Cells("l", "", [latex_text(text) for text in texts], [""] * len(texts))
    numbers = [m and m[1].replace("−", "-").replace(",", "") for m in matches]
    best = _best(_BETTER.get(name, 0), numbers, rows)
    values = [
        f"{{{latex_text(text)}}}" if number is None else r"\bfseries " * (i in best) + number
        for i, (number, text) in enumerate(zip(numbers, texts, strict=True))
    ]
    below = [rf"{{\tiny {latex_text(m[3])}}}" if m and m[3] else "" for m in matches]
    unit = r" (\%)" if any(m and m[2] for m in matches) else ""
    parts = [(x or "0").lstrip("+-").partition(".") for x in numbers]
    whole, decimals = (max(len(part[place]) for part in parts) for place in (0, 2))
    sign = "+" if any(x and x[0] in "+-" for x in numbers) else ""
    return _Cells(f"S[table-format={sign}{whole}.{decimals}]", unit, values, below)


def _best(
    better: int, numbers: Sequence[str | None], rows: Sequence[Mapping[str, str]]
) -> set[int]:
    """The rows of the best figure; what is spoiled is no best, and one row has no other to beat."""
    sound = {
        i: better * float(number)
        for i, (number, row) in enumerate(zip(numbers, rows, strict=True))
        if number is not None and SPOILED not in row[METHOD]
    }
    if not better or len(sound) < 2:
        return set()
    return {i for i, value in sound.items() if value == max(sound.values())}
