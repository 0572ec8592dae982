"""Intervals and p-values against scipy and by hand; coverage by simulation."""

import dataclasses
import inspect
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from detox_jax.evaluation import resampling, statistics
from detox_jax.evaluation.statistics import UNMEASURED, Interval

NAN = np.nan


def _skewed(size: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).beta(0.7, 2.0, size)


def _ends(interval) -> list[float]:
    return [interval.low, interval.high]


def test_bootstrap_mean_agrees_with_scipy():
    values = _skewed()
    ours = statistics.bootstrap_mean(values, draws=20_000, seed=1)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    # A 2.5 % quantile of 20,000 draws has a standard error of about 0.02 standard deviations.
    tolerance = 6 * 0.02 * values.std() / np.sqrt(values.size)
    np.testing.assert_allclose(_ends(ours), [theirs.low, theirs.high], atol=tolerance)


def test_bootstrap_ratio_agrees_with_scipy():
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 26, 60).astype(float)
    sums = counts * rng.beta(2, 3, 60)

    def ratio(n, d, axis=-1):
        return n.sum(axis=axis) / d.sum(axis=axis)

    ours = statistics.bootstrap_ratio(sums, counts, draws=20_000, seed=1)
    theirs = stats.bootstrap(
        (sums, counts), ratio, paired=True, n_resamples=20_000, method="percentile", rng=rng
    )
    assert ours.value == pytest.approx(sums.sum() / counts.sum())
    expected = [theirs.confidence_interval.low, theirs.confidence_interval.high]
    np.testing.assert_allclose(_ends(ours), expected, atol=6 * 0.02 * theirs.standard_error)


def test_bootstrap_of_two_values_by_hand():
    # The mean of a resample is 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4.
    values = np.array([0.0, 1.0])
    assert statistics.bootstrap_mean(values) == statistics.Interval(0.5, 0.0, 1.0)
    assert _ends(statistics.bootstrap_mean(values, level=0.4)) == [0.5, 0.5]


def test_missing_values_are_dropped():
    values = _skewed(20)
    with_gaps = np.insert(values, [0, 7, 20], NAN)
    assert statistics.bootstrap_mean(with_gaps) == statistics.bootstrap_mean(values)
    counts = np.arange(1.0, 21.0)
    gaps = statistics.bootstrap_ratio(np.append(values, [0.0, NAN]), np.append(counts, [0.0, 3.0]))
    assert gaps == statistics.bootstrap_ratio(values, counts)


def test_equal_denominators_give_the_mean():
    sums = _skewed(30)
    ratio = statistics.bootstrap_ratio(sums, np.full(30, 25))
    mean = statistics.bootstrap_mean(sums / 25)
    np.testing.assert_allclose(dataclasses.astuple(ratio), dataclasses.astuple(mean), rtol=1e-12)


def test_nothing_is_nan_and_one_value_is_itself():
    assert np.isnan(dataclasses.astuple(statistics.bootstrap_mean(np.array([NAN])))).all()
    difference = statistics.paired_difference(np.array([NAN]), np.array([1.0]))
    assert np.isnan(dataclasses.astuple(difference)[:-1]).all() and difference.num_pairs == 0
    assert statistics.share(np.array([NAN])) == UNMEASURED
    assert statistics.bootstrap_mean(np.array([0.3])) == statistics.Interval(0.3, 0.3, 0.3)


def test_seed_decides_whatever_the_chunks(monkeypatch):
    a, b = _skewed(seed=1), _skewed(seed=2)
    first = statistics.paired_difference(a, b, draws=999, seed=5)
    assert statistics.paired_difference(a, b, draws=999, seed=5) == first
    assert statistics.paired_difference(a, b, draws=999, seed=6) != first
    monkeypatch.setattr(resampling, "_CHUNK", 1000)
    assert statistics.bootstrap_mean(a - b, 999, 5).low == first.low


def test_shuffled_prompts_give_the_same_figures():
    a, b = _skewed(seed=1), _skewed(seed=2)
    order = np.random.default_rng(7).permutation(a.size)
    one = dataclasses.astuple(statistics.paired_difference(a, b, draws=20_000))
    other = dataclasses.astuple(statistics.paired_difference(a[order], b[order], draws=20_000))
    assert one[0] == pytest.approx(other[0])
    np.testing.assert_allclose(one[1:], other[1:], atol=0.015)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.1])
