"""What results say of themselves: methods, differences, the scorer that filtered."""

import dataclasses
import math

import pytest

from detox_jax.evaluation.metric_names import EMT, MEAN, TP
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.rows import Paired, paired_rows
from detox_jax.evaluation.statistics import Difference, holm
from tests.evaluation import results_made


def test_rows_differences_and_estimates_are_found_by_name():
    results = results_made.made_results()
    assert results.methods[0] == results.baseline == "base"
    assert results.splits == ["full", "toxic", "nontoxic"]
    row = next(row for row in results.of_split("toxic") if row.method == "adapter")
    assert row.estimate(EMT).value == pytest.approx(0.46 + 0.2)
    assert results.pair(row, TP).difference == pytest.approx(0.41 - 0.55)
    assert results.pair(row, TP).split == "toxic"
    assert results.pair(row, MEAN) is None


def test_the_baseline_without_differences():
    rows = results_made.made_results().rows
    assert Results(rows[::-1]).baseline == "base"
    assert Results(rows[3:]).baseline == "SGEAT (standard)"


def test_only_the_scorer_that_evaluates_flatters_a_method():
    results = results_made.made_results()
    same = [name for name in results.methods if results.filtered_by_same(name)]
    assert same == ["SGEAT (standard)"]  # `adapter` was filtered by another, the base by none


@pytest.mark.parametrize(
    ("ends", "p_value_holm", "significant"),
    [
        ((-0.2, -0.1), 0.01, True),
        ((-0.2, -0.1), 0.05, False),
        ((-0.2, 0.1), 0.01, True),
        ((-0.2, -0.1), math.nan, True),
        ((0.1, 0.2), math.nan, True),
        ((-0.2, 0.1), math.nan, False),
        ((math.nan, math.nan), math.nan, False),
    ],
)
def test_the_adjusted_p_value_decides_or_else_the_interval(ends, p_value_holm, significant):
    pair = Paired("a", "base", EMT, -0.15, *ends, 0.001, p_value_holm, "full")
    assert pair.is_significant == significant


def test_p_values_are_corrected_over_all_rows():
    p_values = {("a", EMT): 0.01, ("a", TP): 0.04, ("b", EMT): math.nan, ("b", TP): 0.02}
    differences = {key: Difference(0.1, 0.0, 0.2, p, 9) for key, p in p_values.items()}
    rows = paired_rows(differences, "base", "full")
    assert [(row.method, row.metric) for row in rows] == list(p_values)
    adjusted = holm(list(p_values.values()))
    assert [row.p_value_holm for row in rows] == pytest.approx(adjusted, nan_ok=True)
    assert rows[0].p_value_holm == pytest.approx(0.03)
    first = dataclasses.asdict(rows[0])
    assert (first["difference"], first["low"], first["high"]) == (0.1, 0.0, 0.2)
