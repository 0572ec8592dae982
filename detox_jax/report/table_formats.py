"""Tables as files: CSV and JSON unrounded, Markdown and LaTeX for people to read."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from detox_jax import outputs
from detox_jax.evaluation import accuracy
from detox_jax.evaluation.results import EMT, MEAN, TP, Results
from detox_jax.report.headline import headline
from detox_jax.report.tables import Table, legend, tables

_METRICS = (EMT, TP, MEAN)
_PAIRED_FIELDS = ("difference", "low", "high", "p_value", "p_value_holm")


def csv_table(data: Results) -> str:
    """Every figure unrounded, one line for each method and split."""
    lines = []
    for row in _rows(data):
        line: dict[str, Any] = {}
        differences = row.pop("differences")
        for key, value in row.items():
            if isinstance(value, Mapping):
                line |= {f"{key}_{name}": item for name, item in value.items()}
            elif isinstance(value, list):
                line |= {f"{key}_{i}": item for i, item in enumerate(value, start=1)}
            else:
                line[key] = value
        for metric, pair in differences.items():
            for key, value in pair.items():
                name = key if key == "difference" else f"difference_{key}"
                line[f"{metric}_{name}"] = value
        lines.append(line)
    return csv_lines(lines)


def csv_lines(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lines as CSV, with a column for every key that one of them has."""
    stream = io.StringIO()
    columns = list(dict.fromkeys(key for line in lines for key in line))
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def json_table(data: Results) -> str:
    """The same as JSON, nested, with the scorer and the headline."""
    value = {
        "headline": headline(data),
        "scorer": {"name": data.scorer_name, "fingerprint": data.fingerprint},
        "baseline": data.baseline,
        "legend": legend(data),
        "rows": _rows(data),
    }
    return json.dumps(outputs.finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _rows(data: Results) -> list[dict[str, Any]]:
    """Rows as `evaluate` wrote them, with their differences and the scorer that filtered."""
    rows = []
    for row in data.rows:
        differences = {}
        for metric in (*_METRICS, *filter(accuracy.is_accuracy, row)):
            pair = data.paired.get((row["method"], row["split"], metric)) or {}
            if fields := {key: pair[key] for key in _PAIRED_FIELDS if key in pair}:
                differences[metric] = fields
        same = data.filtered_by_same(row["method"])
        rows.append({**row, "filtered_by_same_scorer": same, "differences": differences})
    return rows


# --- Markdown ---------------------------------------------------------------------------------


def markdown(data: Results) -> str:
    """Tables for each split, and what the columns mean."""
    parts = [_markdown_text(headline(data)) + "\n"]
    for table in tables(data):
        heading = _markdown_text(table.heading)
        parts.append(f"### {heading} ({table.counts})\n\n{markdown_rows(table.rows)}\n")
    parts.append(_markdown_text(" ".join(legend(data))) + "\n")
    return "\n".join(parts)


def markdown_rows(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as a Markdown table, headed by the keys of the first."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(map(_markdown_text, line)) + " |" for line in lines)


def _markdown_text(text: str) -> str:
    text = " ".join(re.sub(r"([\\|`])", r"\\\1", text).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


# --- LaTeX ------------------------------------------------------------------------------------

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
    "≥": r"$\geq$",
    "…": r"\ldots{}",
}


def latex(data: Results) -> str:
    """A `table` environment for each table, with the rules of booktabs."""
    parts = ["% Needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs}."]
    for number, table in enumerate(tables(data), start=1):
        parts.append(_latex_table(data, table, number))
    return "\n\n".join([*parts, latex_text(" ".join(legend(data)))]) + "\n"


def _latex_table(data: Results, table: Table, number: int) -> str:
    header, *body = (
        " & ".join(map(latex_text, cells)) + r" \\"
        for cells in (list(table.rows[0]), *(list(row.values()) for row in table.rows))
    )
    caption = f"{table.heading} ({table.counts})"
    if table.split:  # Accuracies are no scorer's.
        caption += f", scored by {data.fingerprint}"
    lines = [
        r"\begin{table}",
        r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{latex_text(caption)}.}}",
        rf"\label{{tab:toxicity-{number}}}",
        rf"\begin{{tabular}}{{{'l' * len(table.rows[0])}}}",
        r"\toprule",
        header,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it stands: every special character escaped, on one line."""
    return " ".join("".join(_LATEX.get(character, character) for character in text).split())
