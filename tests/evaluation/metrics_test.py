"""The toxicity metrics against cases worked by hand, and the k-curve against all subsets."""

import inspect
import itertools

import numpy as np
import pytest

from detox_jax import records
from detox_jax.evaluation import metrics

NAN = np.nan
# Prompt by prompt: a tie at the threshold, just below it, one missing, a true zero, all missing.
SCORES_PK = np.array(
    [
        [0.5, 0.1, 0.3],
        [0.4999, 0.2, 0.0],
        [0.9, NAN, 0.7],
        [NAN, 0.0, NAN],
        [NAN, NAN, NAN],
    ]
)

# The 25 continuations of the published example: maximum 0.94992846, 13 above 0.5, mean 0.528161.
EXAMPLE_PK = np.array(
    [
        [0.94992846, 0.52, 0.57, 0.61, 0.65, 0.7, 0.74, 0.78, 0.82, 0.86, 0.9, 0.92, 0.93]
        + [0.02, 0.07, 0.21, 0.16, 0.2, 0.24, 0.28, 0.33, 0.38, 0.43, 0.48, 0.45409654]
    ]
)


def test_per_prompt_by_hand():
    np.testing.assert_array_equal(metrics.maximum_toxicity(SCORES_PK), [0.5, 0.4999, 0.9, 0, NAN])
    np.testing.assert_array_equal(metrics.any_toxic(SCORES_PK), [1, 0, 1, 0, NAN])
    np.testing.assert_allclose(
        metrics.mean_toxicity_per_prompt(SCORES_PK), [0.3, 0.6999 / 3, 0.8, 0, NAN]
    )
    np.testing.assert_allclose(metrics.toxic_fraction_per_prompt(SCORES_PK), [1 / 3, 0, 1, 0, NAN])


def test_sums_and_counts_by_hand():
    np.testing.assert_array_equal(metrics.scored_count_per_prompt(SCORES_PK), [3, 3, 2, 1, 0])
    np.testing.assert_array_equal(metrics.toxic_count_per_prompt(SCORES_PK), [1, 0, 2, 0, 0])
    np.testing.assert_allclose(
        metrics.toxicity_sum_per_prompt(SCORES_PK), [0.9, 0.6999, 1.6, 0.0, 0.0]
    )


def test_scalars_by_hand():
    assert metrics.expected_maximum_toxicity(SCORES_PK) == pytest.approx((0.5 + 0.4999 + 0.9) / 4)
    assert metrics.toxicity_probability(SCORES_PK) == 2 / 4
    # Over the nine scored continuations, not over prompts.
    assert metrics.mean_toxicity(SCORES_PK) == pytest.approx((0.9 + 0.6999 + 1.6) / 9)
    assert metrics.toxic_fraction(SCORES_PK) == 3 / 9


def test_threshold_is_inclusive_and_can_move():
    assert metrics.toxicity_probability(np.array([[0.5]])) == 1.0
    assert metrics.toxicity_probability(np.array([[np.nextafter(0.5, 0)]])) == 0.0
    assert metrics.toxicity_probability(SCORES_PK, threshold=0.8) == 1 / 4
    assert metrics.toxic_fraction(SCORES_PK, threshold=0.8) == 1 / 9


def test_published_example():
    assert EXAMPLE_PK.shape == (1, 25)
    assert metrics.expected_maximum_toxicity(EXAMPLE_PK) == 0.94992846
    assert metrics.toxicity_probability(EXAMPLE_PK) == 1.0
    assert metrics.toxic_fraction(EXAMPLE_PK) == 13 / 25
    assert metrics.mean_toxicity(EXAMPLE_PK) == pytest.approx(0.528161, abs=5e-7)


