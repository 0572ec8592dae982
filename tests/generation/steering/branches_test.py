"""Branches read what the same models read without a cache, behind the same ids."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.checkpoints import params as params_lib
from detox_jax.generation.steering import branches as branches_lib
from detox_jax.generation.steering import one_pass
from detox_jax.generation.steering.branches import Branches
from detox_jax.models import adaptation as adaptations
from tests.conftest import random_params
from tests.generation.steering import made

BOS = 1
PROMPTS = [[BOS, 9, 30], [7], [BOS], [40, 41, 42, 43, 44, 45]]
CONTINUATIONS = np.array([[5, 6, 7], [8, 9, 10], [11, 12, 13], [14, 15, 16]], np.int32)
PREFIXES = [[50, 51, 52, 53], [60], [70, 71]]


def _arrays():
    prompts_NP = np.zeros((len(PROMPTS), 6), np.int32)
    for row, prompt in zip(prompts_NP, PROMPTS, strict=True):
        row[: len(prompt)] = prompt
    return jnp.asarray(prompts_NP), jnp.array([len(prompt) for prompt in PROMPTS], jnp.int32)


def _cached(branches, config):
    """Logits of every step, behind the prompt and behind each token of its continuation."""
    prompts_NP, lengths_N = _arrays()
    start = jax.jit(lambda branches: branches_lib.start(branches, prompts_NP, lengths_N, 16))
    step = jax.jit(branches_lib.step, static_argnames="width")
    state, token_R = start(branches), jnp.array([prompt[-1] for prompt in PROMPTS])
    steps = []
    for next_R in (*CONTINUATIONS.T, None):
        logits_RKV, state = step(branches, state, token_R, width=config.padded_vocab_size)
        steps.append(np.asarray(logits_RKV))
        token_R = next_R
    return np.stack(steps, axis=2)  # R K steps V


def _uncached(model, params, before, n, vocab_size):
    """The same of one row by one forward pass over all of its ids."""
    bos = PROMPTS[n][:1] if PROMPTS[n][0] == BOS else []
    ids = [*bos, *before, *PROMPTS[n][len(bos) :], *CONTINUATIONS[n]]
    logits = np.asarray(made.read(model, params, ids)[-4:])
    tokens_V = np.arange(logits.shape[-1])
    return np.where((tokens_V > 0) & (tokens_V < vocab_size), logits, 0.0)


def test_prefixes_of_one_model(config):
    model, params = random_params(config)
    branches = (Branches.of_prefixes(model, params, PREFIXES, BOS),)
    cached = _cached(branches, config)
    assert cached.shape[:3] == (4, 3, 4)
    for n in range(len(PROMPTS)):
        for k, prefix in enumerate(PREFIXES):
            expected = _uncached(model, params, prefix, n, config.vocab_size)
            np.testing.assert_allclose(cached[n, k], expected, atol=2e-5)


@pytest.mark.parametrize(
    "adaptation", [adaptations.AdapterConfig(8), adaptations.LoRAConfig(2)], ids=["adapter", "lora"]
)
def test_adaptations_of_one_base_are_one_call(config, adaptation):
    model, whole = random_params(config, adaptation)
    trained, shared = params_lib.partition(whole, adaptation.trainable_pattern)
    other = jax.tree.map(lambda leaf: -0.7 * leaf, trained)
    branches = (Branches.of_adaptations(model, shared, [trained, other]),)
    leaves = {id(leaf) for leaf in jax.tree.leaves(branches)}
    assert {id(leaf) for leaf in jax.tree.leaves(shared)} <= leaves  # no copy
    cached = _cached(branches, config)
    for n in range(len(PROMPTS)):
        for k, own in enumerate((trained, other)):
            params = params_lib.combine(shared, own)
            expected = _uncached(model, params, [], n, config.vocab_size)
            np.testing.assert_allclose(cached[n, k], expected, atol=2e-5)
    assert np.abs(cached[:, 0] - cached[:, 1]).max() > 0.1


@pytest.mark.parametrize("kind", ["prefixes", "adaptations"])
def test_a_prompt_is_read_without_the_logits_of_all_of_it(kind, config, monkeypatch):
    monkeypatch.setattr(one_pass, "_PLACES", 64)
    N, K, P, V = 4, 2, 128, 8_192
    config = dataclasses.replace(config, vocab_size=V, max_length=2 * P)
    if kind == "prefixes":
        model, params = random_params(config)
        branches = (Branches.of_prefixes(model, params, PREFIXES[:K], BOS),)
    else:
        model, whole = random_params(config, adaptations.LoRAConfig(2))
        trained, shared = params_lib.partition(whole, model.adaptation.trainable_pattern)
        branches = (Branches.of_adaptations(model, shared, [trained] * K),)
    prompts = jax.ShapeDtypeStruct((N, P), jnp.int32), jax.ShapeDtypeStruct((N,), jnp.int32)
    read = jax.jit(branches_lib.read, static_argnums=3)
    memory = read.lower(branches, *prompts, P).compile().memory_analysis()
    assert memory.temp_size_in_bytes < N * K * P * V * 4 / 2


def test_several_models_keep_their_order_and_their_states(config):
    """A model of another width of vocabulary padding, and prefixes, side by side."""
    model, params = random_params(config)
    other, other_params = random_params(config, seed=1)
    branches = (
        Branches.of_model(other, other_params),
        Branches.of_prefixes(model, params, PREFIXES[:2], BOS),
    )
    cached = _cached(branches, config)
    for n in range(len(PROMPTS)):
        for k, (module, tree, prefix) in enumerate(
            [(other, other_params, []), *[(model, params, prefix) for prefix in PREFIXES[:2]]]
        ):
            expected = _uncached(module, tree, prefix, n, config.vocab_size)
            np.testing.assert_allclose(cached[n, k], expected, atol=2e-5)


def test_a_row_that_is_put_in_later_is_as_from_the_start(config):
    """States have their rows where they say: taking rows out and putting them back is exact."""
    model, params = random_params(config)
    adaptation = adaptations.AdapterConfig(8)
    adapted, whole = random_params(config, adaptation)
    trained, shared = params_lib.partition(whole, adaptation.trainable_pattern)
    branches = (
        Branches.of_prefixes(model, params, PREFIXES, BOS),
        Branches.of_adaptations(adapted, shared, [trained, trained]),
    )
    prompts_NP, lengths_N = _arrays()
    start = jax.jit(branches_lib.start, static_argnums=3)
    state = start(branches, prompts_NP, lengths_N, 16)
    assert sorted(state) == [0, 1, 2]
    order = np.array([2, 0, 3, 1])
    again = start(branches, prompts_NP[order], lengths_N[order], 16)
    for axis, tree in state.items():
        jax.tree.map(
            lambda a, b, axis=axis: np.testing.assert_allclose(
                np.take(np.asarray(a), order, axis=axis), b, atol=1e-6
            ),
            tree,
            again[axis],
        )