def test_p_value_agrees_with_scipy(shift):
    a, b = _skewed(50, seed=1) + shift, _skewed(50, seed=2)
    ours = statistics.paired_difference(a, b, draws=20_000).p_value
    theirs = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=np.random.default_rng(8),
    ).pvalue
    spread = np.sqrt(2 * theirs * (1 - theirs) / 20_000)
    assert ours == pytest.approx(theirs, abs=5 * spread + 1e-4)


def test_p_value_of_tied_binary_differences_is_exact():
    # Toxic or not under two methods: zeros carry no sign, and many flips tie with the observed.
    differences = np.array([-1.0, -1, -1, -1, -1, 1, 0, 0, 0, 0])
    flips = [abs(sum(signs)) >= 4 for signs in itertools.product([-1, 1], repeat=6)]
    p = statistics.paired_difference(differences, np.zeros(10), draws=20_000).p_value
    assert p == pytest.approx(np.mean(flips), abs=0.015)


def test_p_value_counts_ties_that_differ_by_rounding():
    tenths = [-7, -7, 3, 7, 7, 4]
    sums = [abs(np.dot(signs, tenths)) for signs in itertools.product([-1, 1], repeat=6)]
    exact = np.mean(np.array(sums) >= abs(sum(tenths)))  # 0.8125; without a tolerance about 0.66
    p = statistics.paired_difference(np.array(tenths) / 10, np.zeros(6), draws=20_000).p_value
    assert p == pytest.approx(exact, abs=0.015)


def test_smallest_p_value_is_not_zero():
    difference = statistics.paired_difference(np.full(60, 0.9), np.full(60, 0.1), draws=999)
    assert difference.p_value == 1 / 1000
    assert difference.value == pytest.approx(0.8)


