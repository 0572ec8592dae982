"""Figures of three tokens, computed by hand: token 1 is the rude one."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.errors import UserError
from detox_jax.generation import sampling
from detox_jax.generation.steering import formulas
from detox_jax.generation.steering.steering import Distribution

BASE, EXPERT, ANTI = (2.0, 1.0, 0.0), (1.5, 0.0, 0.0), (0.0, 2.0, 0.5)
ALL = np.ones(3, bool)


@pytest.fixture(params=["float64", "float32"])
def array(request):
    """Rows of one row of that precision."""
    with jax.enable_x64(True) if request.param == "float64" else contextlib.nullcontext():
        yield lambda values: jnp.asarray([values], request.param)


def _probs(logits, kept=None, temperature=1.0):
    if kept is not None:
        logits = jnp.where(kept, logits, -jnp.inf)
    return np.asarray(jax.nn.softmax(logits / temperature))[0]


def _close(probs, expected):
    np.testing.assert_allclose(probs, expected, rtol=0, atol=1e-6)


def test_the_base(array):
    _close(_probs(array(BASE)), [0.665241, 0.244728, 0.090031])
    _close(np.exp(formulas.log_probs(array(BASE), ALL))[0], [0.665241, 0.244728, 0.090031])
    assert formulas.nucleus_mask(array(BASE), ALL, 0.9).tolist() == [[True, True, False]]


@pytest.mark.parametrize(
    ("alpha", "anti_only", "kept", "temperature", "logits", "probs"),
    [
        (2.0, False, [1, 1, 0], 1.0, (5, -3), (0.999665, 0.000335, 0)),
        (2.0, False, [1, 1, 0], 2.0, (5, -3), (0.982014, 0.017986, 0)),
        (0.5, False, [1, 1, 0], 1.0, (2.75, 0), (0.939913, 0.060087, 0)),
        (2.0, True, [1, 1, 0], 1.0, (6, -1), (0.999089, 0.000911, 0)),
        (2.0, False, [1, 1, 1], 1.0, (5, -3), (0.997194, 0.000335, 0.002472)),
    ],
)
def test_experts(array, alpha, anti_only, kept, temperature, logits, probs):
    expert = array(BASE if anti_only else EXPERT)
    steered = formulas.with_experts(array(BASE), expert, array(ANTI), alpha)
    _close(steered[0, :2], logits)
    _close(_probs(steered, np.array(kept, bool), temperature), probs)


@pytest.mark.parametrize(
    ("strength", "kept", "probs"),
    [
        (-1, [1, 1, 0], (0.982014, 0.017986, 0)),
        (-1, [1, 1, 1], (0.971416, 0.017792, 0.010791)),
        (-2, [1, 1, 1], (0.998180, 0.000910, 0.000910)),
    ],
)
def test_contrast_of_logits(array, strength, kept, probs):
    steered = formulas.with_experts(array(BASE), array(BASE), array(ANTI), -strength)
    _close(_probs(steered, np.array(kept, bool)), probs)


def test_contrast_of_probabilities(array):
    base, nucleus = array(BASE), np.array([True, True, False])
    steered, positive = formulas.contrast_of_probabilities(base, array(ANTI), 0.3, ALL)
    raw = jnp.exp(steered - jax.nn.logsumexp(base))
    _close(np.where(nucleus & positive, raw, 0)[0], [0.834926, 0.097310, 0])
    _close(_probs(steered, nucleus & positive), [0.895617, 0.104383, 0])
    steered, positive = formulas.contrast_of_probabilities(base, array(ANTI), 5.0, ALL)
    _close(_probs(steered, nucleus & positive), [1, 0, 0])


def test_a_ratio_beyond_the_numbers_is_clipped_and_not_lost():
    base, dirty = jnp.array([[0.0, -1000.0]]), jnp.array([[0.0, 1000.0]])
    two = np.ones(2, bool)
    for alpha in (0.0, 0.5):
        steered, positive = formulas.contrast_of_probabilities(base, dirty, alpha, two)
        assert np.isfinite(steered).all()
        assert positive.tolist() == [[True, alpha == 0]]
    assert steered[0, 0] - base[0, 0] == pytest.approx(np.log(1.5))


@pytest.mark.parametrize(
    ("decay", "probs"),
    [(50, (0.985542, 0.003626, 0.010832)), (10, (0.919626, 0.005047, 0.075326))],
)
def test_debiasing(array, decay, probs):
    prefixed = jnp.stack([array((1.0, 2.0, 0.0)), array((2.0, 1.0, 0.5))], axis=1)
    steered = formulas.debiased(array(BASE), prefixed, decay, 0.01, ALL)
    _close(_probs(steered), probs)


@pytest.mark.parametrize(
    ("bias", "omega", "clean", "steered", "filtered"),
    [
        (2, 30, (0.941172, 0.874262, 0.919767), (0.902422, 0.036332, 0.061246), (1, 0, 0)),
        (2, 2, (0.941172, 0.874262, 0.919767), (0.691237, 0.219421, 0.089342), None),
        (0, 0, (0.684064, 0.484799, 0.608063), (0.665241, 0.244728, 0.090031), None),
    ],
)
def test_class_of_a_text_with_each_next_token(array, bias, omega, clean, steered, filtered):
    logs = [formulas.log_probs(array(values), ALL) for values in ((1, 0, 0), (0, 1.5, 0))]
    difference = -4 + 5 + logs[0] - logs[1]
    log_clean = formulas.log_clean(difference, jnp.array([3]), 1.0, bias)
    _close(np.exp(log_clean)[0], clean)
    logits = array(BASE) + omega * log_clean
    _close(_probs(logits), steered)
    if filtered:
        threshold = np.log(0.967273)  # logit .8 + 2
        kept = formulas.desired_mask(logits, log_clean, array(BASE) > -9, 0.8, threshold)
        _close(_probs(logits, kept), filtered)
        kept = formulas.desired_mask(logits, log_clean, array(BASE) > -9, 0.8, np.log(0.9))
        assert kept.tolist() == [[True, False, True]]  # clean enough
        kept = formulas.desired_mask(logits, log_clean, array(BASE) < 2, 1.0, threshold)
        assert kept.tolist() == [[False, False, True]]  # the cleanest of what may be drawn


def test_what_goes_is_the_dirtiest_part_of_the_mass():
    noise = np.random.default_rng(0)
    logits = noise.normal(0, 3, (20, 300)).astype(np.float32)
    log_clean = -np.logaddexp(0, noise.normal(0, 2, (20, 300))).astype(np.float32)
    allowed = noise.random((20, 300)) < 0.8
    kept = formulas.desired_mask(logits, log_clean, allowed, 0.7, np.log(0.99))
    for row in range(20):
        ids = np.flatnonzero(allowed[row])
        ids = ids[np.argsort(log_clean[row, ids])]
        probs = np.exp(logits[row, ids].astype(float))
        stay = ids[np.cumsum(probs) / probs.sum() >= 0.7]
        clean = np.flatnonzero(allowed[row] & (log_clean[row] >= np.log(0.99)))
        assert set(np.flatnonzero(kept[row])) == {*stay, *clean}


@pytest.mark.parametrize(
    ("beta", "softmax", "probs"),
    [
        (10, True, (0.958582, 0.006752, 0.034666)),
        (1, False, (0.845778, 0.069426, 0.084797)),
    ],
)
def test_margins(array, beta, softmax, probs):
    every = array(BASE) > -9
    margin = array((0.5, -1.0, 0.2))
    _close(_probs(array(BASE) + formulas.of_margins(margin, every, beta, softmax=softmax)), probs)
    two = np.array([[True, True, False]])
    added = formulas.of_margins(margin, two, beta, softmax=softmax)
    assert added[0, 2] == 0 and np.isfinite(added).all()
    if softmax:
        _close(added[0].sum(), beta)


@pytest.mark.parametrize(
    ("beta", "k", "probs"),
    [
        (2, 2, (0.916827, 0.083173, 0)),
        (10, 2, (0.999665, 0.000335, 0)),
        (2, 3, (0.846428, 0.076786, 0.076786)),
    ],
)
def test_rewards(array, beta, k, probs):
    of_k = np.arange(3)[None] < k
    steered = array(BASE) + formulas.of_rewards(array((0.1, 0.8, 0.3)), of_k, beta)
    _close(_probs(steered, of_k), probs)
    beyond = formulas.of_rewards(array((-0.5, 1.5, 0.0)), of_k, 1.0)
    assert beyond[0, :2].tolist() == [1, 0]


def test_bans(array):
    distribution = Distribution.of_model(jnp.pad(array(BASE), ((0, 0), (1, 1))), 4)
    banned = distribution.ban(jnp.array([[False, False, True, False, False]]))
    _close(_probs(banned.logits_RV, banned.allowed_RV), [0, 0.880797, 0, 0.119203, 0])


def _each(base, *others):
    """Every formula of a base and other models' logits, in order of their use."""
    expert, anti = others
    yield formulas.with_experts(base, expert, anti, 2.0)
    yield formulas.with_experts(base, base, anti, 2.0)
    yield formulas.contrast_of_probabilities(base, anti, 0.3, ALL)[0]
    yield formulas.debiased(base, jnp.stack([expert, anti], axis=1), 10.0, 0.01, ALL)
    difference = formulas.log_probs(expert, ALL) - formulas.log_probs(anti, ALL)
    yield base + 2 * formulas.log_clean(difference, jnp.array([2]), 1.0, 2.0)


