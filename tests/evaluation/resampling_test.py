"""Resamples: their moments, in pieces, whatever the processors."""

import os

import numpy as np
import pytest
from scipy import stats

from detox_jax.evaluation import resampling


@pytest.mark.parametrize(("draws", "size"), [(10_000, 10_000), (999, 7), (5, 1 << 21)])
def test_resamples_are_drawn_in_few_pieces_that_a_processor_holds(draws, size):
    """All at once would be 800 MB at the size of RealToxicityPrompts, one by one is slow."""
    rows = list(resampling.chunks(draws, size))
    assert sum(rows) == draws
    assert max(rows) == 1 or max(rows) * size <= 1 << 20
    assert len(rows) <= 1 + draws / max(1, (1 << 20) // size)


# --- resamples drawn as counts ----------------------------------------------------------------


def resampled(columns, draws=4000, seed=0):
    return resampling.column_sums([np.asarray(c, float) for c in columns], draws, seed)


@pytest.mark.parametrize("size", [1024, 5000, 300_000])
def test_counted_resamples_are_as_many_values_as_there_are(size):
    """A column of ones beside another: were a resample too short, its sum would say so."""
    halves = np.arange(size) % 2
    evens, odds = resampled([halves, 1 - halves], draws=50)
    assert (evens + odds == size).all() and len({*evens}) > 10


def test_counted_resamples_have_the_bootstraps_moments():
    """Of a sum of n draws: n times the variance of one, the skewness of one over sqrt(n)."""
    values = np.random.default_rng(1).gamma(0.05, size=2000)
    (sums,) = resampled([values], draws=40_000)
    assert sums.mean() == pytest.approx(values.sum(), abs=4 * np.std(sums) / 200)
    assert np.var(sums) == pytest.approx(values.size * np.var(values), rel=0.03)
    skewness = stats.skew(values) / np.sqrt(values.size)
    assert stats.skew(sums) == pytest.approx(skewness, abs=0.06) and skewness > 0.15


def test_one_value_is_drawn_as_often_as_a_binomial_says():
    size = 2000
    (sums,) = resampled([np.arange(size) == 7], draws=20_000)
    expected = stats.binom.pmf(np.arange(4), size, 1 / size)
    counts = [np.mean(sums == k) for k in range(4)]
    np.testing.assert_allclose(counts, expected, atol=0.012)
    assert set(sums) <= set(range(10))


def test_processors_decide_nothing(monkeypatch):
    values = np.random.default_rng(3).beta(2, 3, 200_000)
    (expected,) = resampled([values], draws=40, seed=4)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert (resampled([values], draws=40, seed=4)[0] == expected).all()
    assert (resampled([values], draws=40, seed=5)[0] != expected).any()
