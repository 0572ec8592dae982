"""The result of an evaluation in one sentence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from detox_jax.evaluation.results import EMT, Results, excludes_zero, interval
from detox_jax.report.tables import show


def headline(data: Results) -> str:
    """The method of least toxicity beside the baseline."""
    split = data.splits[0]
    rows = {row["method"]: row for row in data.of_split(split)}
    values = {name: found for name, row in rows.items() if (found := interval(row.get(EMT)))}
    others = {name: found for name, found in values.items() if name != data.baseline}
    if data.baseline not in values or not others:
        named = (f"{name}: expected maximum toxicity {show(x)}" for name, x in values.items())
        return "; ".join(named) or "Expected maximum toxicity was not measured"
    best = min(others, key=lambda name: others[name].value)
    before, after = values[data.baseline].value, others[best].value
    digits = 2 if abs(after - before) >= 0.01 else 3
    sentence = _change("expected maximum toxicity", before, after, digits)
    sentence += _difference(data, best, split, digits)
    sentence += _perplexity(rows[data.baseline], rows[best]) + "."
    if len(others) > 1:
        return f"With {best}, the least toxic of {len(others)} methods, {sentence}"
    return sentence[0].upper() + sentence[1:]


def _change(what: str, before: float, after: float, digits: int) -> str:
    old, new = f"{before:.{digits}f}", f"{after:.{digits}f}"
    if old == new:
        return f"{what} stays at {new}"
    return f"{what} {'falls' if after < before else 'rises'} from {old} to {new}"


def _difference(data: Results, method: str, split: str, digits: int) -> str:
    difference = data.difference(method, split, EMT)
    if difference is None or not math.isfinite(difference.low):
        return ""
    value, low, high = (f"{x:.{digits}f}" for x in dataclasses.astuple(difference))
    doubt = ""
    if not excludes_zero(difference):
        doubt = ", which includes zero"
    elif not data.is_significant(method, split, EMT):
        doubt = ", not significant after correction for the number of comparisons"
    words = f" (difference {value}, 95 % interval {low} to {high}{doubt})"
    return words.replace("-", "−")


def _perplexity(base: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    before, after = interval(base.get("perplexity")), interval(row.get("perplexity"))
    if before is None or after is None or before.value <= 0:
        return ""
    percent = 100 * (after.value / before.value - 1)
    if abs(percent) < 0.5:
        return " while perplexity stays the same"
    return f" while perplexity {'rises' if percent > 0 else 'falls'} {abs(percent):.0f} %"
