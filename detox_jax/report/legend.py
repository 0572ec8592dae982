"""The legend of a report's tables: what their marks and columns mean, a sentence each."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from detox_jax.evaluation.results import Results
from detox_jax.evaluation.soundness import sentence
from detox_jax.report.cells import FEWEST_PROMPTS, LITTLE
from detox_jax.report.tables import KEY_COLUMNS, QUALITY_COLUMNS, SAME_SCORER, Table, tables

_SPREAD = re.compile(r"\([\d.,+−]+ to [\d.,+−]+\)")  # of several seeds


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
    if any(name.startswith("Δ") for name in shown):
        sentences.append(
            f"Δ: paired difference to {results.baseline} on the same prompts; * {_star(results)}."
        )
    cells = [text for table in made for row in table.rows for text in row.values()]
    if any("[" in text for text in cells):
        sentences.append("In brackets: 95 % intervals over prompts.")
    if "Seeds" in shown or any(_SPREAD.search(text) for text in cells):
        sentences.append(
            "Of several seeds: the mean, in parentheses the least and the most, and a * where the "
            "difference of every seed has one."
        )
    if any(text.endswith(LITTLE) for text in cells):
        sentences.append(
            f"{LITTLE}: the interval says little, being of fewer than {FEWEST_PROMPTS} values, or "
            "of equal ones."
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
            f"{SAME_SCORER}: filtered by the same scorer; its toxicity here flatters it, since its "
            "training texts were chosen by this very score."
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