@pytest.mark.parametrize("shifted", range(3))
def test_a_constant_added_to_one_models_logits_changes_nothing(shifted):
    with jax.enable_x64(True):
        models = [jnp.asarray([values], "float64") for values in (BASE, EXPERT, ANTI)]
        before = [_probs(logits) for logits in _each(*models)]
        models[shifted] = models[shifted] - 10
        for logits, probs in zip(_each(*models), before, strict=True):
            np.testing.assert_allclose(_probs(logits), probs, atol=1e-12)


def test_strength_0_leaves_every_bit():
    noise = np.random.default_rng(0)
    base, expert, anti = (jnp.asarray(noise.normal(size=(4, 50)), "float32") for _ in range(3))
    tokens = np.ones(50, bool)
    assert (formulas.with_experts(base, expert, anti, 0.0) == base).all()
    steered, positive = formulas.contrast_of_probabilities(base, anti, 0.0, tokens)
    assert (steered == base).all() and positive.all()
    assert (formulas.debiased(base, expert[:, None], 0.0, 0.01, tokens) == base).all()


def test_columns_that_are_no_token_have_no_part_in_probabilities():
    def padded(values):
        return jnp.array([[7.0, *values, 9.0]])

    tokens = np.array([False, True, True, True, False])
    base, expert, anti = map(padded, (BASE, EXPERT, ANTI))
    plain = [jnp.array([values]) for values in (BASE, EXPERT, ANTI)]
    steered, _ = formulas.contrast_of_probabilities(base, anti, 0.3, tokens)
    alone, _ = formulas.contrast_of_probabilities(plain[0], plain[2], 0.3, ALL)
    _close(steered[0, 1:4], alone[0])
    prefixed = jnp.stack([expert, anti], axis=1)
    steered = formulas.debiased(base, prefixed, 10.0, 0.01, tokens)
    alone = formulas.debiased(plain[0], jnp.stack(plain[1:], axis=1), 10.0, 0.01, ALL)
    _close(steered[0, 1:4], alone[0])


