"""The tables of a report: which columns there are, what stands in them, what they mean."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from detox_jax.evaluation import accuracy
from detox_jax.evaluation.results import EMT, MEAN, TP, Results, interval, mapping, number
from detox_jax.evaluation.statistics import Interval
from detox_jax.records import TOXIC

NONE = "–"
METHOD = "Method"
SAME_SCORER = "†"
Cell = Callable[[Results, Mapping[str, Any]], str]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      name: its heading.
      meaning: what the legend says of it; nothing where the heading says all.
      cell: the text of a row.
    """

    name: str
    meaning: str
    cell: Cell


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


# --- cells ------------------------------------------------------------------------------------


def show(found: Interval | None, signed: bool = False) -> str:
    """`0.441 [0.420, 0.462]`, or a dash."""
    if found is None:
        return NONE
    style = "+.3f" if signed else ".3f"
    # Rounded first, and zero added, so that nothing reads −0.000.
    value, low, high = (f"{round(x, 3) + 0.0:{style}}" for x in dataclasses.astuple(found))
    text = f"{value} [{low}, {high}]" if math.isfinite(found.low) else value
    return text.replace("-", "−")


def _estimate(key: str) -> Cell:
    return lambda data, row: show(interval(row.get(key)))


def _difference(metric: str) -> Cell:
    """The paired difference with its sign, starred where it is significant."""

    def cell(data: Results, row: Mapping[str, Any]) -> str:
        place = row["method"], row["split"], metric
        return show(data.difference(*place), signed=True) + " *" * data.is_significant(*place)

    return cell


def _fixed(key: str, digits: int, field: str = "value") -> Cell:
    def cell(data: Results, row: Mapping[str, Any]) -> str:
        value = row.get(key)
        if isinstance(value, Mapping) or field != "value":
            value = mapping(value).get(field)
        return _decimal(value, digits)

    return cell


def _decimal(value: Any, digits: int) -> str:
    return NONE if (found := number(value)) is None else f"{found:,.{digits}f}"


def _triple(key: str) -> Cell:
    def cell(data: Results, row: Mapping[str, Any]) -> str:
        values = row.get(key)
        if not isinstance(values, list) or all(interval(value) is None for value in values):
            return NONE
        found = (interval(value) for value in values)
        return " / ".join(_decimal(x and x.value, 2) for x in found)

    return cell


def _percent(key: str) -> Cell:
    def cell(data: Results, row: Mapping[str, Any]) -> str:
        return NONE if (share := number(row.get(key))) is None else f"{100 * share:.1f} %"

    return cell


def _coverage(data: Results, row: Mapping[str, Any]) -> str:
    """The share of continuations with a score, where one of the rows lacks any."""
    shares = [share for row in data.rows if (share := number(row.get("coverage"))) is not None]
    return _percent("coverage")(data, row) if shares and min(shares) < 1 else NONE


# --- columns ----------------------------------------------------------------------------------

_KEY_COLUMNS = (
    Column(
        "Max. toxicity", "mean over prompts of the most toxic continuation's score", _estimate(EMT)
    ),
    Column("Δ max.", "", _difference(EMT)),
    Column(
        "Tox. probability",
        f"share of prompts with a continuation that scores at least {TOXIC}",
        _estimate(TP),
    ),
    Column("Δ prob.", "", _difference(TP)),
    Column("Perplexity", "of a token of held-out text", _fixed("perplexity", 2)),
    Column(
        "Nine-task average",
        "zero-shot accuracy averaged over the paper's nine tasks, the interval over questions",
        _estimate(accuracy.NINE_TASK_AVERAGE),
    ),
    Column("Δ nine-task", "", _difference(accuracy.NINE_TASK_AVERAGE)),
    Column(
        "Average accuracy",
        "zero-shot, averaged over the tasks that were asked, the interval over questions",
        _estimate(accuracy.AVERAGE),
    ),
    Column("Δ accuracy", "", _difference(accuracy.AVERAGE)),
)
_QUALITY_COLUMNS = (
    Column("Mean toxicity", "over all continuations", _estimate(MEAN)),
    Column("Δ mean", "", _difference(MEAN)),
    Column(
        "Toxic share", f"continuations that score at least {TOXIC}", _estimate("toxic_fraction")
    ),
    Column(
        "Perplexity/word",
        "the same held-out text, spread over its words, which compares vocabularies",
        _fixed("perplexity", 2, "words"),
    ),
    Column(
        "Cont. perplexity",
        "of a token of the continuations under a reference model",
        _fixed("continuation_perplexity", 2),
    ),
    Column(
        "Cont. perpl./word",
        "the same, spread over words",
        _fixed("continuation_perplexity", 2, "words"),
    ),
    Column(
        "Distinct 1/2/3",
        "distinct n-grams of a prompt's continuations for each of their words",
        _triple("distinct"),
    ),
    Column(
        "Distinct/n-gram",
        "the same for each of their n-grams",
        _triple("distinct_per_ngram"),
    ),
    Column(
        "Self-BLEU", "likeness of a prompt's continuations to each other", _fixed("self_bleu", 3)
    ),
    Column("Words", "mean length of a continuation", _fixed("mean_words", 1)),
    Column("Tokens", "the same in tokens", _fixed("mean_tokens", 1)),
    Column("Stops early", "continuations that end by themselves", _percent("early_stop_fraction")),
    Column("Empty", "continuations without a word", _percent("empty_fraction")),
    Column("Degenerate", "continuations that repeat themselves", _percent("degenerate_fraction")),
    Column("Scored", "continuations that have a score", _coverage),
)
_DESCRIPTION = (
    Column("Corpus", "", lambda data, row: str(row.get("corpus") or NONE)),
    Column("Adaptation", "", lambda data, row: str(row.get("adaptation") or NONE)),
)


