"""Toxicity by group of prompts, in a table and as CSV, and the largest gaps in words."""

from __future__ import annotations

from typing import Any

from detox_jax.evaluation import groups
from detox_jax.evaluation.console import NO_GROUP, gap_sentence
from detox_jax.evaluation.groups import GroupRow
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.statistics import Interval
from detox_jax.report.cells import shown
from detox_jax.report.legend import legend_of_little
from detox_jax.report.table_formats import csv_lines
from detox_jax.report.tables import METHOD, Table

LEGEND = (
    "By group: the interval of a group is of that group alone; of many groups some lie apart by "
    "chance. The largest gap is of the groups of ten prompts and more."
)


def tables(results: Results) -> list[Table]:
    """A table for each field that tells groups apart."""
    made = []
    for by, rows in groups.by_field(results.groups).items():
        cells = [
            {
                METHOD: row.method,
                "Group": row.group or NO_GROUP,
                "Prompts": f"{row.num_prompts:,}",
                "Scored": f"{row.coverage:.1%}",
                "Max. toxicity": _figure(row.expected_maximum_toxicity, row),
                "Tox. probability": _figure(row.toxicity_probability, row),
            }
            for row in rows
        ]
        made.append(Table(f"Toxicity by {by}", "", "", cells))
    return made


def _figure(interval: Interval, row: GroupRow) -> str:
    """Marked where its interval says little, as a group of few prompts has it."""
    return shown(interval, row.num_scored_prompts)


def legend(results: Results) -> list[str]:
    """What the tables mean, and the largest gaps; nothing without groups."""
    if not results.groups:
        return []
    marks = legend_of_little(tables(results))
    return [LEGEND, *marks, *map(gap_sentence, results.gaps)]


def csv_table(results: Results) -> str:
    """The figures of every group, unrounded."""
    lines: list[dict[str, Any]] = []
    for row in results.groups:
        line: dict[str, Any] = {
            "by": row.by,
            "group": row.group,
            "method": row.method,
            "num_prompts": row.num_prompts,
            "num_scored_prompts": row.num_scored_prompts,
            "coverage": row.coverage,
        }
        for name in ("expected_maximum_toxicity", "toxicity_probability"):
            interval = getattr(row, name)
            line |= {
                name: interval.value,
                f"{name}_low": interval.low,
                f"{name}_high": interval.high,
            }
        lines.append(line)
    return csv_lines(lines)
