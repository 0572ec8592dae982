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


@jax.jit
def _mass_above(probs_1V, weight):
    """As a draw from the nucleus takes it."""
    return jnp.sum(sampling._block_sums(sampling._in_blocks(probs_1V), weight[None]))


def _kept(probs_V, p):
    """Which tokens a draw from the nucleus accepts."""
    above = [float(_mass_above(jnp.asarray(probs_V[None]), weight)) for weight in probs_V]
    return np.asarray(above, np.float32) < np.float32(p)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=3),
    st.sampled_from([0.1, 0.5, 0.9, 0.99]),
    st.integers(0, 2**31 - 1),
)
def test_nucleus_equals_sorting(head, p, seed):
    logits = np.concatenate([head, np.random.default_rng(seed).normal(size=29) * 3])
    probs = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)))
    kept = _kept(probs, p)
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
    kept = np.where(_kept(probs[order], p), probs[order], 0)
    expected = np.where(np.arange(5) < (5 if size >= 4 else size), probs, 0)  # The last two tie.
    np.testing.assert_array_equal(kept, expected[order])


def test_draws_never_land_on_weight_zero():
    weights = jnp.asarray([[0.0, 1e-30, 0.0, 1.0, 0.0]])
    keys = jax.random.split(jax.random.key(1), 4096)
    ids = sampling._draw(jnp.broadcast_to(weights, (4096, 5)), keys)
    assert set(np.asarray(ids).tolist()) <= {1, 3}


def _nucleus_of(size, scale=3.0):
    """Random probabilities, and 0 outside of the nucleus of mass 0.9."""
    logits = np.random.default_rng(0).normal(size=(1, size)).astype(np.float32) * scale
    probs = jax.nn.softmax(jnp.asarray(logits))
    ordered = np.sort(np.asarray(probs[0], np.float64))[::-1]
    edge = ordered[np.searchsorted(np.cumsum(ordered), 0.9)].astype(np.float32)
    return jnp.where(probs >= edge, probs, 0)


def _picked(weights_1V, uniform_R):
    weights_RV = jnp.broadcast_to(weights_1V, (len(uniform_R), weights_1V.shape[-1]))
    return np.asarray(jax.jit(sampling._pick)(weights_RV, jnp.asarray(uniform_R)))


@jax.jit
def _sums(weights_1V):
    """The sums of blocks, and within each block, whose order decides a draw."""
    weights_CB = sampling._in_blocks(weights_1V)[0]
    sums_C = jnp.cumsum(jnp.sum(weights_CB, axis=-1))
    before_C1 = jnp.pad(sums_C[:-1], (1, 0))[:, None]
    return sums_C, before_C1 + jnp.cumsum(weights_CB, axis=-1)


def _counted(weights_1V, uniform_R):
    """What counting the sums that a target reaches would draw: first a block, then within it."""
    sums_C, sums_CB = (np.asarray(sums) for sums in _sums(weights_1V))
    tokens = []
    for target in uniform_R * sums_C[-1]:
        block = min(np.sum(sums_C <= target), len(sums_C) - 1)
        tokens.append(block * sums_CB.shape[1] + np.sum(sums_CB[block] <= target))
    return np.minimum(tokens, weights_1V.shape[-1] - 1)


@pytest.mark.parametrize("number", [1248413, 3158077, 6805922])
def test_draws_where_a_sum_falls_short_of_the_one_before_it(number):
    """Three numbers at which counting the sums below the target gives a token of weight 0."""
    weights_1V = _nucleus_of(8192)
    uniform_R = np.array([number * 2.0**-23], np.float32)
    assert weights_1V[0, _counted(weights_1V, uniform_R)[0]] == 0
    assert weights_1V[0, _picked(weights_1V, uniform_R)[0]] > 0


@pytest.mark.parametrize("size", [8192, 50257, 151936])
def test_no_draw_is_outside_the_nucleus_where_the_sums_fall(size):
    """Of all that `jax.random.uniform` can return, the numbers between a sum and a smaller next."""
    weights_1V = _nucleus_of(size)
    sums_C, sums_CB = (np.asarray(sums) for sums in _sums(weights_1V))
    falls = np.diff(sums_CB, append=sums_C[:, None]) < 0
    # A block's own sum, and that of its weights one by one, are rounded apart.
    falls[:, -1] |= sums_CB[:, -1] != sums_C
    ends = np.append(sums_CB, sums_C[:, None], axis=-1)
    ends = np.stack([ends[:, :-1][falls], ends[:, 1:][falls]]) / sums_C[-1] * 2**23
    numbers = np.unique(np.rint(ends).astype(np.int64)[..., None] + np.arange(-2, 3))
    numbers = numbers[(0 <= numbers) & (numbers < 2**23)]
    uniform_R = (numbers * 2.0**-23).astype(np.float32)
    weights_V = np.asarray(weights_1V[0])
    assert np.any(weights_V[_counted(weights_1V, uniform_R)] == 0), "no fall reaches a draw"
    for first in range(0, len(uniform_R), 200):
        assert np.all(weights_V[_picked(weights_1V, uniform_R[first : first + 200])] > 0)