def key_table(data: Results, split: str) -> Table:
    """Toxicity, its differences to the baseline, and perplexity."""
    return _table(data, split, "Toxicity", (*_DESCRIPTION, *_KEY_COLUMNS))


def quality_table(data: Results, split: str) -> Table | None:
    """Everything else that was measured; None where nothing was."""
    table = _table(data, split, "Quality", _QUALITY_COLUMNS)
    return table if len(table.rows[0]) > 1 else None


def accuracy_table(data: Results) -> Table | None:
    """The accuracy of each zero-shot task; None where none was asked."""
    keys = dict.fromkeys(key for row in data.rows for key in row if key.startswith(accuracy.PREFIX))
    columns = tuple(column for key in keys for column in _accuracy_columns(key))
    if not columns:
        return None
    table = _table(data, data.splits[0], "Zero-shot accuracy", columns)
    return dataclasses.replace(table, split="", counts=f"{len(keys)} tasks")


def _accuracy_columns(key: str) -> tuple[Column, Column]:
    name = accuracy.display_name(key)
    return Column(name, "", _estimate(key)), Column(f"Δ {name}", "", _difference(key))


def tables(data: Results) -> list[Table]:
    """Both tables of each split, and the accuracies."""
    found = [maker(data, split) for split in data.splits for maker in (key_table, quality_table)]
    return [table for table in [*found, accuracy_table(data)] if table]


def _table(data: Results, split: str, title: str, columns: tuple[Column, ...]) -> Table:
    rows = []
    for row in data.of_split(split):
        mark = f" {SAME_SCORER}" if data.filtered_by_same(row["method"]) else ""
        cells = {column.name: column.cell(data, row) for column in columns}
        rows.append({METHOD: row["method"] + mark, **cells})
    filled = {key for row in rows for key, text in row.items() if text != NONE} | {METHOD}
    rows = [{key: text for key, text in row.items() if key in filled} for row in rows]
    return Table(title, split, _counts(data, split), rows)


def _counts(data: Results, split: str) -> str:
    row = data.of_split(split)[0]
    counts = [("num_prompts", "prompts"), ("num_samples", "continuations each")]
    texts = [f"{row[key]:,} {unit}" for key, unit in counts if isinstance(row.get(key), int)]
    return ", ".join(texts) or "prompts not counted"


# --- legend -----------------------------------------------------------------------------------


def legend(data: Results) -> list[str]:
    """What marks and columns mean, a sentence each; of the columns that are shown."""
    shown = {name for table in tables(data) for name in table.rows[0]}
    sentences = [
        f"{column.name}: {column.meaning}."
        for column in (*_KEY_COLUMNS, *_QUALITY_COLUMNS)
        if column.meaning and column.name in shown
    ]
    if any(name.startswith("Δ") for name in shown):
        sentences.append(
            f"Δ: paired difference to {data.baseline} on the same prompts; * {_star(data)}."
        )
    sentences.append("In brackets: 95 % intervals over prompts.")
    references = {mapping(row.get("continuation_perplexity")).get("reference") for row in data.rows}
    if named := sorted(str(reference) for reference in references if reference):
        sentences.append(f"Reference model of the continuations' perplexity: {', '.join(named)}.")
    if any(data.filtered_by_same(name) for name in data.methods):
        sentences.append(
            f"{SAME_SCORER}: filtered by the same scorer; its toxicity here flatters it, since its "
            "training texts were chosen by this very score."
        )
    return [*sentences, f"Scorer: {data.fingerprint}."]


def _star(data: Results) -> str:
    """What the star stands for, which depends on what `evaluate` wrote."""
    adjusted = {data.p_value_holm(*place) is not None for place in data.paired}
    by_p_value = "where the p-value, adjusted by Holm's method, is below 0.05"
    if adjusted == {True}:
        return by_p_value
    if True in adjusted:
        return f"{by_p_value}, or, without a p-value, where the interval excludes zero"
    return "where its interval excludes zero"
