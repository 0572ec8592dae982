"""The tables of a comparison of scorers: as text to print, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detox_jax.evaluation.results import EMT, TP, interval, mapping, number
from detox_jax.records import TOXIC
from detox_jax.report.table_formats import csv_lines, markdown_rows
from detox_jax.report.tables import NONE, show

Rows = list[dict[str, str]]
_METRIC_NAMES = {EMT: "Expected maximum toxicity", TP: "Toxicity probability"}
_LEGEND = (
    f"A is the reference. Toxic: a score of at least {TOXIC}. In brackets: 95 % intervals, a "
    "bootstrap over records. Kappa: Cohen's, agreement beyond chance. Threshold: the score of B "
    "from which on as many texts are toxic as for A; agreement and kappa there. RMS: "
    "root mean square; calibrated: once B is read as A through an isotonic curve that was fitted "
    "to the other half of the records. Kendall's tau: 1 where both rank all methods alike. "
    "A swap is beyond the intervals where both scorers' paired intervals exclude zero."
)


def files(found: Mapping[str, Any]) -> dict[str, bytes]:
    """`comparison.md`, `agreement.csv` and, of several methods, `ranking.csv`, by name."""
    contents = {"comparison.md": _markdown(found), "agreement.csv": _agreement_csv(found)}
    if found["rankings"]:
        lines = [
            {"metric": metric, **row}
            for metric, ranking in found["rankings"].items()
            for row in ranking["ranks"]
        ]
        contents["ranking.csv"] = csv_lines(lines)
    return {name: content.encode() for name, content in contents.items()}


def tables(found: Mapping[str, Any]) -> list[tuple[str, Rows]]:
    """Titles and rows; those without a row are left out."""
    made = [
        ("Coverage and agreement", [_agreement_row(pair) for pair in found["pairs"]]),
        ("Reading B as A", [_reading_row(pair) for pair in found["pairs"]]),
    ]
    for metric, ranking in found["rankings"].items():
        name = _METRIC_NAMES[metric]
        made.append((f"{name}, with ranks", _rank_rows(found, ranking)))
        made.append((f"{name}: rank agreement", [_tau_row(x) for x in ranking["kendall_tau"]]))
        made.append((f"{name}: methods that swap", [_swap_row(x) for x in ranking["swaps"]]))
    return [(title, rows) for title, rows in made if rows]


def summary(found: Mapping[str, Any]) -> list[str]:
    """What becomes of the ranking of methods, a sentence a metric; nothing for one method."""
    sentences = []
    for metric, ranking in found["rankings"].items():
        beyond = sum(swap["beyond_intervals"] for swap in ranking["swaps"])
        said = f"swaps of two methods: {len(ranking['swaps'])}, beyond the intervals: {beyond}"
        if not ranking["swaps"]:
            said = "no two methods change places"
        sentences.append(f"{_METRIC_NAMES[metric]}: {said}.")
    return sentences


def _agreement_row(pair: Mapping[str, Any]) -> dict[str, str]:
    missing = [pair["texts"] - pair[f"scored_by_{side}"] for side in "ab"]
    shares = [_decimal(pair.get(f"share_toxic_{side}")) for side in "ab"]
    return {
        "A": pair["a"],
        "B": pair["b"],
        "Texts": f"{pair['texts']:,}",
        "Not scored by A, B": ", ".join(f"{count:,}" for count in missing),
        "Toxic for A, B": ", ".join(shares),
        "Agreement": show(interval(pair.get("agreement"))),
        "Kappa": show(interval(pair.get("kappa"))),
        "Spearman": show(interval(pair.get("spearman"))),
        "Pearson": show(interval(pair.get("pearson"))),
    }


def _reading_row(pair: Mapping[str, Any]) -> dict[str, str]:
    threshold = mapping(pair.get("threshold"))
    return {
        "A": pair["a"],
        "B": pair["b"],
        "Threshold": _decimal(threshold.get("value")),
        "Toxic for A, for B then": ", ".join(
            [_decimal(pair.get("share_toxic_a")), _decimal(threshold.get("share"))]
        ),
        "Agreement then": _decimal(threshold.get("agreement")),
        "Kappa then": _decimal(threshold.get("kappa")),
        "RMS of A − B": _decimal(pair.get("difference")),
        "Calibrated": _decimal(pair.get("calibrated_difference")),
    }


def _rank_rows(found: Mapping[str, Any], ranking: Mapping[str, Any]) -> Rows:
    """A row a method, a column a scorer: scores of two never share a column."""
    cells = {
        (row["scorer"], row["method"]): f"{row['rank']:g}. {show(interval(row))}"
        for row in ranking["ranks"]
    }
    return [
        {
            "Method": method,
            **{scorer: cells[scorer, method] for scorer in found["scorers"]},
        }
        for method in found["methods"]
    ]


def _tau_row(row: Mapping[str, Any]) -> dict[str, str]:
    return {"A": row["a"], "B": row["b"], "Kendall's tau": _decimal(row["value"])}


def _swap_row(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "A": row["a"],
        "B": row["b"],
        "Methods": " − ".join(row["methods"]),
        "For A": show(interval(row["difference_a"]), signed=True),
        "For B": show(interval(row["difference_b"]), signed=True),
        "Beyond the intervals": "yes" if row["beyond_intervals"] else "no",
    }


def _decimal(value: Any) -> str:
    return NONE if (found := number(value)) is None else f"{found:.3f}".replace("-", "−")


def _markdown(found: Mapping[str, Any]) -> str:
    named = (f"{name} ({x['fingerprint']})" for name, x in found["scorers"].items())
    sentences = [f"Scorers: {', '.join(named)}.", *summary(found)]
    parts = [f"# {' against '.join(found['scorers'])}", " ".join(sentences)]
    for title, rows in tables(found):
        parts += [f"## {title}", markdown_rows(rows)]
    return "\n\n".join([*parts, _LEGEND]) + "\n"


def _agreement_csv(found: Mapping[str, Any]) -> str:
    lines = []
    for pair in found["pairs"]:
        line: dict[str, Any] = {}
        for key, value in pair.items():
            if key == "calibration":
                continue
            fields = value.items() if isinstance(value, Mapping) else [("", value)]
            line |= {f"{key}_{name}".rstrip("_"): item for name, item in fields}
        lines.append(line)
    return csv_lines(lines)
