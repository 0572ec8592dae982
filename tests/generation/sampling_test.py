"""Sampling methods against hand-worked distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detox_jax.errors import UserError
from detox_jax.generation import sampling

PROBS = np.array([0.5, 0.25, 0.15, 0.07, 0.03], np.float32)


def _frequencies(method, probs=PROBS, draws=20_000):
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(probs)), (draws, len(probs)))
    keys = jax.random.split(jax.random.key(0), draws)
    ids = np.asarray(jax.jit(method.sample)(logits, keys))
    return np.bincount(ids, minlength=len(probs)) / draws


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (sampling.Greedy(), [1, 0, 0, 0, 0]),
        (sampling.TemperatureSampling(1.0), PROBS),
        (sampling.TemperatureSampling(0.5), PROBS**2 / np.sum(PROBS**2)),
        (sampling.TopKSampling(2), [2 / 3, 1 / 3, 0, 0, 0]),
        (sampling.TopKSampling(99), PROBS),
        # 0.5 + 0.25 = 0.75 falls short of 0.8; the third token, which crosses it, is kept.
        (sampling.TopPSampling(0.8), [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0, 0]),
        (sampling.TopPSampling(0.5), [1, 0, 0, 0, 0]),
        (sampling.TopPSampling(1.0), PROBS),
        (sampling.TopPSampling(1e-6), [1, 0, 0, 0, 0]),
    ],
)
def test_frequencies(method, expected):
    frequencies = _frequencies(method)
    expected = np.asarray(expected)
    assert np.all(frequencies[expected == 0] == 0)
    np.testing.assert_allclose(frequencies, expected, atol=0.012)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=3),
    st.sampled_from([0.1, 0.5, 0.9, 0.99]),
    st.integers(0, 2**31 - 1),
)
def test_nucleus_equals_sorting(head, p, seed):
    logits = np.concatenate([head, np.random.default_rng(seed).normal(size=29) * 3])
    probs = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)))
    kept = np.asarray(sampling.nucleus(jnp.asarray(probs[None]), p))[0] > 0
    order = np.argsort(-probs, kind="stable")
    before = np.cumsum(probs[order]) - probs[order]
    threshold = probs[order][before < p].min()
    margin = np.min(np.abs(np.cumsum(probs[order]) - p))
    if margin > 1e-5:  # Otherwise float32 sums in another order may decide either way.
        np.testing.assert_array_equal(kept, probs >= threshold)


@pytest.mark.parametrize(("p", "size"), [(0.5, 1), (0.75, 2), (0.875, 3), (0.9375, 4), (1.0, 5)])
def test_a_nucleus_of_mass_exactly_p_is_that_set(p, size):
    """Powers of two, whose sums have no rounding: one token more would not be needed."""
    probs = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625], np.float32)
    order = [3, 0, 4, 2, 1]  # The nucleus goes by probability, not by id.
    kept = np.asarray(sampling.nucleus(jnp.asarray(probs[None, order]), p))[0]
    expected = np.where(np.arange(5) < (5 if size >= 4 else size), probs, 0)  # The last two tie.
    np.testing.assert_array_equal(kept, expected[order])


def test_draws_never_land_on_weight_zero():
    weights = jnp.asarray([[0.0, 1e-30, 0.0, 1.0, 0.0]])
    keys = jax.random.split(jax.random.key(1), 4096)
    ids = sampling._draw(jnp.broadcast_to(weights, (4096, 5)), keys)
    assert set(np.asarray(ids).tolist()) <= {1, 3}


def _nucleus_of(size, scale=3.0):
    logits = np.random.default_rng(0).normal(size=(1, size)).astype(np.float32) * scale
    return sampling.nucleus(jax.nn.softmax(jnp.asarray(logits)), 0.9)


@pytest.mark.parametrize("index", [13961, 55210, 211803])
def test_draws_where_a_sum_falls_short_of_the_one_before_it(index):
    """Three keys at which the number of sums below the target is a token of weight 0."""
    weights_1V = _nucleus_of(8192)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1), index)
    token = int(sampling._draw(weights_1V, key[None])[0])
    assert weights_1V[0, token] > 0


def _picked(weights_1V, uniform_R):
    weights_RV = jnp.broadcast_to(weights_1V, (len(uniform_R), weights_1V.shape[-1]))
    return np.asarray(jax.jit(sampling._pick)(weights_RV, jnp.asarray(uniform_R)))


@pytest.mark.parametrize("size", [8192, 50257, 151936])
def test_no_draw_is_outside_the_nucleus_where_the_sums_fall(size):
    """Of all that `jax.random.uniform` can return, the numbers between a sum and a smaller next."""
    weights_1V = _nucleus_of(size)
    sums_V = np.asarray(jnp.cumsum(weights_1V, axis=-1)[0])
    falls = np.flatnonzero(np.diff(sums_V) < 0)
    ends = np.stack([sums_V[falls], sums_V[falls + 1]]) / sums_V[-1] * 2**23
    numbers = np.unique(np.rint(ends).astype(np.int64)[..., None] + np.arange(-2, 3))
    numbers = numbers[(0 <= numbers) & (numbers < 2**23)]
    uniform_R = (numbers[:: len(numbers) // 200 + 1] * 2.0**-23).astype(np.float32)
    counted = [np.sum(sums_V <= u * sums_V[-1]) for u in uniform_R]
    weights_V = np.asarray(weights_1V[0])
    assert np.any(weights_V[np.minimum(counted, size - 1)] == 0), "no fall reaches a draw"
    assert np.all(weights_V[_picked(weights_1V, uniform_R)] > 0)


@pytest.mark.slow
def test_no_draw_of_all_is_outside_the_nucleus():
    """Every number that `jax.random.uniform` can return: the multiples of 2^-23 below 1."""
    weights_1V = _nucleus_of(8192)
    drawn = np.zeros(8192, np.int64)
    for first in range(0, 2**23, 2**13):
        uniform_R = np.arange(first, first + 2**13, dtype=np.float32) * np.float32(2.0**-23)
        drawn += np.bincount(_picked(weights_1V, uniform_R), minlength=8192)
    weights_V = np.asarray(weights_1V[0], np.float64)
    assert drawn.sum() == 2**23 and drawn[weights_V == 0].sum() == 0
    np.testing.assert_allclose(drawn / 2**23, weights_V / weights_V.sum(), atol=2e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sampling.TopPSampling(0.0),
        lambda: sampling.TopPSampling(1.5),
        lambda: sampling.TopKSampling(0),
        lambda: sampling.TemperatureSampling(0.0),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(UserError):
        make()
