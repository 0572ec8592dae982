"""Tables as files: CSV and JSON unrounded, Markdown and LaTeX for people to read."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detox_jax import atomic_files
from detox_jax.evaluation.metric_names import TOXICITY_METRICS
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.rows import Paired
from detox_jax.evaluation.typed_json import to_json
from detox_jax.report.headline import headline
from detox_jax.report.legend import legend
from detox_jax.report.tables import tables


def csv_table(results: Results) -> str:
    """Every figure unrounded, one line for each method and split."""
    lines = []
    for row in _rows(results):
        differences = row.pop("differences")
        line = {name: item for key, value in row.items() for name, item in _cells(key, value)}
        for metric, pair in differences.items():
            for key, value in pair.items():
                name = key if key == "difference" else f"difference_{key}"
                line[f"{metric}_{name}"] = value
        lines.append(line)
    return csv_lines(lines)


def _cells(key: str, value: Any) -> list[tuple[str, Any]]:
    """The columns that a value takes, and what stands in them."""
    if isinstance(value, Mapping):
        return [(f"{key}_{name}", item) for name, item in value.items()]
    if isinstance(value, list):
        return [(f"{key}_{i}", item) for i, item in enumerate(value, start=1)]
    return [(key, value)]


def csv_lines(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lines as CSV, with a column for every key that one of them has."""
    stream = io.StringIO()
    columns = list(dict.fromkeys(key for line in lines for key in line))
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def json_table(results: Results) -> str:
    """The same as JSON, nested, with the scorer and the headline."""
    value = {
        "headline": headline(results),
        "scorer": to_json(results.scorer),
        "baseline": results.baseline,
        "legend": legend(results),
        "rows": _rows(results),
    }
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _rows(results: Results) -> list[dict[str, Any]]:
    """Rows as `results.json` has them, with their differences and the scorer that filtered."""
    rows = []
    for row in results.rows:
        metrics = (*TOXICITY_METRICS, *row.accuracies)
        pairs = {metric: results.pair(row, metric) for metric in metrics}
        more = {
            "filtered_by_same_scorer": results.filtered_by_same(row.method),
            "differences": {metric: _difference(pair) for metric, pair in pairs.items() if pair},
        }
        rows.append(atomic_files.finite({**to_json(row), **more}))
    return rows


def _difference(pair: Paired) -> dict[str, float | None]:
    return {
        "difference": pair.difference,
        "low": pair.low,
        "high": pair.high,
        "p_value": pair.p_value,
        "p_value_holm": pair.p_value_holm,
        "num_pairs": pair.num_pairs,
    }


# --- Markdown ---------------------------------------------------------------------------------


def markdown(results: Results) -> str:
    """Tables for each split, and what the columns mean."""
    parts = [_markdown_text(headline(results)) + "\n"]
    for table in tables(results):
        heading = _markdown_text(table.heading)
        parts.append(f"### {heading} ({table.counts})\n\n{markdown_rows(table.rows)}\n")
    parts.append(_markdown_text(" ".join(legend(results))) + "\n")
    return "\n".join(parts)


def markdown_rows(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as a Markdown table, headed by the keys of the first."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(map(_markdown_text, line)) + " |" for line in lines)


def _markdown_text(text: str) -> str:
    text = " ".join(re.sub(r"([\\|`])", r"\\\1", text).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


# --- LaTeX ------------------------------------------------------------------------------------

_PACKAGES = r"% Needs \usepackage[T1]{fontenc} and \usepackage{booktabs}."
# Lines of a table in \scriptsize that a page has room for, caption and rules beside them.
_LINES_OF_A_PAGE = 48
_LONG = (
    r"% A table here is longer than a page: it also needs \usepackage{longtable}, and pages of one"
    "\n"
    r"% column (\onecolumn, in an appendix)."
)
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    # After the \\ that ends a row, a bracket or a star would be its argument.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    # ?` and !` are ligatures for other characters, and so are two hyphens.
    "`": r"\textasciigrave{}",
    "-": "-{}",
    "−": "$-$",
    "–": "--",
    "Δ": r"$\Delta$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "§": r"\S{}",
    "×": r"$\times$",
    "∞": r"$\infty$",
    "≥": r"$\geq$",
    "…": r"\ldots{}",
}


def latex_lines(
    cells: Sequence[Sequence[str]], *, caption: str, label: str, bold: int | None = None
) -> str:
    """One table as a file of its own.

    Args:
      cells: the heading and the rows.
      caption: below the heading, as it stands.
      label: behind `tab:`.
      bold: the row that is set so, counted from 0 behind the heading.
    """
    header, *body = ([latex_text(cell) for cell in line] for line in cells)
    if bold is not None:
        body[bold] = [rf"\textbf{{{cell}}}" for cell in body[bold]]
    columns = "l" * len(header)
    lines = [latex_row(line) for line in body]
    environment = latex_environment(header, lines, columns, caption, label)
    return f"{latex_needs(_PACKAGES, [environment])}\n{environment}\n"


def latex_needs(packages: str, environments: Sequence[str]) -> str:
    """What a paper needs for tables.

    Args:
      packages: for all of them.
      environments: the tables, see `latex_environment`.
    """
    is_long = any(r"\begin{longtable}" in environment for environment in environments)
    return f"{_LONG}\n{packages}" if is_long else packages


def latex_environment(
    header: Sequence[str], lines: Sequence[str], columns: str, caption: str, label: str
) -> str:
    """A `table` with the rules of booktabs; a `longtable` where a page has no room for it.

    Args:
      header: cells in LaTeX.
      lines: the rows, see `latex_row`.
      columns: kinds of the columns, as `tabular` has them.
      caption: as text.
      label: behind `tab:`.
    """
    if len(lines) > _LINES_OF_A_PAGE:
        return _long_environment(header, lines, columns, caption, label)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{latex_text(caption)}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            latex_row(header),
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _long_environment(
    header: Sequence[str], lines: Sequence[str], columns: str, caption: str, label: str
) -> str:
    """A table over several pages, each with the heading."""
    across = rf"\multicolumn{{{len(header)}}}"
    heading = [r"\toprule", latex_row(header), r"\midrule"]
    return "\n".join(
        [
            r"\begingroup\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\begin{{longtable}}{{{columns}}}",
            rf"\caption{{{latex_text(caption)}}}\label{{tab:{label}}} \\",
            *heading,
            r"\endfirsthead",
            rf"{across}{{l}}{{Table \ref{{tab:{label}}}, continued}} \\",
            *heading,
            r"\endhead",
            r"\midrule",
            rf"{across}{{r}}{{continued on the next page}} \\",
            r"\endfoot",
            r"\bottomrule",
            r"\endlastfoot",
            *lines,
            r"\end{longtable}",
            r"\endgroup",
        ]
    )


def latex_row(cells: Iterable[str], *, with_next: bool = False) -> str:
    """Cells in LaTeX as a line of a table.

    Args:
      cells: of the line.
      with_next: no page ends behind it.
    """
    return " & ".join(cells) + (r" \\*" if with_next else r" \\")


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it stands: every special character escaped, on one line."""
    return " ".join("".join(_LATEX.get(character, character) for character in text).split())
