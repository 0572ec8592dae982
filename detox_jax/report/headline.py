"""The result of an evaluation in one sentence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from detox_jax.evaluation.metric_names import EMT
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.rows import Row
from detox_jax.report.cells import show
from detox_jax.report.seeds import MergedPair


def headline(results: Results) -> str:
    """The method of least toxicity, and those that are not counted, for theirs is no success."""
    return " ".join([sentence_of_best(results), *not_counted(results)])


def least_toxic(results: Results) -> str | None:
    """The method that the headline is about; None where there is none."""
    rows = _measured(results)
    sound = _sound(rows, results.baseline)
    return _least(rows, sound) if sound and results.baseline in rows else None


def not_counted(results: Results) -> list[str]:
    """Of every method that is spoiled beside one that is not, why, in a sentence."""
    rows = _measured(results)
    others = [row for name, row in rows.items() if name != results.baseline]
    if results.baseline not in rows or all(row.spoiled for row in others):
        return []
    return [
        f"Not counted: {row.method}, for {' and '.join(row.spoiled)}."
        for row in others
        if row.spoiled
    ]


def _measured(results: Results) -> dict[str, Row]:
    """The rows on all prompts that have a toxicity, by method."""
    return {
        row.method: row
        for row in results.of_split(results.splits[0])
        if row.toxicity.expected_maximum_toxicity.is_measured
    }


def _sound(rows: Mapping[str, Row], baseline: str) -> list[str]:
    """The methods beside the baseline that are not spoiled."""
    return [name for name, row in rows.items() if name != baseline and not row.spoiled]


def _least(rows: Mapping[str, Row], sound: Sequence[str]) -> str:
    return min(sound, key=lambda name: rows[name].toxicity.expected_maximum_toxicity.value)


def sentence_of_best(results: Results) -> str:
    """The method of least toxicity beside the baseline, of those that are not spoiled."""
    rows = _measured(results)
    values = {name: row.toxicity.expected_maximum_toxicity for name, row in rows.items()}
    others = [name for name in rows if name != results.baseline]
    if results.baseline not in rows or not others:
        named = (f"{name}: expected maximum toxicity {show(x)}" for name, x in values.items())
        return "; ".join(named) or "Expected maximum toxicity was not measured"
    sound = _sound(rows, results.baseline)
    if not sound:
        named = "; ".join(f"{name}: {' and '.join(rows[name].spoiled)}" for name in others)
        return f"No method has a toxicity to report as a success: {named}."
    best = _least(rows, sound)
    before, after = values[results.baseline].value, values[best].value
    digits = 2 if abs(after - before) >= 0.01 else 3
    sentence = _change("expected maximum toxicity", before, after, digits)
    sentence += _difference(results, rows[best], digits)
    sentence += _perplexity(rows[results.baseline], rows[best]) + "."
    if len(sound) > 1:
        return f"With {best}, the least toxic of {len(sound)} methods, {sentence}"
    if len(others) > 1:
        return f"With {best}, {sentence}"
    return sentence[0].upper() + sentence[1:]


def _change(what: str, before: float, after: float, digits: int) -> str:
    old, new = f"{before:.{digits}f}", f"{after:.{digits}f}"
    if old == new:
        return f"{what} stays at {new}"
    return f"{what} {'falls' if after < before else 'rises'} from {old} to {new}"


def _difference(results: Results, row: Row, digits: int) -> str:
    pair = results.pair(row, EMT)
    if pair is None or not pair.interval.is_measured or not pair.interval.has_bounds:
        return ""
    value, low, high = (f"{x:.{digits}f}" for x in dataclasses.astuple(pair.interval))
    words, doubt = "95 % interval", ""
    if isinstance(pair, MergedPair):
        words = "least and most of its seeds"
        every = results.is_significant(row, EMT)
        doubt = "" if every else ", not significant with every seed"
    elif not pair.interval.excludes_zero:
        doubt = ", which includes zero"
    elif not results.is_significant(row, EMT):
        doubt = ", not significant after correction for the number of comparisons"
    return f" (difference {value}, {words} {low} to {high}{doubt})".replace("-", "−")


def _perplexity(base: Row, row: Row) -> str:
    before, after = base.quality.perplexity, row.quality.perplexity
    if before is None or after is None or not before.value > 0 or math.isnan(after.value):
        return ""
    if after.impossible:
        share = 100 * after.impossible_share
        return f" while {share:.1f} % of held-out texts hold what it never writes"
    percent = 100 * (after.value / before.value - 1)
    if abs(percent) < 0.5:
        return " while perplexity stays the same"
    return f" while perplexity {'rises' if percent > 0 else 'falls'} {abs(percent):.0f} %"
