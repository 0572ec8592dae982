"""The tables of a comparison of scorers: as text to print, Markdown and CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from detox_jax.comparison.comparison import (
    NO_AGREEMENT,
    Comparison,
    Pair,
    Rank,
    Ranking,
    Swap,
    Tau,
)
from detox_jax.evaluation.metric_names import EMT, TP, RankedMetric
from detox_jax.evaluation.typed_json import to_json
from detox_jax.records import TOXIC
from detox_jax.report.cells import (
    FEWEST_PROMPTS,
    LITTLE,
    NONE,
    has_little,
    percent,
    shown,
)
from detox_jax.report.table_formats import csv_lines, markdown_rows

Rows = list[dict[str, str]]
_METRIC_NAMES: dict[RankedMetric, str] = {
    EMT: "Expected maximum toxicity",
    TP: "Toxicity probability",
}
_LEGEND = (
    f"A is the reference. Toxic: a score of at least {TOXIC}. Shares of toxic texts, agreement and "
    "how B reads as A are of the texts that both scored, figures and ranks of methods of those "
    "that all scorers did; Scored: of the method's texts. In brackets: 95 % intervals over "
    "records, Wilson's of agreement and of toxicity probability, a bootstrap of the others. Kappa: "
    "Cohen's, agreement beyond chance. Threshold: the score of B from which on as many texts are "
    "toxic as for A; agreement and kappa there. RMS: root mean square; calibrated: once B is read "
    "as A through an isotonic curve that was fitted to the other half of the records. Kendall's "
    "tau: 1 where both rank all methods alike. "
    "A swap is beyond the intervals where both scorers' paired intervals exclude zero."
)
_LITTLE = (
    f"{LITTLE}: the interval says little, being of fewer than {FEWEST_PROMPTS} records, or of "
    "equal values."
)


def files(comparison: Comparison) -> dict[str, bytes]:
    """`comparison.md`, `agreement.csv` and, of several methods, `ranking.csv`, by name."""
    contents = {"comparison.md": _markdown(comparison), "agreement.csv": _agreement_csv(comparison)}
    if comparison.rankings:
        lines = [
            {"metric": metric, **to_json(rank), **_covered(comparison, rank)}
            for metric, ranking in comparison.rankings.items()
            for rank in ranking.ranks
        ]
        contents["ranking.csv"] = csv_lines(lines)
    return {name: content.encode() for name, content in contents.items()}


def _covered(comparison: Comparison, rank: Rank) -> dict[str, int]:
    """How many of a method's texts its figure is of; nothing where all have all scores."""
    for of in comparison.coverage:
        if (of.scorer, of.method) == (rank.scorer, rank.method):
            return {"texts": of.texts, "scored": of.scored, "scored_by_all": of.scored_by_all}
    return {}


def tables(comparison: Comparison) -> list[tuple[str, Rows]]:
    """Titles and rows; those without a row are left out."""
    made = [
        ("Coverage and agreement", [_agreement_row(pair) for pair in comparison.pairs]),
        ("Reading B as A", [_reading_row(pair) for pair in comparison.pairs]),
    ]
    for metric, ranking in comparison.rankings.items():
        name = _METRIC_NAMES[metric]
        made.append((f"{name}, with ranks", _rank_rows(comparison, ranking)))
        made.append((f"{name}: rank agreement", [_tau_row(tau) for tau in ranking.kendall_tau]))
        made.append((f"{name}: methods that swap", [_swap_row(swap) for swap in ranking.swaps]))
    return [(title, rows) for title, rows in made if rows]


def mark_said(made: Iterable[tuple[str, Rows]]) -> list[str]:
    """What the mark behind an interval means, where one of the tables has it."""
    return [_LITTLE] if has_little(row for _, rows in made for row in rows) else []


def summary(comparison: Comparison) -> list[str]:
    """What becomes of the ranking of methods, a sentence a metric; nothing for one method."""
    sentences = []
    for metric, ranking in comparison.rankings.items():
        beyond = sum(swap.beyond_intervals for swap in ranking.swaps)
        said = f"swaps of two methods: {len(ranking.swaps)}, beyond the intervals: {beyond}"
        if not ranking.swaps:
            said = "no two methods change places"
        sentences.append(f"{_METRIC_NAMES[metric]}: {said}.")
    return sentences