@pytest.mark.parametrize(("p", "scale"), [(0.9, 0.1), (0.9, 3.0), (0.5, 1.0), (0.05, 1.0)])
def test_draws_are_those_of_the_nucleus_in_float64(p, scale):
    """Flat, peaked, and of a small nucleus, in which most first draws are outside."""
    logits = np.random.default_rng(3).normal(size=200) * scale
    probs = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-probs)
    inside = order[: np.searchsorted(np.cumsum(probs[order]), p) + 1]
    expected = np.zeros(200)
    expected[inside] = probs[inside] / probs[inside].sum()
    draws = 30_000
    frequencies = _frequencies(sampling.TopPSampling(p), probs.astype(np.float32), draws)
    assert np.all(frequencies[expected == 0] == 0)
    deviations = (frequencies - expected)[inside] / np.sqrt(expected[inside] / draws)
    assert np.all(np.abs(deviations) < 5)
    # Pearson's sum, about as many as there are tokens, with five standard deviations of it.
    assert abs(np.sum(deviations**2) - len(inside)) < 5 * np.sqrt(2 * len(inside))


@pytest.mark.parametrize(("p", "scale", "most"), [(0.9, 0.1, 5), (0.9, 3.0, 5), (0.05, 0.1, 12)])
def test_a_batch_is_drawn_a_few_times(p, scale, most):
    """How often a draw passes over the vocabulary, where a bisection takes 31 passes."""
    logits = np.random.default_rng(0).normal(size=(256, 512)).astype(np.float32) * scale
    probs, draw = jax.nn.softmax(jnp.asarray(logits)), jax.jit(sampling.draw_from_nucleus)
    for seed in range(5):
        _, draws = draw(probs, p, jax.random.split(jax.random.key(seed), 256))
        assert 1 < draws <= most


def test_a_draw_ends_where_logits_are_no_numbers():
    logits = jnp.zeros((2, 256)).at[0, 3].set(jnp.nan)
    keys = jax.random.split(jax.random.key(0), 2)
    for method in (sampling.TopPSampling(0.9), sampling.TemperatureSampling()):
        assert np.all(np.asarray(method.sample(logits, keys)) < 256)


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
    ("make", "said"),
    [
        (lambda: sampling.TopPSampling(0.0), r"TopPSampling.p is 0.0; must be in \[1e-06, 1\]"),
        (lambda: sampling.TopPSampling(1.5), r"TopPSampling.p is 1.5; must be in \[1e-06, 1\]"),
        (lambda: sampling.TopKSampling(0), "TopKSampling.k is 0; must be at least 1"),
        (lambda: sampling.TemperatureSampling(0.0), "temperature is 0.0; must be positive"),
        (lambda: sampling.TopPSampling(0.9, -1.0), "temperature is -1.0; must be positive"),
        (lambda: sampling.TopKSampling(5, -1.0), "temperature is -1.0; must be positive"),
    ],
)
def test_impossible_settings_are_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()


@pytest.mark.parametrize("p", [1e-46, 1e-40, 9e-7, float("nan")])
def test_a_mass_that_float32_takes_for_0_is_refused(p):
    """No sum of probabilities is below 0: the draw would never end."""
    with pytest.raises(UserError, match=r"must be in \[1e-06, 1\], such as 0.9; Greedy\(\) for"):
        sampling.TopPSampling(p)


@pytest.mark.parametrize("temperature", [1e-38, 9e-7, 1.1e6, 1e10, float("nan"), float("inf")])
def test_a_temperature_that_makes_no_distribution_is_refused(temperature):
    message = "must be positive, from 1e-06 to 1,000,000, such as 0.7; Greedy"
    for method in (sampling.TemperatureSampling, sampling.TopPSampling):
        with pytest.raises(UserError, match=message):
            method(temperature=temperature)


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
def test_what_is_no_token_is_not_drawn_at_the_ends_of_the_temperatures(temperature):
    logits = jnp.broadcast_to(jnp.array([-1e10, 20.0, -300.0, -1e10]), (1000, 4))
    keys = jax.random.split(jax.random.key(0), 1000)
    drawn = set(np.asarray(sampling.TemperatureSampling(temperature).sample(logits, keys)))
    assert drawn == ({1} if temperature < 1 else {1, 2})
