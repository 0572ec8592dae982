"""Rows that differ in nothing but their seed, as one: the mean of the seeds, the least, the most.

What a seed changes is no method. So an evaluation is merged before anything is drawn: a figure
becomes the mean over seeds with its ends, a difference is significant where that of every seed is,
a prompt's maxima are pooled, and texts are those of the first seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from detox_jax.errors import UserError
from detox_jax.evaluation.metric_names import Accuracy
from detox_jax.evaluation.results import Provenance, Results
from detox_jax.evaluation.results_files import (
    Curve,
    Evaluation,
    KCurve,
    Maxima,
    Prompts,
    Sample,
    Training,
)
from detox_jax.evaluation.rows import Paired, Perplexity, Quality, Row, Toxicity
from detox_jax.evaluation.statistics import Interval

T = TypeVar("T")
Seeds = Mapping[str, Sequence[str]]  # rows by the name that they have as one
_EXAMPLE = "{'whole': ['whole-seed0', 'whole-seed1', 'whole-seed2']}"


@dataclasses.dataclass(frozen=True)
class Spread(Interval):
    """The mean over seeds, the least and the most of them; no confidence interval."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerplexitySpread(Perplexity):
    """The mean perplexity of several trainings.

    Attributes:
      of_token: the same as `value`, with its ends.
    """

    of_token: Spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergedRow(Row):
    """A row of several seeds.

    Attributes:
      seeds: how many.
    """

    seeds: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergedPair(Paired):
    """The difference of several seeds to the baseline.

    Attributes:
      all_significant: whether that of every seed is.
    """

    all_significant: bool

    @property
    def interval(self) -> Interval:
        """The mean difference, the least and the most."""
        return Spread(self.difference, self.low, self.high)

    @property
    def is_significant(self) -> bool:
        """Whether the difference of every seed is significant."""
        return self.all_significant


# --- what the user says -----------------------------------------------------------------------


def check(seeds: Any, several: Sequence[Results]) -> None:
    """Refuses what is not rows by name.

    Args:
      seeds: as the user gave them.
      several: the results, of which one at least has each row.

    Raises:
      UserError: naming the group and the row.
    """
    if not isinstance(seeds, Mapping):
        raise UserError(f"SEEDS is {seeds!r}; give rows by name: {_EXAMPLE}")
    there = {name for results in several for name in results.methods if name != results.baseline}
    bases = {results.baseline for results in several}
    named: dict[str, str] = {}
    for name, rows in seeds.items():
        if not isinstance(name, str) or not isinstance(rows, list | tuple) or len(rows) < 2:
            raise UserError(f"SEEDS: {name!r} is {rows!r}; give two rows or more: {_EXAMPLE}")
        for row in rows:
            if row not in there:
                raise UserError(
                    f"SEEDS: {name!r} names {row!r}; there are {', '.join(sorted(there))}"
                )
            if row in named:
                raise UserError(f"SEEDS: {row!r} stands twice, for {named[row]!r} and {name!r}")
            named[row] = name
    for name in seeds:
        is_others = name in bases or (name in there and name not in named)
        if named.get(name, name) != name or is_others:
            raise UserError(f"SEEDS: {name!r} is another row's name; choose another")


# --- an evaluation ----------------------------------------------------------------------------


def merged(evaluation: Evaluation, seeds: Seeds) -> Evaluation:
    """The evaluation with one row for every group of seeds; as it is without any.

    Args:
      evaluation: of any rows.
      seeds: groups, see `check`; of those of which it has fewer than two rows nothing is merged.
    """
    methods = evaluation.results.methods
    here = {name: [row for row in rows if row in methods] for name, rows in seeds.items()}
    here = {name: rows for name, rows in here.items() if len(rows) > 1}
    if not here:
        return evaluation
    name_of = {row: name for name, rows in here.items() for row in rows}
    return dataclasses.replace(
        evaluation,
        results=_results(evaluation.results, here, name_of),
        prompts=_prompts(evaluation.prompts, here, name_of),
        samples=tuple(_sample(sample, here, name_of) for sample in evaluation.samples),
        training=Training(_by_name(evaluation.training.methods, here, name_of, _curve)),
    )


def _results(results: Results, here: Seeds, name_of: Mapping[str, str]) -> Results:
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        rows.setdefault((name_of.get(row.method, row.method), row.split), []).append(row)
    pairs: dict[tuple[str, str, str], list[Paired]] = {}
    for pair in results.paired:
        key = name_of.get(pair.method, pair.method), pair.split, pair.metric
        pairs.setdefault(key, []).append(pair)
    return dataclasses.replace(
        results,
        rows=tuple(_row(name, of) if name in here else of[0] for (name, _), of in rows.items()),
        paired=tuple(
            _pair(name, of, results) if name in here else of[0] for (name, *_), of in pairs.items()
        ),
        provenance=_provenance(results.provenance, here),
    )


def _provenance(provenance: Provenance, here: Seeds) -> Provenance:
    """Who filtered the texts of a group, where it is one scorer."""
    filters = dict(provenance.filtered_by)
    for name, rows in here.items():
        filters[name] = _same([filters.get(row) for row in rows])
    return dataclasses.replace(provenance, filtered_by=filters)


def _row(name: str, rows: Sequence[Row]) -> MergedRow:
    first = rows[0]
    asked: dict[Accuracy, Interval] = {
        metric: spread([row.accuracies[metric] for row in rows])
        for metric in first.accuracies
        if all(metric in row.accuracies for row in rows)
    }
    return MergedRow(
        method=name,
        corpus=_same([row.corpus for row in rows]),
        adaptation=_same([row.adaptation for row in rows]),
        split=first.split,
        scorer=first.scorer,
        spoiled=tuple(dict.fromkeys(reason for row in rows for reason in row.spoiled)),
        toxicity=_toxicity([row.toxicity for row in rows]),
        quality=_quality([row.quality for row in rows]),
        accuracies=asked,
        seeds=len(rows),
    )


