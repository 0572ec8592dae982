"""Toxicity by group: gaps against published figures, and that chance makes none."""

import math

import numpy as np
import pytest

from detox_jax.evaluation import console, groups, statistics
from detox_jax.evaluation.metric_names import EMT, TP


def _shares(**counts):
    return {name: np.repeat([1.0, 0.0], [yes, n - yes]) for name, (yes, n) in counts.items()}


def test_a_gap_of_two_groups_is_newcombes():
    """56 of 70 and 48 of 80: 0.2000 [0.0524, 0.3339] (Newcombe, 1998, table II, method 10)."""
    given = _shares(a=(56, 70), b=(48, 80))
    highest, lowest, gap = groups.largest_gap(given, statistics.share)
    assert (highest, lowest) == ("a", "b")
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_a_third_group_makes_the_interval_hold_for_three_pairs():
    given = _shares(a=(56, 70), c=(40, 60), b=(48, 80))
    gap = groups.largest_gap(given, statistics.share)[2]
    a, b = (statistics.share(given[name], level=1 - 0.05 / 3) for name in "ab")
    assert gap.low == pytest.approx(0.2 - math.hypot(a.value - a.low, b.high - b.value))
    assert gap.low < 0.0524 and gap.high > 0.3339


def test_groups_of_equal_means_have_no_highest():
    """One group was called both, and the interval was of it with itself."""
    given = _shares(a=(7, 10), b=(14, 20), c=(21, 30))
    highest, lowest, gap = groups.largest_gap(given, statistics.share)
    assert (highest, lowest) == ("a", "b")
    a, b = (statistics.share(given[name], level=1 - 0.05 / 3) for name in "ab")
    assert gap.value == 0
    assert gap.low == pytest.approx(-math.hypot(a.value - a.low, b.high - b.value))
    said = console.gap_sentence(groups.Gap("m", "by", TP, highest, lowest, 3, gap))
    assert said.startswith("m: TP is the same for all of 3 groups by by: 0.000 [-0.")


def test_the_interval_of_groups_of_equal_means_is_the_widest_of_all_pairs():
    """The first two were taken, here of 1000: 0.000 [-0.006, 0.006]. Wilson's end of 0 of n is
    z^2 / (n + z^2), with z = 2.394 at the level of three pairs."""
    given = _shares(a=(0, 1000), b=(0, 1000), c=(0, 20))
    highest, lowest, gap = groups.largest_gap(given, statistics.share)
    assert (highest, lowest) == ("a", "c")
    assert (gap.value, gap.low, gap.high) == pytest.approx((0, -0.2227, 0.0057), abs=5e-5)
    said = console.gap_sentence(groups.Gap("m", "by", TP, highest, lowest, 3, gap))
    assert "same for all of 3 groups by by: 0.000 [-0.223, 0.006], an interval for all" in said


def test_groups_that_are_alike_have_no_gap_that_chance_does_not_explain():
    """At most 5 % of them, of twenty groups: of two at a time it would be most."""
    rng = np.random.default_rng(0)
    found = single = 0
    for _ in range(200):
        given = {str(i): rng.beta(2, 5, 40) for i in range(20)}
        highest, lowest, gap = groups.largest_gap(given, groups.mean_by_t)
        found += gap.excludes_zero
        pair = {name: given[name] for name in (highest, lowest)}
        single += groups.largest_gap(pair, groups.mean_by_t)[2].excludes_zero
    assert found <= 14 and single > 100  # 14: the 1 % end of 200 at 5 %


def test_a_gap_that_is_there_is_found():
    rng = np.random.default_rng(0)
    given = {str(i): rng.beta(2, 5 if i else 1, 200) for i in range(20)}
    highest, _, gap = groups.largest_gap(given, groups.mean_by_t)
    assert highest == "0" and gap.low > 0


def test_values_without_spread_have_an_interval():
    assert groups.mean_by_t(np.zeros(10)) == statistics.share(np.zeros(10))


def test_few_prompts_and_unknown_groups_have_no_part_in_the_gap():
    labels = ["a"] * 12 + ["b"] * 12 + ["few"] * 9 + [""] * 30
    scores_PK = np.array([[0.6]] * 12 + [[0.2]] * 12 + [[1.0]] * 9 + [[0.9]] * 30)
    scores_PK[0] = np.nan
    masks = groups.masks(labels)
    assert [*masks] == ["a", "b", "few", ""]
    found = {gap.metric: gap for gap in groups.gaps("m", "group", masks, scores_PK)}
    assert found.keys() == {EMT, TP}
    gap = found[EMT]
    assert (gap.highest, gap.lowest, gap.num_groups) == ("a", "b", 2)
    assert gap.difference.value == pytest.approx(0.4)
    scores_PK[:3] = np.nan  # 9 are left
    assert groups.gaps("m", "group", masks, scores_PK) == []


def test_rows_are_the_figures_of_each_group():
    scores_PK = np.array([[0.6, np.nan], [0.2, 0.4], [0.9, 0.1]])
    rows = groups.rows(
        "m", "by", groups.masks(["x", "y", "x"]), scores_PK, statistics.bootstrap_mean
    )
    x, y = rows
    assert (x.group, x.num_prompts, x.num_scored_prompts, x.coverage) == ("x", 2, 2, 0.75)
    assert x.expected_maximum_toxicity.value == pytest.approx(0.75)
    assert x.toxicity_probability.value == 1 and y.toxicity_probability.value == 0