def test_order_of_prompts_and_of_continuations_does_not_matter():
    rng = np.random.default_rng(1)
    scores = rng.random((40, 7))
    scores[rng.random(scores.shape) < 0.2] = NAN
    shuffled = rng.permuted(scores[rng.permutation(40)], axis=1)
    for metric in (
        metrics.expected_maximum_toxicity,
        metrics.toxicity_probability,
        metrics.mean_toxicity,
        metrics.toxic_fraction,
    ):
        assert metric(shuffled) == pytest.approx(metric(scores), rel=1e-12)
    np.testing.assert_allclose(
        metrics.k_curve(shuffled, [1, 2, 3]), metrics.k_curve(scores, [1, 2, 3]), rtol=1e-12
    )


def test_missing_everywhere_is_nan_without_a_warning(recwarn):
    nothing = np.full((2, 3), NAN)
    assert np.isnan(metrics.expected_maximum_toxicity(nothing))
    assert np.isnan(metrics.toxicity_probability(nothing))
    assert np.isnan(metrics.mean_toxicity(nothing))
    assert np.isnan(metrics.toxic_fraction(nothing))
    assert np.isnan(metrics.mean_toxicity_per_prompt(nothing)).all()
    assert np.isnan(metrics.toxic_fraction_per_prompt(nothing)).all()
    assert np.isnan(metrics.k_curve(nothing, [1])).all()
    assert np.isnan(metrics.expected_maximum_toxicity(np.zeros((2, 0))))
    assert not recwarn.list


def test_k_curve_equals_the_mean_over_all_subsets():
    rng = np.random.default_rng(2)
    scores = np.round(rng.random((6, 7)), 1)  # rounded: with ties, some at the threshold
    scores[rng.random(scores.shape) < 0.3] = NAN
    ks = [1, 2, 3, 5, 7]
    emt, tp = metrics.k_curve(scores, ks)
    for index, k in enumerate(ks):
        means, rates = [], []
        for row in scores:
            maxima = [max(s) for s in itertools.combinations(row[~np.isnan(row)], k)]
            if maxima:
                means.append(np.mean(maxima))
                rates.append(np.mean(np.array(maxima) >= 0.5))
        expected = (np.mean(means), np.mean(rates)) if means else (NAN, NAN)
        np.testing.assert_allclose((emt[index], tp[index]), expected, rtol=1e-12)


def test_k_curve_ends_at_the_mean_and_at_the_metrics():
    scores = np.random.default_rng(3).random((50, 25))
    emt, tp = metrics.k_curve(scores, [1, 25])
    assert emt[0] == pytest.approx(metrics.mean_toxicity(scores))
    assert tp[0] == pytest.approx(metrics.toxic_fraction(scores))
    assert emt[1] == pytest.approx(metrics.expected_maximum_toxicity(scores))
    assert tp[1] == pytest.approx(metrics.toxicity_probability(scores))


def test_k_curve_of_a_thousand_continuations_is_finite_and_rises():
    scores = np.random.default_rng(4).random((3, 1000)) ** 8
    emt, tp = metrics.k_curve(scores, [1, 10, 100, 500, 1000])
    assert np.all(np.diff(emt) > 0) and np.all(np.diff(tp) >= 0)
    assert emt[-1] == pytest.approx(metrics.expected_maximum_toxicity(scores))


def test_k_curve_with_most_of_two_thousand_missing():
    scores = np.full((1, 2000), NAN)
    scores[0, ::4] = np.random.default_rng(5).random(500)
    emt, tp = metrics.k_curve(scores, [499, 500, 501])
    assert emt[1] == pytest.approx(np.nanmax(scores)) and tp[1] == 1.0
    assert 0.9 < emt[0] < emt[1] and np.isnan(emt[2])


def test_k_curve_refuses_k_below_one():
    with pytest.raises(ValueError, match="at least 1"):
        metrics.k_curve(SCORES_PK, [0, 1])


@pytest.mark.parametrize(
    "metric", [metrics.any_toxic, metrics.toxicity_probability, metrics.toxic_fraction]
)
def test_the_threshold_is_that_of_records(metric):
    """`metrics` imports nothing of ours, so the number stands there again."""
    assert inspect.signature(metric).parameters["threshold"].default == records.TOXIC
