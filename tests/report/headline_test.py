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