def test_the_models_own_nucleus_draws_as_the_samplings():
    """To the bit: the draw among the nucleus of what nothing has changed is nucleus sampling."""
    noise = np.random.default_rng(1)
    logits = jnp.asarray(noise.normal(scale=3, size=(200, 40)), "float32")
    keys = jax.vmap(jax.random.key)(jnp.arange(200))
    distribution = Distribution.of_model(logits, 37)
    plain = sampling.TopPSampling(0.9)
    masked = jnp.where(distribution.allowed_RV, logits, -1e10)  # as a model gives them
    truncated = distribution.to_nucleus(jnp.float32(0.9))
    assert truncated.truncated and not truncated.allowed_RV[:, 1:37].all()
    for method in (plain, sampling.TopPSampling(0.3)):  # whose own nucleus has no part in it
        assert (truncated.draw(method, keys) == plain.sample(masked, keys)).all()
    drawn = truncated.draw(sampling.TemperatureSampling(1.0), keys)
    assert truncated.allowed_RV[jnp.arange(200), drawn].all()


def test_what_is_left_out_may_be_the_likeliest_by_far():
    kept = jnp.array([[True, True, False]])
    logits, keys = jnp.array([[1.0, 0.0, 900.0]]), jax.vmap(jax.random.key)(jnp.arange(1))
    drawn = sampling.sample_among(sampling.TopPSampling(0.9), logits, kept, keys)
    assert drawn[0] in (0, 1)


def test_a_truncation_that_leaves_banned_tokens_alone_is_forgotten():
    distribution = Distribution.of_model(jnp.array([[0.0, 9.0, 1.0, 1.5]]), 4)
    truncated = distribution.to_nucleus(jnp.float32(0.9))
    assert truncated.allowed_RV.tolist() == [[False, True, False, False]]
    banned = truncated.ban(jnp.array([[False, True, False, False]]))
    keys = jax.vmap(jax.random.key)(jnp.arange(1))
    assert banned.draw(sampling.Greedy(), keys).tolist() == [3]
    assert banned.draw(sampling.TopPSampling(0.9), keys)[0] in (2, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "2", True])
def test_strengths_are_finite_numbers(value):
    with pytest.raises(UserError, match=r"Experts.alpha is .*; must be a finite number"):
        formulas.require_finite("Experts", alpha=value)
