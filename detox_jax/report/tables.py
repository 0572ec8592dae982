"""The tables of a report: which columns there are, and what stands in them."""

from __future__ import annotations

import dataclasses

from detox_jax.evaluation import accuracy
from detox_jax.evaluation.metric_names import (
    AVERAGE_ACCURACY,
    EMT,
    MEAN,
    NINE_TASK_AVERAGE,
    TP,
    TaskAccuracy,
)
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.rows import Row
from detox_jax.evaluation.soundness import SPOILED
from detox_jax.records import TOXIC
from detox_jax.report import cells
from detox_jax.report.seeds import MergedRow

METHOD = "Method"
SAME_SCORER = "†"


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      name: its heading.
      meaning: what the legend says of it; nothing where the heading says all.
      cell: the text of a row.
      words: its heading where there is room for words; the name where empty.
      better: -1 where less is better, 1 where more is, 0 where neither.
    """

    name: str
    meaning: str
    cell: cells.Cell
    words: str = ""
    better: int = 0

    @property
    def heading(self) -> str:
        """In words."""
        return self.words or self.name


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows as text by column; columns in which no row has anything are left out.

    Attributes:
      title: what the table is about.
      split: of the prompts; nothing where there are none, but questions.
      counts: how many prompts and continuations there are.
      rows: text by column, the method in the first.
    """

    title: str
    split: str
    counts: str
    rows: list[dict[str, str]]

    @property
    def heading(self) -> str:
        """The title and the split."""
        return f"{self.title}, {self.split} prompts" if self.split else self.title

    @property
    def in_words(self) -> str:
        """The same, where `full` is called all."""
        return f"{self.title}, {kind(self.split)} prompts" if self.split else self.title


def kind(split: str) -> str:
    """A split in words: `full` is all prompts."""
    return "all" if split == "full" else split


# --- columns ----------------------------------------------------------------------------------

KEY_COLUMNS = (
    Column("n × k", "prompts with a score, and continuations of each", cells.n_by_k),
    Column(
        "Max. toxicity",
        "mean over prompts of the most toxic continuation's score",
        cells.estimate(EMT),
        "EMT (mean of maxima)",
        better=-1,
    ),
    Column("Δ max.", "", cells.difference(EMT), "Δ EMT"),
    Column(
        "Empty",
        "continuations without a word; an empty text is not toxic",
        lambda _, row: cells.percent(row.quality.empty_fraction),
    ),
    Column(
        "Tox. probability",
        f"share of prompts with a continuation that scores at least {TOXIC}",
        cells.estimate(TP),
        f"TP (share with a score ≥ {TOXIC})",
        better=-1,
    ),
    Column("Δ prob.", "", cells.difference(TP), "Δ TP"),
    Column(
        "Perplexity",
        "of a token of held-out text",
        lambda _, row: row.quality.show_perplexity(cells.by_token, cells.NONE),
        better=-1,
    ),
    Column(
        "Nine-task average",
        "zero-shot accuracy averaged over the paper's nine tasks, the interval over questions",
        cells.estimate(NINE_TASK_AVERAGE),
        better=1,
    ),
    Column("Δ nine-task", "", cells.difference(NINE_TASK_AVERAGE)),
    Column(
        "Average accuracy",
        "zero-shot, averaged over the tasks that were asked, the interval over questions",
        cells.estimate(AVERAGE_ACCURACY),
        better=1,
    ),
    Column("Δ accuracy", "", cells.difference(AVERAGE_ACCURACY)),
)
QUALITY_COLUMNS = (
    Column("Mean toxicity", "over all continuations", cells.estimate(MEAN), better=-1),
    Column(
        "Δ mean",
        "of the means of prompts, each of which counts alike, however many scores it has",
        cells.difference(MEAN),
    ),
    Column(
        "Toxic share",
        f"continuations that score at least {TOXIC}",
        cells.toxic_fraction,
        better=-1,
    ),
    Column(
        "Perplexity/word",
        "the same held-out text, spread over its words, which compares vocabularies",
        lambda _, row: row.quality.show_perplexity(cells.by_word, cells.NONE),
        better=-1,
    ),
    Column(
        "Cont. perplexity (all prompts)",
        "of a token of at most the first two continuations of each prompt, in every split those of "
        "all prompts, under a reference model",
        lambda _, row: cells.by_token(row.quality.continuation_perplexity),
    ),
    Column(
        "Cont. perpl./word (all prompts)",
        "the same, spread over words",
        lambda _, row: cells.by_word(row.quality.continuation_perplexity),
    ),
    Column(
        "Distinct 1/2/3",
        "distinct n-grams of a prompt's continuations for each of their words",
        lambda _, row: cells.several(row.quality.distinct),
    ),
    Column(
        "Distinct/n-gram",
        "the same for each of their n-grams",
        lambda _, row: cells.several(row.quality.distinct_per_ngram),
    ),
    Column(
        "Self-BLEU",
        "likeness of a prompt's continuations to each other",
        lambda _, row: cells.decimal(row.quality.self_bleu, 3),
    ),
    Column(
        "Words",
        "mean length of a continuation",
        lambda _, row: cells.decimal(row.quality.mean_words, 1),
    ),
    Column(
        "Tokens", "the same in tokens", lambda _, row: cells.decimal(row.quality.mean_tokens, 1)
    ),
    Column(
        "Stops early",
        "continuations that end by themselves",
        lambda _, row: cells.percent(row.quality.early_stop_fraction),
    ),
    Column(
        "Degenerate",
        "continuations that repeat themselves",
        lambda _, row: cells.percent(row.quality.degenerate_fraction),
    ),
    Column("Scored", "continuations that have a score", cells.coverage),
    Column("Unreadable", "continuations in letters that the scorer cannot read", cells.unreadable),
)
DESCRIPTION = (
    Column("Corpus", "", lambda _, row: row.corpus or cells.NONE),
    Column("Adaptation", "", lambda _, row: row.adaptation or cells.NONE),
    Column(
        "Seeds",
        "",
        lambda _, row: f"{row.seeds} seeds" if isinstance(row, MergedRow) else cells.NONE,
    ),
)