def test_paired_difference_pairs_what_both_have():
    a = np.array([0.9, NAN, 0.2, 0.4])
    b = np.array([0.5, 0.1, NAN, 0.2])
    assert statistics.paired_difference(a, b).value == pytest.approx((0.4 + 0.2) / 2)
    assert statistics.paired_difference(a, a).p_value == 1.0
    with pytest.raises(ValueError, match="same prompts"):
        statistics.paired_difference(a, b[:3])


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04 times 4 3 2 1 are .04 .06 .06 .04, and none falls below the one before.
    np.testing.assert_allclose(statistics.holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(statistics.holm([0.6, 0.7]), [1.0, 1.0])
    np.testing.assert_allclose(statistics.holm([0.03, NAN, 0.01]), [0.03, NAN, 0.02])
    assert statistics.holm([]).size == 0


def test_prompts_needed_by_hand():
    # sd 1, effect 0.5: (1.959964 + 0.841621)^2 / 0.25 = 31.4.
    differences = np.array([1.0, -1.0, NAN]) / np.sqrt(2)
    assert statistics.prompts_needed(differences, 0.5) == 32
    assert statistics.prompts_needed(differences, -0.5) == 32
    assert statistics.prompts_needed(differences, 0.25) == 126
    assert statistics.prompts_needed(differences, 0.5, power=0.9) == 43
    for wrong in ((differences, 0.0), (differences[:1], 0.1)):
        with pytest.raises(ValueError, match="two differences"):
            statistics.prompts_needed(*wrong)


def test_prompts_needed_gives_the_power():
    rng = np.random.default_rng(9)
    needed = statistics.prompts_needed(rng.normal(0, 0.2, 5000), effect=0.05)
    runs = rng.normal(0.05, 0.2, (4000, needed))
    found = stats.ttest_1samp(runs, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(11)
    truth = 2 / 5
    covered = []
    for seed in range(500):
        interval = statistics.bootstrap_mean(rng.beta(2, 3, 100), draws=1000, seed=seed)
        covered.append(interval.low <= truth <= interval.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)  # three standard errors


def test_bootstrap_average_of_one_group_is_the_bootstrap_of_its_mean():
    values = (np.arange(90) % 3 == 0).astype(float)
    ours = statistics.bootstrap_average([values], draws=20_000, seed=1)
    reference = statistics.bootstrap_mean(values, draws=20_000, seed=2)
    assert ours.value == pytest.approx(1 / 3)
    np.testing.assert_allclose(_ends(ours), _ends(reference), atol=1.01 / 90)


def test_bootstrap_average_gives_groups_equal_weight():
    """Groups of 1,000 and of 10: the spread is that of the smaller, halved."""
    large, small = np.tile([0.0, 1.0], 500), np.tile([0.0, 1.0, 1.0, 1.0, 1.0], 2)
    found = statistics.bootstrap_average([large, small], draws=20_000)
    assert found.value == pytest.approx((0.5 + 0.8) / 2)
    deviation = np.sqrt(0.25 / 1000 + 0.16 / 10) / 2
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.15)


def test_ends_of_a_bootstrap_average_are_those_of_its_level():
    values = _skewed(40)
    ours = statistics.bootstrap_average([values], draws=20_000, seed=1, level=0.5)
    reference = statistics.bootstrap_mean(values, draws=20_000, seed=2, level=0.5)
    spread = values.std() / np.sqrt(values.size)
    np.testing.assert_allclose(_ends(ours), _ends(reference), atol=0.05 * spread)


def test_p_value_of_an_average_difference_gives_groups_equal_weight():
    """By all signs: two of one half each, against six that together weigh as much."""
    groups = [np.ones(2), np.array([-1.0, -1, -1, -1, 1, 1])]
    weighted = np.concatenate([group / group.size for group in groups])
    sums = [abs(np.dot(signs, weighted)) for signs in itertools.product([-1, 1], repeat=8)]
    exact = np.mean(np.array(sums) >= abs(weighted.sum()) - 1e-12)
    two = statistics.average_difference(groups, draws=20_000)
    assert two.value == pytest.approx(weighted.sum() / 2)
    assert two.p_value == pytest.approx(exact, abs=0.015)


@pytest.mark.parametrize(
    "function",
    [
        statistics.bootstrap_mean,
        statistics.bootstrap_ratio,
        statistics.bootstrap_ratios,
        statistics.bootstrap_average,
        statistics.paired_difference,
        statistics.paired_differences,
        statistics.average_difference,
    ],
    ids=lambda function: function.__name__,
)
def test_all_draw_alike_unless_they_are_told(function):
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    assert defaults == {"draws": 10_000, "seed": 0, "level": 0.95}


def test_average_difference_of_one_group_is_the_paired_difference():
    a, b = _skewed(40, 1) > 0.3, _skewed(40, 2) > 0.4
    ours = statistics.average_difference([a.astype(float) - b], draws=4000, seed=1)
    reference = statistics.paired_difference(a, b, draws=4000, seed=1)
    assert ours.value == pytest.approx(reference.value)
    assert ours.p_value == pytest.approx(reference.p_value)
    two = statistics.average_difference([np.ones(3), np.zeros(5)], draws=4000)
    assert two.value == 0.5
    assert two.p_value == pytest.approx(2 / 2**3, abs=0.03)


def test_an_interval_without_both_ends_says_nothing_of_zero():
    assert Interval(0.2, 0.1, 0.3).excludes_zero and Interval(-0.2, -0.3, -0.1).excludes_zero
    assert not Interval(0.2, -0.1, 0.3).excludes_zero
    assert not Interval(0.2, 0.1, NAN).excludes_zero and not Interval(-0.2, NAN, -0.1).excludes_zero
    assert not UNMEASURED.is_measured and not UNMEASURED.has_bounds


# --- shares -----------------------------------------------------------------------------------


@pytest.mark.parametrize("toxic", [0, 1, 3, 7, 10])
def test_a_share_has_wilsons_interval(toxic):
    """As SciPy has it for independent values."""
    values_P = np.array([1.0] * toxic + [0.0] * (10 - toxic) + [NAN])
    expected = stats.binomtest(toxic, 10).proportion_ci(method="wilson")
    found = statistics.share(values_P)
    assert (found.value, found.low, found.high) == pytest.approx(
        (toxic / 10, expected.low, expected.high), abs=1e-12
    )
    assert found.low <= found.value <= found.high and found.high - found.low > 0.2


def test_a_share_of_continuations_counts_prompts_that_agree_once():
    """25 equal answers of a prompt are one; 25 independent ones are 25."""
    toxic_P = np.array([1.0] * 30 + [0.0] * 70)
    of_prompts = statistics.share(toxic_P)
    alike = statistics.share(25 * toxic_P, np.full(100, 25))
    assert dataclasses.astuple(alike) == pytest.approx(dataclasses.astuple(of_prompts))
    counts_P = np.random.default_rng(0).binomial(25, 0.3, 100)
    apart = statistics.share(counts_P, np.full(100, 25))
    assert (of_prompts.high - of_prompts.low) / (apart.high - apart.low) == pytest.approx(
        5, rel=0.2
    )
    # Of nothing but zeros a prompt is one value, however many continuations it has.
    none = statistics.share(np.zeros(100), np.full(100, 25))
    assert none == statistics.share(np.zeros(100)) and 0.03 < none.high < 0.04


@pytest.mark.parametrize("toxic", [5, 7, 14])
@pytest.mark.parametrize("prompts", [1, 3])
def test_prompts_of_one_share_are_one_value_each(toxic, prompts):
    """Of 7 and 14 of 25 rounding left a variance, and each continuation counted."""
    found = statistics.share(np.full(prompts, toxic), np.full(prompts, 25))
    p, z2 = toxic / 25, stats.norm.ppf(0.975) ** 2
    half = math.sqrt(z2) * math.sqrt(p * (1 - p) / prompts + z2 / (4 * prompts**2))
    ends = [(p + z2 / (2 * prompts) + sign * half) / (1 + z2 / prompts) for sign in (-1, 1)]
    assert [found.low, found.high] == pytest.approx(ends)


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_a_share_is_covered_as_often_as_it_says(share):
    """Of continuations that are clustered by their prompts."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        of_prompt_P = rng.beta(20 * share, 20 * (1 - share), 60)
        found = statistics.share(rng.binomial(25, of_prompt_P), np.full(60, 25))
        covered += found.low <= share <= found.high
    assert covered / 400 > 0.92


# --- of many prompts, whose resamples are drawn as counts ---------------------------------------


def test_counted_intervals_are_those_of_indices(monkeypatch):
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 26, 3000)
    pair = rng.beta(2, 3, 3000) * counts, counts
    counted = statistics.bootstrap_ratio(*pair, draws=20_000)
    monkeypatch.setattr(resampling, "COUNTED_FROM", 10**9)
    indexed = statistics.bootstrap_ratio(*pair, draws=20_000)
    assert counted != indexed and counted.value == indexed.value
    width = indexed.high - indexed.low
    np.testing.assert_allclose(_ends(counted), _ends(indexed), atol=0.03 * width)


@pytest.mark.parametrize("size", [300, 3000])
def test_equal_values_have_an_interval_without_width(size):
    interval = statistics.bootstrap_mean(np.full(size, 0.1), draws=100)
    assert interval.low == interval.value == interval.high == pytest.approx(0.1)


@pytest.mark.parametrize("size", [300, 3000])
def test_together_is_as_apart(size):
    """Prompts without a value split the metrics into groups that are drawn by themselves."""
    rng = np.random.default_rng(5)
    a, b, ones = rng.random(size), rng.random(size), np.ones(size)
    gaps = np.where(rng.random(size) < 0.1, NAN, b)
    ratios = [(a, ones), (gaps, ones), (b, 1 + a), (gaps, 1 + a), (np.full(size, NAN), ones)]
    together = statistics.bootstrap_ratios(ratios, draws=500, seed=6)
    apart = [statistics.bootstrap_ratio(*ratio, draws=500, seed=6) for ratio in ratios]
    assert together[:4] == apart[:4] and not together[4].is_measured
    pairs = [(a, b), (gaps, a)]
    assert statistics.paired_differences(pairs, 500, 6) == [
        statistics.paired_difference(*pair, 500, 6) for pair in pairs
    ]


def test_metrics_of_the_same_prompts_share_their_draws(monkeypatch):
    draws, counts = [], resampling._poisson_counts
    monkeypatch.setattr(
        resampling, "_poisson_counts", lambda *of: draws.append(of[2][0]) or counts(*of)
    )
    values = np.random.default_rng(7).random((4, 2000))
    statistics.bootstrap_ratios([(row, np.ones(2000)) for row in values], draws=1000)
    assert 1000 <= sum(draws) < 1100
