"""The same figures in tables that fit a screen and a paper: what no scorer changes stands apart."""

from __future__ import annotations

from collections.abc import Sequence

from detox_jax.evaluation.results import Results
from detox_jax.report.tables import (
    DESCRIPTION,
    KEY_COLUMNS,
    METHOD,
    QUALITY_COLUMNS,
    Column,
    Table,
    accuracy_table,
    made_table,
)

_SCORES = (
    *("n × k", "Max. toxicity", "Δ max.", "Tox. probability", "Δ prob.", "Empty"),
    *("Mean toxicity", "Δ mean", "Toxic share", "Scored", "Unreadable"),
)
_MODELS = (
    *(
        "Perplexity",
        "Perplexity/word",
        "Cont. perplexity (all prompts)",
        "Cont. perpl./word (all prompts)",
        "Nine-task average",
    ),
    *("Δ nine-task", "Average accuracy", "Δ accuracy"),
)
_ALL = (*KEY_COLUMNS, *QUALITY_COLUMNS)


def columns_of_scores() -> tuple[Column, ...]:
    """What the scorer says of the continuations."""
    return columns_named(_SCORES)


def columns_of_models() -> tuple[Column, ...]:
    """What is not told apart by prompt: perplexities and questions."""
    return columns_named(_MODELS)


def columns_of_texts() -> tuple[Column, ...]:
    """What the continuations are like, whatever a scorer says."""
    return tuple(column for column in _ALL if column.name not in (*_SCORES, *_MODELS))


def columns_named(names: Sequence[str]) -> tuple[Column, ...]:
    """The columns of these names."""
    columns = {column.name: column for column in _ALL}
    return tuple(columns[name] for name in names)


def of_scores(results: Results) -> list[Table]:
    """The toxicity of every split."""
    columns = (*DESCRIPTION, *columns_of_scores())
    return [
        made_table(results, split, "Toxicity", columns, in_words=True) for split in results.splits
    ]


def of_texts(results: Results) -> list[Table]:
    """What no scorer changes: perplexities and accuracies once, and each split's continuations."""
    models = made_table(results, results.splits[0], "Language modelling", columns_of_models(), True)
    shown = [Table(models.title, "", "the same for all prompts", models.rows)]
    shown += [
        made_table(results, split, "Continuations", columns_of_texts(), in_words=True)
        for split in results.splits
    ]
    shown = [table for table in shown if table.rows[0].keys() != {METHOD}]
    return [table for table in [*shown, accuracy_table(results)] if table]
