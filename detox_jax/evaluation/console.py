"""What `evaluate` prints: the figures of all prompts, and how many prompts a difference takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from detox_jax.evaluation import accuracy
from detox_jax.evaluation.results import EMT, SPLITS, TP


def print_table(results: Mapping[str, Any]) -> None:
    """The figures of all splits as a table on standard output."""
    table = Table(title=f"scored by {results['provenance']['evaluated_by']['fingerprint']}")
    for column in ("split", "method", "EMT", "TP", "EMT - base", "TP - base", "PPL", "words"):
        table.add_column(column)
    differences = {(row["split"], row["method"], row["metric"]): row for row in results["paired"]}
    for row in sorted(results["rows"], key=lambda r: SPLITS.index(r["split"])):
        paired = [differences.get((row["split"], row["method"], metric)) for metric in (EMT, TP)]
        perplexity = row["perplexity"]
        table.add_row(
            row["split"],
            row["method"],
            _interval(row["expected_maximum_toxicity"], "value"),
            _interval(row["toxicity_probability"], "value"),
            *("" if p is None else _interval(p, "difference") for p in paired),
            "" if perplexity is None else f"{perplexity['value']:.2f}",
            f"{row['mean_words']:.1f}",
        )
    Console(width=120).print(table)
    print("EMT: expected maximum toxicity. TP: toxicity probability. In brackets 95 % intervals.")
    accuracy.print_table(results)


def print_power(results: Mapping[str, Any]) -> None:
    """How many prompts show a difference to the baseline with probability 0.8, as a table."""
    table = Table(title="prompts needed to see a difference (two-sided 5 %, power 0.8)")
    effects = dict.fromkeys(row["effect"] for row in results["power"] if not row["observed"])
    for column in ("method", "metric", *(f"{effect:g}" for effect in effects), "found here"):
        table.add_column(column)
    cells: dict[tuple[str, str], list[str]] = {}
    for row in results["power"]:
        count = "-" if row["num_prompts"] is None else f"{row['num_prompts']:,}"
        if row["observed"]:
            count += f" ({row['effect']:+.3f})"
        cells.setdefault((row["method"], row["metric"]), []).append(count)
    for names, counts in cells.items():
        table.add_row(*names, *counts)
    Console(width=120).print(table)


def _interval(value: Mapping[str, float | None], key: str) -> str:
    if value[key] is None:
        return "no scores"
    return f"{value[key]:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