def _toxicity(several: Sequence[Toxicity]) -> Toxicity:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Toxicity):
        of_field = [getattr(one, field.name) for one in several]
        if isinstance(of_field[0], Interval):
            values[field.name] = spread(of_field)
        else:
            is_share = isinstance(of_field[0], float)
            values[field.name] = _mean(of_field) if is_share else _same(of_field)
    return Toxicity(**values)


def _quality(several: Sequence[Quality]) -> Quality:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Quality):
        of_field = [getattr(one, field.name) for one in several]
        if field.name == "perplexity":
            values[field.name] = _perplexity(of_field)
        elif any(value is None for value in of_field):
            values[field.name] = next((x for x in of_field if isinstance(x, str)), None)
        elif isinstance(of_field[0], tuple):
            values[field.name] = tuple(map(_mean, zip(*of_field, strict=True)))
        elif isinstance(of_field[0], float):
            values[field.name] = _mean(of_field)
        elif isinstance(of_field[0], str):
            values[field.name] = of_field[0]
        else:
            means = {x: _mean([getattr(one, x) for one in of_field]) for x in ("value", "words")}
            values[field.name] = dataclasses.replace(of_field[0], **means)
    return Quality(**values)


def _perplexity(several: Sequence[Perplexity | None]) -> Perplexity | None:
    present = [one for one in several if one is not None]
    if len(present) < len(several):
        return None
    values = [one.value for one in present]
    most = max(present, key=lambda one: one.impossible)
    return PerplexitySpread(
        value=_mean(values),
        words=_mean([one.words for one in present]),
        tokens=most.tokens,
        num_words=most.num_words,
        documents=most.documents,
        impossible=most.impossible,
        of_token=Spread(_mean(values), min(values), max(values)),
    )


def _pair(name: str, pairs: Sequence[Paired], results: Results) -> MergedPair:
    first = pairs[0]
    differences = [pair.difference for pair in pairs]
    counts = [pair.num_pairs for pair in pairs if pair.num_pairs is not None]
    rows = {(row.method, row.split): row for row in results.rows}
    return MergedPair(
        method=name,
        baseline=first.baseline,
        metric=first.metric,
        difference=_mean(differences),
        low=min(differences),
        high=max(differences),
        p_value=max(pair.p_value for pair in pairs),
        p_value_holm=max(pair.p_value_holm for pair in pairs),
        split=first.split,
        num_pairs=min(counts, default=None),
        all_significant=all(
            results.is_significant(rows[pair.method, pair.split], pair.metric) for pair in pairs
        ),
    )


# --- what lies beside -------------------------------------------------------------------------


def _by_name(by_row: Mapping[str, T], here: Seeds, name_of: Mapping[str, str], one: Any) -> dict:
    """What is kept by row, by name: that of a group is made of all that its rows have."""
    made: dict[str, T] = {}
    for row, value in by_row.items():
        name = name_of.get(row, row)
        if name not in here:
            made[name] = value
        elif name not in made:
            made[name] = one([by_row[x] for x in here[name] if x in by_row])
    return made


def _prompts(prompts: Prompts, here: Seeds, name_of: Mapping[str, str]) -> Prompts:
    return Prompts(
        _by_name(prompts.methods, here, name_of, _maxima),
        _by_name(prompts.k_curve, here, name_of, _k_curve),
    )


def _maxima(several: Sequence[Maxima]) -> Maxima:
    """Those of all seeds: the curve of all of them is the mean of the seeds' curves."""
    return Maxima(tuple(value for one in several for value in one.max_toxicity))


def _k_curve(several: Sequence[KCurve]) -> KCurve:
    """As far as the curves of all seeds go: with scores missing one may end before another."""
    names = ("k", "expected_maximum_toxicity", "toxicity_probability")
    end = min(len(one.k) for one in several)
    cut = [dataclasses.replace(one, **{x: getattr(one, x)[:end] for x in names}) for one in several]
    return _averaged(cut, names[1:])


_LOSSES = ("loss", "validation_loss", "frontier_toxicity", "frontier_perplexity")


def _curve(several: Sequence[Curve]) -> Curve:
    return _averaged(several, _LOSSES)


def _averaged(several: Sequence[T], names: Sequence[str]) -> T:
    """The mean of several curves at the same places; the first one where they differ in length."""
    first: Any = several[0]
    means = {}
    for name in names:
        values = [getattr(one, name) for one in several]
        if len({len(value) for value in values}) > 1:
            return first
        means[name] = tuple(map(_mean, zip(*values, strict=True)))
    return dataclasses.replace(first, **means)


def _sample(sample: Sample, here: Seeds, name_of: Mapping[str, str]) -> Sample:
    """The texts of every group's first seed."""

    def first(several: Sequence[Any]) -> Any:
        return several[0]

    return dataclasses.replace(
        sample,
        continuations=_by_name(sample.continuations, here, name_of, first),
        drawn=_by_name(sample.drawn, here, name_of, first),
        worst=_by_name(sample.worst, here, name_of, first),
    )


# --- values -----------------------------------------------------------------------------------


def spread(intervals: Sequence[Interval]) -> Spread:
    """The mean of estimates, the least and the most; unmeasured where one of them is."""
    values = [interval.value for interval in intervals]
    return Spread(_mean(values), float(np.min(values)), float(np.max(values)))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _same(values: Sequence[Any]) -> Any:
    """What all are; None where they differ."""
    return values[0] if all(value == values[0] for value in values) else None
