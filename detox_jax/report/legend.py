"""The legend of a report's tables: what their marks and columns mean, a sentence each."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence

from detox_jax.evaluation.accuracy import display_name
from detox_jax.evaluation.metric_names import AVERAGE_ACCURACY, NINE_TASK_AVERAGE, Accuracy
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.soundness import sentence
from detox_jax.records import TOXIC
from detox_jax.report.cells import FEWEST_PROMPTS, LITTLE, has_little
from detox_jax.report.tables import (
    KEY_COLUMNS,
    METHOD,
    QUALITY_COLUMNS,
    SAME_SCORER,
    Table,
    tables,
)

_SPREAD = re.compile(r"\([\d.,+−]+ to [\d.,+−]+\)")  # of several seeds
_AVERAGES: Mapping[Accuracy, tuple[str, str]] = {  # their columns
    NINE_TASK_AVERAGE: ("Nine-task average", "Δ nine-task"),
    AVERAGE_ACCURACY: ("Average accuracy", "Δ accuracy"),
}


def legend(results: Results) -> list[str]:
    """What marks and columns mean, a sentence each; of the columns that are shown."""
    made = tables(results)
    return [
        *legend_of_columns(results, made),
        *_limits(results),
        *legend_of_texts(results),
        *_scorer(results),
    ]


def legend_of_columns(results: Results, made: Sequence[Table]) -> list[str]:
    """What the columns and marks of some tables mean."""
    shown = {name for table in made for name in table.rows[0]}
    sentences = [
        f"{column.name if column.name in shown else column.words}: {column.meaning}."
        for column in (*KEY_COLUMNS, *QUALITY_COLUMNS)
        if column.meaning and {column.name, column.words} & shown
    ]
    if differences := {name for name in shown if name.startswith("Δ")}:
        sentences.append(
            f"Δ: paired difference to {results.baseline} on the same "
            f"{_units(results, differences)}; * {_star(results)}."
        )
    cells = [cell for table in made for row in table.rows for cell in row.items()]
    if bracketed := {name for name, text in cells if "[" in text and name != METHOD}:
        sentences.append(f"In brackets: 95 % intervals over {_units(results, bracketed)}.")
    if "Seeds" in shown or any(_SPREAD.search(text) for _, text in cells):
        sentences.append(
            "Of several seeds: the mean, in parentheses the least and the most, and a * where the "
            "difference of every seed has one."
        )
    return [*sentences, *legend_of_little(made), *_legend_of_splits(results, made)]


def legend_of_little(made: Sequence[Table]) -> list[str]:
    """What the mark of intervals that say little means, where one of some tables has it."""
    if not has_little(row for table in made for row in table.rows):
        return []
    return [
        f"{LITTLE}: the interval says little, being of fewer than {FEWEST_PROMPTS} values, or "
        "of equal ones."
    ]


def _units(results: Results, columns: Collection[str]) -> str:
    """What the figures of some columns are over: prompts, and of accuracies questions."""
    asked: set[str] = set()
    for metric in results.accuracies:
        name = display_name(metric)
        asked |= {*_AVERAGES.get(metric, (name, f"Δ {name}"))}
    if asked.isdisjoint(columns):
        return "prompts"
    return "questions" if asked.issuperset(columns) else "prompts (accuracies: questions)"


def _legend_of_splits(results: Results, made: Sequence[Table]) -> list[str]:
    """Which prompts the splits of some tables are, and how many are in neither of the two."""
    meant = {
        "toxic": f"toxic prompts: those whose own score is at least {TOXIC}",
        "nontoxic": "nontoxic: those whose own score is below",
        "challenging": "challenging: those that their file marks so",
    }
    splits = {table.split for table in made}
    shown = [words for split, words in meant.items() if split in splits]
    if not shown:
        return []
    sentence = "; ".join(shown)
    sentences = [f"{sentence[0].upper()}{sentence[1:]}."]
    first = results.of_split(results.splits[0])[0].toxicity
    if without := first.num_prompts_without_score:
        of_all = "" if first.num_prompts is None else f" of all {first.num_prompts:,}"
        sentences.append(
            f"{without:,}{of_all} prompts have no score of their own: neither toxic nor nontoxic."
        )
    return sentences


def legend_of_texts(results: Results) -> list[str]:
    """What read the continuations."""
    read = [row.quality.continuation_perplexity for row in results.rows]
    references = sorted({perplexity.reference for perplexity in read if perplexity})
    if not references:
        return []
    named = ", ".join(references)
    return [f"Reference model of the continuations' perplexity: {named}."]


def legend_of_scorer(results: Results) -> list[str]:
    """What limits the scorer's figures, and who it is."""
    return [*_limits(results), *_scorer(results)]


def _limits(results: Results) -> list[str]:
    spoiled = [f"{sentence(name, why)}." for name, why in results.spoiled.items()]
    return [*spoiled, *results.provenance.notes]


def _scorer(results: Results) -> list[str]:
    sentences = [f"Scorer: {results.scorer.fingerprint}."]
    if any(results.filtered_by_same(name) for name in results.methods):
        flattered = (
            f"{SAME_SCORER}: filtered by the same scorer, or made by its scores otherwise; its "
            "toxicity here flatters it, since its training texts, its tags, what steers it or its "
            "step was chosen by this very score."
        )
        return [flattered, *sentences]
    return sentences


def _star(results: Results) -> str:
    """What the star stands for, which depends on what `evaluate` wrote."""
    adjusted = {math.isfinite(pair.p_value_holm) for pair in results.paired}
    by_p_value = "where the p-value, adjusted by Holm's method, is below 0.05"
    if adjusted == {True}:
        return by_p_value
    if True in adjusted:
        return f"{by_p_value}, or, without a p-value, where the interval excludes zero"
    return "where its interval excludes zero"
