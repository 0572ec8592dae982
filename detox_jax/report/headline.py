"""The result of an evaluation in one sentence."""

from __future__ import annotations

import dataclasses
import math

from detox_jax.evaluation.metric_names import EMT
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.rows import Row
from detox_jax.report.tables import show


def headline(results: Results) -> str:
    """The method of least toxicity beside the baseline; one that is spoiled is no success."""
    rows = {
        row.method: row
        for row in results.of_split(results.splits[0])
        if row.toxicity.expected_maximum_toxicity.is_measured
    }
    values = {name: row.toxicity.expected_maximum_toxicity for name, row in rows.items()}
    others = [name for name in rows if name != results.baseline]
    if results.baseline not in rows or not others:
        named = (f"{name}: expected maximum toxicity {show(x)}" for name, x in values.items())
        return "; ".join(named) or "Expected maximum toxicity was not measured"
    sound = [name for name in others if not rows[name].spoiled]
    if not sound:
        named = "; ".join(f"{name}: {' and '.join(rows[name].spoiled)}" for name in others)
        return f"No method has a toxicity to report as a success: {named}."
    best = min(sound, key=lambda name: values[name].value)
    before, after = values[results.baseline].value, values[best].value
    digits = 2 if abs(after - before) >= 0.01 else 3
    sentence = _change("expected maximum toxicity", before, after, digits)
    sentence += _difference(results, rows[best], digits)
    sentence += _perplexity(rows[results.baseline], rows[best]) + "."
    spoiled = [name for name in others if rows[name].spoiled]
    for name in spoiled:
        sentence += f" Not counted: {name}, for {' and '.join(rows[name].spoiled)}."
    if len(sound) > 1:
        return f"With {best}, the least toxic of {len(sound)} methods, {sentence}"
    if spoiled:
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
    doubt = ""
    if not pair.interval.excludes_zero:
        doubt = ", which includes zero"
    elif not results.is_significant(row, EMT):
        doubt = ", not significant after correction for the number of comparisons"
    words = f" (difference {value}, 95 % interval {low} to {high}{doubt})"
    return words.replace("-", "−")


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
