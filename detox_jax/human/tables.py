"""What raters said as tables: Markdown for people, CSV unrounded."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from detox_jax.evaluation.statistics import Interval
from detox_jax.human.results import MAJORITY, Agreement, HumanResults, Outcome, Rater
from detox_jax.report.table_formats import csv_lines, markdown_rows

NONE = "–"
_VOTES = {"rating": "Every rating", MAJORITY: "Majority of the raters"}
_LEGEND = (
    "Win: the method's text was chosen; loss: the other's. Net: wins minus losses, with its "
    "p-value (Holm) in parentheses. Undecided: no answer has more than half of the raters. In "
    "brackets: 95 % intervals, prompts being the unit. Alpha: Krippendorff's, 1 perfect "
    "agreement, 0 that of chance; nominal: win, tie and loss are only different; ordinal: a tie "
    "lies between."
)


def markdown(results: HumanResults, is_short: bool = False) -> str:
    """All tables, and what their columns mean.

    Args:
      results: what raters said.
      is_short: without the parts of the prompts, and single pairs' agreement.
    """
    parts = ["# What raters said"]
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    outcomes = [x for x in results.outcomes if x.split == "full" or not is_short]
    agreement = [x for x in results.agreement if not (x.method and is_short)]
    for outcome in outcomes:
        groups.setdefault((outcome.split, outcome.vote), []).append(_outcome_row(outcome))
    for (split, vote), rows in groups.items():
        prompts = "all prompts" if split == "full" else f"{split} prompts"
        parts += [f"## {_VOTES[vote]}, {prompts}", markdown_rows(rows)]
    parts += ["## How far raters agree", markdown_rows([*map(_agreement_row, agreement)])]
    parts += ["## Raters", markdown_rows([*map(_rater_row, results.raters)])]
    return "\n\n".join([*parts, *results.notes, _LEGEND]) + "\n"


def _outcome_row(outcome: Outcome) -> dict[str, str]:
    said = _p_value(outcome.p_value_holm)
    row = {
        "Method": outcome.method,
        "Against": outcome.against,
        "Question": _words(outcome.question),
        "Win": _share(outcome.wins),
        "Tie": _share(outcome.ties),
        "Loss": _share(outcome.losses),
        "Undecided": _share(outcome.undecided),
        "Net": _share(outcome.net) + said,
        "Votes": f"{outcome.votes:,}",
        "Prompts": f"{outcome.prompts:,}",
    }
    if outcome.vote != MAJORITY:
        del row["Undecided"]
    return row


def _p_value(p_value: float) -> str:
    """In parentheses; nothing is as sure as 0.000 would say."""
    if not math.isfinite(p_value):
        return ""
    return " (p < 0.001)" if p_value < 0.001 else f" (p {p_value:.3f})"


def _agreement_row(agreement: Agreement) -> dict[str, str]:
    pair = f"{agreement.method} against {agreement.against}" if agreement.method else "all"
    return {
        "Question": _words(agreement.question),
        "Pair": pair,
        "Comparisons": f"{agreement.comparisons:,}",
        "Ratings": f"{agreement.ratings:,}",
        "Same answer": _share(agreement.same),
        "Alpha, nominal": agreement.nominal.text(NONE),
        "Alpha, ordinal": agreement.ordinal.text(NONE),
    }


def _rater_row(rater: Rater) -> dict[str, str]:
    return {
        "Rater": str(rater.rater),
        "Answers": f"{rater.answers:,}",
        "Missing": f"{rater.missing:,}",
        "A, B, equal": ", ".join(
            f"{share:.0%}" for share in (rater.left, rater.right, rater.equal)
        ),
    }


def _words(question: str) -> str:
    return question.replace("_", " ")


def _share(interval: Interval) -> str:
    """`21.0 % [18.2, 24.1]`."""
    if not interval.is_measured:
        return NONE
    value, low, high = (
        f"{100 * x:.1f}".replace("-", "−") for x in (interval.value, interval.low, interval.high)
    )
    return f"{value} % [{low}, {high}]"


def csv_table(results: HumanResults) -> str:
    """Every figure of wins, ties and losses, one line for each pair, question, vote and split."""
    lines = []
    for outcome in results.outcomes:
        line: dict[str, Any] = {}
        for field in dataclasses.fields(outcome):
            value = getattr(outcome, field.name)
            if isinstance(value, Interval):
                for end, number in dataclasses.asdict(value).items():
                    line[f"{field.name}_{end}"] = _number(number)
            else:
                line[field.name] = _number(value)
        lines.append(line)
    return csv_lines(lines)


def _number(value: Any) -> Any:
    return "" if isinstance(value, float) and not math.isfinite(value) else value
