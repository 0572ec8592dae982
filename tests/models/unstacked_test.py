"""Matrices of layers as arrays of their own: the same steps of decoding, by other arrays."""

import dataclasses
import gc
import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.generation import caches
from detox_jax.models import kv_cache, unstacked
from detox_jax.models.adaptation import AdapterConfig, BitFitConfig, LoRAConfig, PrefixConfig
from detox_jax.models.transformer import TransformerLM
from tests.conftest import random_params

GATED = {"mlp_activations": ("silu", "linear"), "num_kv_heads": 2, "use_bias": False}


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setattr(kv_cache, "_NARROW", 0)


def _steps(cfg, adaptation=None):
    """A function of parameters and collections: the logits of three steps; and the parameters."""
    model, params = random_params(cfg, adaptation)
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 90, (3, 3)), jnp.int32)

    @jax.jit
    def logits(params, collections):
        cache, every = caches.empty(model, params, 3, 16), []
        for i in range(3):
            step, cache = caches.apply(
                model, params, cache, tokens[:, i : i + 1], collections=collections, decode=True
            )
            every.append(step)
        return jnp.concatenate(every, axis=1)

    return logits, params


@pytest.mark.parametrize(
    ("changes", "adaptation"),
    [
        ({}, None),
        (GATED, None),
        ({"dtype": "bfloat16"}, None),
        ({}, LoRAConfig(4)),
        ({}, AdapterConfig(8)),
        ({}, BitFitConfig()),
        ({}, PrefixConfig(3)),
    ],
    ids=str,
)
def test_a_step_is_the_same(config, changes, adaptation):
    cfg = dataclasses.replace(config, **changes)
    logits, params = _steps(cfg, adaptation)
    error = 0.1 if cfg.dtype == "bfloat16" else 2e-5
    collections = unstacked.of_layers(cfg, params).collections
    got = logits(params, collections)
    np.testing.assert_allclose(got, logits(params, {}), atol=error)
    kernels = {
        (part, name)
        for part in ("attention", "mlp")
        for name, module in params["layers"][part].items()
        if "kernel" in module
    }
    of_layers = collections[unstacked.MATRICES]["layers"]
    assert {(part, name) for part in of_layers for name in of_layers[part]} == kernels
    # They alone are read.
    other = {**params, "layers": dict(params["layers"])}
    for part, name in kernels:
        module = {
            **other["layers"][part][name],
            "kernel": other["layers"][part][name]["kernel"] + 1,
        }
        other["layers"][part] = {**other["layers"][part], name: module}
    np.testing.assert_array_equal(logits(other, collections), got)
    assert not np.allclose(logits(other, {}), got, atol=0.2)


def test_no_step_copies_a_matrix(config):
    cfg = dataclasses.replace(config, mlp_dim=88)
    logits, params = _steps(cfg)
    matrix = rf"f32\[(1,)?({cfg.emb_dim},88|88,{cfg.emb_dim})\]"

    def copies(collections):
        text = logits.lower(params, collections).compile().as_text()
        return len(re.findall(rf"= {matrix}\S* (?:dynamic-slice|copy|transpose)\(", text))

    assert copies({}) > 0
    assert copies(unstacked.of_layers(cfg, params).collections) == 0


def test_decoders_of_the_same_parameters_share_them(config):
    _, params = random_params(config)
    first = unstacked.of_layers(config, params)
    assert unstacked.of_layers(config, params) is first
    assert unstacked.of_layers(config, jax.tree.map(jnp.copy, params)) is not first
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None  # Nobody held them.


def test_there_are_none_where_they_would_not_help(config, monkeypatch):
    params = TransformerLM(config).init(
        jax.random.key(0), jnp.ones((1, 1), jnp.int32), enable_dropout=False
    )["params"]
    assert unstacked.of_layers(config, params).collections
    with monkeypatch.context() as patch:
        patch.setattr(kv_cache, "_NARROW", 128)
        assert unstacked.of_layers(config, params).collections == {}
    with monkeypatch.context() as patch:
        patch.setattr(unstacked, "_MOST_BYTES", 1000)
        assert unstacked.of_layers(config, params).collections == {}
    monkeypatch.setattr(kv_cache.kernels, "platform_in_use", lambda: "tpu")
    assert unstacked.of_layers(config, params).collections == {}