def key_table(results: Results, split: str) -> Table:
    """Toxicity, its differences to the baseline, and perplexity."""
    return made_table(results, split, "Toxicity", (*DESCRIPTION, *KEY_COLUMNS))


def quality_table(results: Results, split: str) -> Table | None:
    """Everything else that was measured; None where nothing was."""
    table = made_table(results, split, "Quality", QUALITY_COLUMNS)
    return table if len(table.rows[0]) > 1 else None


def accuracy_table(results: Results) -> Table | None:
    """The accuracy of each zero-shot task; None where none was asked."""
    tasks = [metric for metric in results.accuracies if isinstance(metric, TaskAccuracy)]
    columns = tuple(column for task in tasks for column in _accuracy_columns(task))
    if not columns:
        return None
    table = made_table(results, results.splits[0], "Zero-shot accuracy", columns)
    return dataclasses.replace(table, split="", counts=f"{len(tasks)} tasks")


def _accuracy_columns(task: TaskAccuracy) -> tuple[Column, Column]:
    name = accuracy.display_name(task)
    return Column(name, "", cells.estimate(task)), Column(f"Δ {name}", "", cells.difference(task))


def tables(results: Results) -> list[Table]:
    """Both tables of each split, and the accuracies."""
    makers = (key_table, quality_table)
    made = [maker(results, split) for split in results.splits for maker in makers]
    return [table for table in [*made, accuracy_table(results)] if table]


def made_table(
    results: Results, split: str, title: str, columns: tuple[Column, ...], in_words: bool = False
) -> Table:
    """The rows of a split in some columns.

    Args:
      results: of one scorer.
      split: of the prompts.
      title: what the table is about.
      columns: those in which no row has anything are left out.
      in_words: head columns in words, and mark methods only beside figures of the scorer.
    """
    rows = []
    marked = not in_words or title == "Toxicity"
    for row in results.of_split(split):
        name = marked_name(results, row) if marked else row.method
        texts = {
            column.heading if in_words else column.name: column.cell(results, row)
            for column in columns
        }
        rows.append({METHOD: name, **texts})
    filled = {key for row in rows for key, text in row.items() if text != cells.NONE} | {METHOD}
    rows = [{key: text for key, text in row.items() if key in filled} for row in rows]
    return Table(title, split, _counts(results, split), rows)


def marked_name(results: Results, row: Row) -> str:
    """The method's name, marked where its low toxicity flatters it or is no success."""
    return cells.marked(row.method, *marks(results, row).items())


def marks(results: Results, row: Row) -> dict[str, bool]:
    """Whether the toxicity of a row has each mark under this scorer: it flatters, is no success."""
    same = results.filtered_by_same(row.method)
    return {SAME_SCORER: same, SPOILED: bool(row.spoiled)}


def _counts(results: Results, split: str) -> str:
    rows = [row.toxicity for row in results.of_split(split)]
    units = {
        "prompts": {row.num_prompts for row in rows},
        "continuations a prompt": {row.samples_per_prompt for row in rows},
    }
    # Files of other projects, and of our first layout, may have a number of its own in each row.
    texts = [
        f"{count:,} {unit}" for unit, (count, *others) in units.items() if count and not others
    ]
    return ", ".join(texts) or "prompts not counted"
