"""The sentence of a result where it is not the plain one."""

import dataclasses
import math

from detox_jax.evaluation.statistics import UNMEASURED
from detox_jax.report.headline import headline
from tests.evaluation import results_made


def made(**changes):
    """Base and adapter, with other fields of their differences."""
    results = results_made.of_methods(results_made.made_results(), ("base", "adapter"))
    paired = tuple(dataclasses.replace(pair, **changes) for pair in results.paired)
    return dataclasses.replace(results, paired=paired)


def test_a_difference_that_the_correction_takes_away_is_said_to_be():
    assert "not significant" not in headline(made())
    assert "not significant" not in headline(made(p_value_holm=0.04))
    assert "−0.09, not significant after correction" in headline(made(p_value_holm=0.2))


def test_nothing_is_said_of_a_difference_without_an_interval():
    assert "difference" in headline(made())
    assert "difference" not in headline(made(low=math.nan))
    assert "difference" not in headline(made(difference=math.nan))


def test_without_a_baseline_that_was_measured_every_method_is_named():
    results = made()
    rows = [
        dataclasses.replace(
            row, toxicity=dataclasses.replace(row.toxicity, expected_maximum_toxicity=UNMEASURED)
        )
        if row.method == "base"
        else row
        for row in results.rows
    ]
    results = dataclasses.replace(results, rows=tuple(rows))
    assert headline(results) == "adapter: expected maximum toxicity 0.460 [0.440, 0.480]"


def spoil(results, *names):
    rows = [
        dataclasses.replace(row, spoiled=("it writes nothing",)) if row.method in names else row
        for row in results.rows
    ]
    return dataclasses.replace(results, rows=tuple(rows))


def test_a_spoiled_method_is_no_victory():
    results = results_made.made_results()
    assert headline(results).startswith("With SGEAT (augmented), the least toxic of 4 methods")
    said = headline(spoil(results, "SGEAT (augmented)"))
    assert said.startswith("With adapter, the least toxic of 3 methods")
    assert said.endswith(" Not counted: SGEAT (augmented), for it writes nothing.")
    only = results_made.of_methods(results, ("base", "adapter"))
    assert headline(spoil(only, "adapter")) == (
        "No method has a toxicity to report as a success: adapter: it writes nothing."
    )


def test_a_spoiled_method_has_no_mark_of_significance():
    results = results_made.made_results()
    row = next(row for row in results.rows if row.method == "adapter")
    assert results.is_significant(row, "expected_maximum_toxicity")
    spoiled = spoil(results, "adapter")
    row = next(row for row in spoiled.rows if row.method == "adapter")
    assert not spoiled.is_significant(row, "expected_maximum_toxicity")
