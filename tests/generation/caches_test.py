"""Empty caches: of the network's own shapes, which are asked for once."""

import jax
import jax.numpy as jnp
import pytest

from detox_jax.generation import caches
from tests.conftest import random_params


@pytest.fixture
def asked(monkeypatch):
    """The numbers of rows for which the network was traced."""
    caches._shapes.cache_clear()
    rows, trace = [], jax.eval_shape

    def eval_shape(function, *args):
        if function.__module__ == caches.__name__:  # and not flax's
            rows.append(args[1].shape[0])
        return trace(function, *args)

    monkeypatch.setattr(jax, "eval_shape", eval_shape)
    return rows


def test_the_network_is_traced_once_for_caches_of_one_shape(config, asked):
    model, params = random_params(config)
    first = caches.empty(model, params, 3, 16)
    again = jax.jit(lambda params: caches.empty(model, params, 3, 16))(params)
    assert asked == [3]
    assert jax.tree.map(jnp.shape, first) == jax.tree.map(jnp.shape, again)
    assert not any(leaf.any() for leaf in jax.tree.leaves(again))


def test_other_rows_and_other_parameters_have_other_caches(config, asked):
    model, params = random_params(config)
    full = caches.empty(model, params, 3, 16)
    more = caches.empty(model, params, 5, 16)
    assert [leaf.shape[1] for leaf in jax.tree.leaves(more)] == [5] * len(jax.tree.leaves(full))
    caches.empty(model, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), 3, 16)
    assert asked == [3, 5, 3]
