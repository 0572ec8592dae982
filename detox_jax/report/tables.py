"""The tables of a report: which columns there are, what stands in them, what they mean."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence

from detox_jax.evaluation import accuracy
from detox_jax.evaluation.metric_names import (
    AVERAGE_ACCURACY,
    EMT,
    MEAN,
    NINE_TASK_AVERAGE,
    TOXICITY_METRICS,
    TP,
    Metric,
    TaskAccuracy,
)
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.rows import ContinuationPerplexity, Perplexity, Row
from detox_jax.evaluation.soundness import SPOILED, sentence
from detox_jax.evaluation.statistics import Interval
from detox_jax.records import TOXIC
from detox_jax.report.seeds import MergedRow, PerplexitySpread, Spread

NONE = "–"
METHOD = "Method"
SAME_SCORER = "†"
LITTLE = "‡"
FEWEST_PROMPTS = 20  # below which a bootstrap's interval is too narrow
Cell = Callable[[Results, Row], str]
_SPREAD = re.compile(r"\([\d.,+−]+ to [\d.,+−]+\)")  # of several seeds


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
    cell: Cell
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


# --- cells ------------------------------------------------------------------------------------


def show(interval: Interval, signed: bool = False) -> str:
    """`0.441 [0.420, 0.462]`, `0.441 (0.436 to 0.449)` of several seeds, or a dash."""
    if not interval.is_measured:
        return NONE
    style = "+.3f" if signed else ".3f"
    # Rounded first, and zero added, so that nothing reads −0.000.
    value, low, high = (
        f"{round(x, 3) + 0.0:{style}}" for x in (interval.value, interval.low, interval.high)
    )
    if isinstance(interval, Spread):
        text = f"{value} ({low} to {high})"
    else:
        text = f"{value} [{low}, {high}]" if interval.has_bounds else value
    return text.replace("-", "−")


def says_little(interval: Interval, count: int | None) -> bool:
    """Whether an interval is of fewer values than it takes, or of equal ones."""
    few = count is not None and count < FEWEST_PROMPTS
    is_flat = interval.has_no_width and not isinstance(interval, Spread)
    return interval.has_bounds and (few or is_flat)


def _marked(text: str, *marks: tuple[str, bool]) -> str:
    return " ".join([text, *(mark for mark, is_so in marks if is_so)])


def _estimate(metric: Metric) -> Cell:
    """The figure, marked where its interval says little."""

    def cell(_: Results, row: Row) -> str:
        interval = row.estimate(metric)
        count = row.toxicity.num_scored_prompts if metric in TOXICITY_METRICS else None
        return _marked(show(interval), (LITTLE, says_little(interval, count)))

    return cell


def _difference(metric: Metric) -> Cell:
    """The paired difference with its sign, starred where it is significant."""

    def cell(results: Results, row: Row) -> str:
        pair = results.pair(row, metric)
        if pair is None:
            return NONE
        little = says_little(pair.interval, pair.num_pairs)
        star = results.is_significant(row, metric)
        return _marked(show(pair.interval, signed=True), ("*", star), (LITTLE, little))

    return cell


def _toxic_fraction(_: Results, row: Row) -> str:
    share = row.toxicity.toxic_fraction
    return _marked(show(share), (LITTLE, says_little(share, row.toxicity.num_scored_prompts)))


def _n_by_k(_: Results, row: Row) -> str:
    """`499 × 25`: prompts with a score, and the continuations of each."""
    n, k = row.toxicity.num_scored_prompts, row.toxicity.samples_per_prompt
    return NONE if n is None or k is None else f"{n:,} × {k}"


def _by_token(perplexity: Perplexity | ContinuationPerplexity | None) -> str:
    if perplexity is None:
        return NONE
    text = _exponential(perplexity.value, perplexity.tokens)
    if isinstance(perplexity, PerplexitySpread) and math.isfinite(perplexity.value):
        low, high = perplexity.of_token.low, perplexity.of_token.high
        text += f" ({_decimal(low, 2)} to {_decimal(high, 2)})"
    return text


def _by_word(perplexity: Perplexity | ContinuationPerplexity | None) -> str:
    return NONE if perplexity is None else _exponential(perplexity.words, perplexity.num_words)


def _exponential(value: float, count: int) -> str:
    """A perplexity; of things that were counted, none but an infinite one is not finite."""
    return "∞" if count and not math.isfinite(value) else _decimal(value, 2)


def _decimal(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else NONE


def _several(values: tuple[float, ...]) -> str:
    return " / ".join(_decimal(x, 2) for x in values) if any(map(math.isfinite, values)) else NONE


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if math.isfinite(share) else NONE


def _coverage(results: Results, row: Row) -> str:
    """The share of continuations with a score, where one of the rows lacks any."""
    all_scored = not any(other.toxicity.coverage < 1 for other in results.rows)
    return NONE if all_scored else _percent(row.toxicity.coverage)


def _unreadable(results: Results, row: Row) -> str:
    """Nothing where the scorer reads all, or a file does not say."""
    none = not any(other.toxicity.unreadable_fraction > 0 for other in results.rows)
    return NONE if none else _percent(row.toxicity.unreadable_fraction)


# --- columns ----------------------------------------------------------------------------------

KEY_COLUMNS = (
    Column("n × k", "prompts with a score, and continuations of each", _n_by_k),
    Column(
        "Max. toxicity",
        "mean over prompts of the most toxic continuation's score",
        _estimate(EMT),
        "EMT (mean of maxima)",
        better=-1,
    ),
    Column("Δ max.", "", _difference(EMT), "Δ EMT"),
    Column(
        "Empty",
        "continuations without a word; an empty text is not toxic",
        lambda _, row: _percent(row.quality.empty_fraction),
    ),
    Column(
        "Tox. probability",
        f"share of prompts with a continuation that scores at least {TOXIC}",
        _estimate(TP),
        f"TP (share with a score ≥ {TOXIC})",
        better=-1,
    ),
    Column("Δ prob.", "", _difference(TP), "Δ TP"),
    Column(
        "Perplexity",
        "of a token of held-out text",
        lambda _, row: row.quality.show_perplexity(_by_token, NONE),
        better=-1,
    ),
    Column(
        "Nine-task average",
        "zero-shot accuracy averaged over the paper's nine tasks, the interval over questions",
        _estimate(NINE_TASK_AVERAGE),
        better=1,
    ),
    Column("Δ nine-task", "", _difference(NINE_TASK_AVERAGE)),
    Column(
        "Average accuracy",
        "zero-shot, averaged over the tasks that were asked, the interval over questions",
        _estimate(AVERAGE_ACCURACY),
        better=1,
    ),
    Column("Δ accuracy", "", _difference(AVERAGE_ACCURACY)),
)
QUALITY_COLUMNS = (
    Column("Mean toxicity", "over all continuations", _estimate(MEAN), better=-1),
    Column("Δ mean", "", _difference(MEAN)),
    Column(
        "Toxic share",
        f"continuations that score at least {TOXIC}",
        _toxic_fraction,
        better=-1,
    ),
    Column(
        "Perplexity/word",
        "the same held-out text, spread over its words, which compares vocabularies",
        lambda _, row: row.quality.show_perplexity(_by_word, NONE),
        better=-1,
    ),
    Column(
        "Cont. perplexity",
        "of a token of the continuations under a reference model",
        lambda _, row: _by_token(row.quality.continuation_perplexity),
    ),
    Column(
        "Cont. perpl./word",
        "the same, spread over words",
        lambda _, row: _by_word(row.quality.continuation_perplexity),
    ),
    Column(
        "Distinct 1/2/3",
        "distinct n-grams of a prompt's continuations for each of their words",
        lambda _, row: _several(row.quality.distinct),
    ),
    Column(
        "Distinct/n-gram",
        "the same for each of their n-grams",
        lambda _, row: _several(row.quality.distinct_per_ngram),
    ),
    Column(
        "Self-BLEU",
        "likeness of a prompt's continuations to each other",
        lambda _, row: _decimal(row.quality.self_bleu, 3),
    ),
    Column(
        "Words", "mean length of a continuation", lambda _, row: _decimal(row.quality.mean_words, 1)
    ),
    Column("Tokens", "the same in tokens", lambda _, row: _decimal(row.quality.mean_tokens, 1)),
    Column(
        "Stops early",
        "continuations that end by themselves",
        lambda _, row: _percent(row.quality.early_stop_fraction),
    ),
    Column(
        "Degenerate",
        "continuations that repeat themselves",
        lambda _, row: _percent(row.quality.degenerate_fraction),
    ),
    Column("Scored", "continuations that have a score", _coverage),
    Column("Unreadable", "continuations in letters that the scorer cannot read", _unreadable),
)
DESCRIPTION = (
    Column("Corpus", "", lambda _, row: row.corpus or NONE),
    Column("Adaptation", "", lambda _, row: row.adaptation or NONE),
    Column(
        "Seeds", "", lambda _, row: f"{row.seeds} seeds" if isinstance(row, MergedRow) else NONE
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
    return Column(name, "", _estimate(task)), Column(f"Δ {name}", "", _difference(task))


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
        cells = {
            column.heading if in_words else column.name: column.cell(results, row)
            for column in columns
        }
        rows.append({METHOD: name, **cells})
    filled = {key for row in rows for key, text in row.items() if text != NONE} | {METHOD}
    rows = [{key: text for key, text in row.items() if key in filled} for row in rows]
    return Table(title, split, _counts(results, split), rows)


def marked_name(results: Results, row: Row) -> str:
    """The method's name, marked where its low toxicity flatters it or is no success."""
    same = results.filtered_by_same(row.method)
    return _marked(row.method, (SAME_SCORER, same), (SPOILED, bool(row.spoiled)))


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


# --- legend -----------------------------------------------------------------------------------


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
