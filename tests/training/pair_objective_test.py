"""Losses on pairs: figures worked out by hand, their gradients, and what never counts."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from detox_jax.training import base_model, train
from detox_jax.training.click import Click
from detox_jax.training.dpo import Preference
from detox_jax.training.reward_weighted import RewardWeighted
from detox_jax.training.unlikelihood import Unlikelihood
from tests.conftest import random_params
from tests.training.pairs_made import Fixed, batch

BASE = np.array([2.0, 1.0, 0.0])
POLICY = np.array([2.5, 0.5, 0.0])
# Sums over the sides' two tokens.
REFERENCE = {"chosen_reference": -2.815212, "rejected_reference": -3.815212}


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def params(logits=POLICY):
    return {"logits": logits, base_model.BASE: {"logits": BASE}}


@functools.partial(jax.jit, static_argnums=0)
def loss(objective, made, logits):
    return objective.loss(Fixed(), params(logits), made, None)


@functools.partial(jax.jit, static_argnums=0)
def gradient(objective, made, logits=POLICY):
    return jax.grad(lambda z: loss(objective, made, z)[0])(logits)


@functools.partial(jax.jit, static_argnums=0)
def figures(objective, made):
    return objective.figures(Fixed(), params(), made)


def value(objective, made, logits=POLICY):
    total, weight = loss(objective, made, logits)
    return float(total / weight)


def close(expected):
    return pytest.approx(expected, abs=1e-6)


# --- values and gradients -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"beta": 0.1}, 0.644397),
        ({"beta": 0.5}, 0.474077),
        ({"beta": 0.1, "length_normalized": True}, 0.668460),
        ({"beta": 0.1, "reference_free": True}, 0.598139),
    ],
)
def test_dpo(fields, expected):
    assert value(Preference(**fields), batch(**REFERENCE)) == close(expected)


def test_dpo_of_the_base_itself_is_log_2():
    assert value(Preference(), batch(**REFERENCE), BASE) == close(np.log(2))


def test_dpo_moves_the_margin():
    """The margin is z(0) - z(1), so its gradient is that of the loss in the margin."""
    found = gradient(Preference(), batch(**REFERENCE))
    np.testing.assert_allclose(found, [-0.047502, 0.047502, 0.0], atol=1e-6)


def test_unlikelihood():
    made = batch(chosen=(0,), rejected=(1,))
    assert value(Unlikelihood(), made, BASE) == close(0.344142)
    assert value(Unlikelihood(alpha=0.0), made, BASE) == close(0.407606 / 2)
    assert value(Unlikelihood(alpha=2.0), made, BASE) == close((0.407606 + 2 * 0.280678) / 2)
    good = gradient(Unlikelihood(alpha=0.0), made, BASE)
    bad = gradient(Unlikelihood(), made, BASE) - good
    np.testing.assert_allclose(bad, [-0.215556, 0.244728, -0.029172], atol=1e-6)


def test_unlikelihood_of_what_is_certain_still_has_a_gradient():
    logits = np.array([0.0, 100.0, 0.0])
    found = gradient(Unlikelihood(), batch(chosen=(1,), rejected=(1,)), logits)
    np.testing.assert_allclose(found, [-0.5, 1.0, -0.5], atol=1e-6)


@pytest.mark.parametrize(("alpha", "hinge"), [(20.0, 18.0), (1.0, 0.0)])
def test_click(alpha, hinge):
    found = value(Click(alpha=alpha), batch())
    assert found == close(2.893468 / 2 + 0.5 * hinge)  # two tokens a side
    nll = gradient(Click(gamma=0.0), batch())
    expected = [-0.5, 0.5, 0.0] if hinge else [0.0, 0.0, 0.0]
    np.testing.assert_allclose(gradient(Click(alpha=alpha), batch()) - nll, expected, atol=1e-6)


def test_reward_weighted():
    made = batch(chosen=(0,), rejected=(1,), chosen_toxicity=0.1, rejected_toxicity=0.8)
    assert value(RewardWeighted(), made, BASE) == close(0.851467)


@pytest.mark.parametrize("objective", [Preference, Unlikelihood, Click, RewardWeighted])
def test_kl_to_the_base_is_added_to_any(objective):
    made = batch(**REFERENCE)
    added = value(objective(kl_to_base=2.0), made) - value(objective(), made)
    assert added == close(2 * 0.065994)
    pulled = gradient(objective(kl_to_base=1.0), made) - gradient(objective(), made)
    weight = 4 if objective.by_token else 1
    log_ratio = POLICY - BASE - (np.log(np.exp(POLICY).sum()) - np.log(np.exp(BASE).sum()))
    p = np.exp(POLICY) / np.exp(POLICY).sum()
    np.testing.assert_allclose(pulled, weight * p * (log_ratio - p @ log_ratio), atol=1e-6)


# --- what never counts --------------------------------------------------------------------------

OBJECTIVES = [
    Preference(kl_to_base=0.1),
    Preference(length_normalized=True),
    Unlikelihood(kl_to_base=0.1),
    Click(),
    RewardWeighted(),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_prompt_and_padding_never_count(objective):
    made = batch(prompt=1, padding=0, **REFERENCE)
    for other in (batch(prompt=5, padding=0, **REFERENCE), batch(prompt=1, padding=7, **REFERENCE)):
        assert value(objective, other) == pytest.approx(value(objective, made), abs=1e-12)
        np.testing.assert_allclose(
            gradient(objective, other), gradient(objective, made), atol=1e-12
        )
        expected = figures(objective, made)
        for name, (total, weight) in figures(objective, other).items():
            assert (float(total), float(weight)) == pytest.approx(
                tuple(map(float, expected[name])), abs=1e-12
            )


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_pairs_that_fill_a_batch_never_count(objective):
    made = batch(pairs=3, **REFERENCE)
    made["pair_weights"][1:] = 0
    for side in ("chosen", "rejected"):
        made[f"{side}_weights"][1:] = 0
        made[f"{side}_reference"][1:] = 0
    assert value(objective, made) == pytest.approx(value(objective, batch(**REFERENCE)), abs=1e-12)


def test_what_the_log_says_of_a_batch():
    found = Preference(kl_to_base=0.1).figures(Fixed(), params(), batch(pairs=2, **REFERENCE))
    means = {name: float(total / weight) for name, (total, weight) in found.items()}
    assert means == {
        "nll_good": close(2.893468 / 2),
        "nll_bad": close(4.893468 / 2),
        "margin": close(2.0),
        "reward_margin": close(1.0),
        "accuracy": 1.0,
        "kl_to_base": close(0.065994),
    }
    assert float(found["nll_good"][1]) == 4 and float(found["accuracy"][1]) == 2
    assert "kl_to_base" not in Preference().figures(Fixed(), params(), batch())


# --- a real network -----------------------------------------------------------------------------


def ids(seed):
    return tuple(np.random.default_rng(seed).integers(1, 300, 5).tolist())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_pair_of_equal_sides_teaches_nothing(config, dropout):
    with jax.enable_x64(False):
        model, tree = random_params(config)
        model = model.clone(config=dataclasses.replace(config, dropout_rate=dropout))
        key = jax.random.key(1) if dropout else None

        @jax.jit
        def norm(made):
            gradients = jax.grad(lambda p: Preference().loss(model, p, made, key)[0])(tree)
            return optax.global_norm(gradients)

        assert float(norm(batch(ids(0), ids(0)))) == 0.0
        assert float(norm(batch(ids(0), ids(1)))) > 1e-3


def test_settings_say_what_click_learns_now():
    """A version before learnt the sum over the chosen side's tokens."""
    (said,) = train._objective_settings(Click()).values()
    assert said["learns"] == "the mean over the chosen side's tokens"
    (said,) = train._objective_settings(Preference()).values()
    assert "learns" not in said
