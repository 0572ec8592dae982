"""Caches: what is empty has the shapes of what is filled, and is worked out once."""

import jax
import jax.numpy as jnp
import pytest

from detox_jax.generation import caches
from detox_jax.models.adaptation import PrefixConfig
from detox_jax.models.transformer import TransformerLM
from tests.conftest import random_params


def shapes_of(cache):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), cache)


@pytest.mark.parametrize("adaptation", [None, PrefixConfig()])
def test_an_empty_cache_has_the_shapes_of_a_filled_one(config, adaptation):
    model, params = random_params(config, adaptation)
    cache = caches.empty(model, params, 3, 16)
    assert not any(leaf.any() for leaf in jax.tree.leaves(cache))
    assert all(leaf.shape[1] == 3 for leaf in jax.tree.leaves(cache))
    tokens = jnp.ones((3, 16), jnp.int32)
    lengths = jnp.full(3, 16)
    filled = jax.eval_shape(
        lambda: caches.apply(model, params, cache, tokens, prefill=True, prefill_lengths=lengths)[1]
    )
    assert shapes_of(cache) == shapes_of(filled)


def test_the_network_is_walked_through_once_for_all_caches_of_a_shape(config, monkeypatch):
    model, params = random_params(config)
    first = caches.empty(model, params, 5, 16)
    asked = []

    def apply(self, variables, tokens, **how):
        asked.append(tokens.shape)
        return original(self, variables, tokens, **how)

    original = TransformerLM.apply
    monkeypatch.setattr(TransformerLM, "apply", apply)
    again = jax.jit(lambda params: caches.empty(model, params, 5, 16))(params)
    assert asked == [] and shapes_of(again) == shapes_of(first)
    assert shapes_of(caches.empty(model, params, 7, 16)) != shapes_of(first)
    halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    caches.empty(model, halves, 5, 16)
    assert asked == [(7, 16), (5, 16)]