def _agreement_row(pair: Pair) -> dict[str, str]:
    compared = pair.compared
    agreed = compared.agreement or NO_AGREEMENT
    missing = [compared.texts - compared.scored_by_a, compared.texts - compared.scored_by_b]
    return {
        "A": pair.a,
        "B": pair.b,
        "Texts": f"{compared.texts:,}",
        "Not scored by A, B": ", ".join(f"{count:,}" for count in missing),
        "Toxic for A, B": ", ".join(map(_decimal, (agreed.share_toxic_a, agreed.share_toxic_b))),
        "Agreement": shown(agreed.agreement, agreed.records),
        "Kappa": shown(agreed.kappa, agreed.records),
        "Spearman": shown(agreed.spearman, agreed.records),
        "Pearson": shown(agreed.pearson, agreed.records),
    }


def _reading_row(pair: Pair) -> dict[str, str]:
    agreed = pair.compared.agreement or NO_AGREEMENT
    threshold = agreed.threshold
    return {
        "A": pair.a,
        "B": pair.b,
        "Threshold": _decimal(threshold.value),
        "Toxic for A, for B then": ", ".join(
            map(_decimal, (agreed.share_toxic_a, threshold.share))
        ),
        "Agreement then": _decimal(threshold.agreement),
        "Kappa then": _decimal(threshold.kappa),
        "RMS of A − B": _decimal(agreed.difference),
        "Calibrated": _decimal(agreed.calibrated_difference),
    }


def _rank_rows(comparison: Comparison, ranking: Ranking) -> Rows:
    """A row a method, a column a scorer: scores of two never share a column."""
    cells = {
        (rank.scorer, rank.method): f"{rank.rank:g}. {shown(rank.estimate, rank.prompts)}"
        for rank in ranking.ranks
        if rank.estimate.is_measured
    }
    return [
        {
            "Method": method,
            **{scorer: cells.get((scorer, method), NONE) for scorer in comparison.scorers},
            **_shares_scored(comparison, method),
        }
        for method in comparison.methods
    ]


def _shares_scored(comparison: Comparison, method: str) -> dict[str, str]:
    """By scorer, and by all; nothing where all texts have all scores."""
    of_method = [of for of in comparison.coverage if of.method == method]
    shares = {f"Scored, {of.scorer}": of.scored / of.texts for of in of_method}
    if of_method:
        shares["Scored by all"] = of_method[0].scored_by_all / of_method[0].texts
    return {name: percent(share) for name, share in shares.items()}


def _tau_row(tau: Tau) -> dict[str, str]:
    return {"A": tau.a, "B": tau.b, "Kendall's tau": _decimal(tau.value)}


def _swap_row(swap: Swap) -> dict[str, str]:
    return {
        "A": swap.a,
        "B": swap.b,
        "Methods": " − ".join(swap.methods),
        "For A": shown(swap.difference_a, swap.difference_a.num_pairs, signed=True),
        "For B": shown(swap.difference_b, swap.difference_b.num_pairs, signed=True),
        "Beyond the intervals": "yes" if swap.beyond_intervals else "no",
    }


def _decimal(value: float) -> str:
    return f"{value:.3f}".replace("-", "−") if math.isfinite(value) else NONE


def _markdown(comparison: Comparison) -> str:
    named = (f"{name} ({scorer.fingerprint})" for name, scorer in comparison.scorers.items())
    sentences = [f"Scorers: {', '.join(named)}.", *summary(comparison), *comparison.notes]
    parts = [f"# {' against '.join(comparison.scorers)}", " ".join(sentences)]
    made = tables(comparison)
    for title, rows in made:
        parts += [f"## {title}", markdown_rows(rows)]
    return "\n\n".join([*parts, " ".join([_LEGEND, *mark_said(made)])]) + "\n"


def _agreement_csv(comparison: Comparison) -> str:
    lines = []
    for pair in comparison.pairs:
        line: dict[str, Any] = {}
        for key, value in to_json(pair).items():
            if key == "calibration":
                continue
            fields = value.items() if isinstance(value, Mapping) else [("", value)]
            line |= {f"{key}_{name}".rstrip("_"): item for name, item in fields}
        lines.append(line)
    return csv_lines(lines)
