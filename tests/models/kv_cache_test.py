"""The cache of keys and values: what lies where, and that attention reads it as it was."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.generation import caches
from detox_jax.models import attention, kv_cache
from detox_jax.models.attention import KeyValues
from detox_jax.parallel import mesh as meshes
from tests.conftest import random_params
from tests.models.attention_test import B, G, K, L, by_loops, inputs


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_position_goes_to_each_rows_own_place_and_nowhere_else(dtype):
    rng = np.random.default_rng(0)
    layers, index = 3, np.array([4, 0])
    cache = jnp.asarray(rng.normal(size=(layers, B, G, 6, K)), dtype)
    new = jnp.asarray(rng.normal(size=(layers, B, 1, G, K)), jnp.float32)
    got = jax.jit(kv_cache.extend_cache)(cache, new, index)
    expected = np.array(cache)
    for row, place in enumerate(index):
        expected[:, row, :, place] = new[:, row, 0].astype(dtype)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("width", "per_place"), [(8, 2), (4, 1), (9, 2), (5, 1)])
def test_heads_side_by_side_are_heads(width, per_place):
    """The keys and values of a cache, several heads in the last axis, or zeros behind them."""
    q, k, v, mask = inputs(7)
    side_by_side = [
        kv_cache.to_cache(jnp.asarray(x).swapaxes(1, 2)[None], (1, B, G // per_place, 7, width))[0]
        for x in (k[:, :, :6], v[:, :, :6])
    ]
    assert side_by_side[0].shape == (B, G // per_place, 6, width)
    parts = [
        KeyValues(*side_by_side, mask[..., :6]),
        KeyValues(k[:, :, 6:], v[:, :, 6:], mask[..., 6:]),
    ]
    expected = by_loops(q, k, v, mask, K**-0.5)
    np.testing.assert_allclose(attention.attend(q, parts), expected, atol=2e-6)


@pytest.mark.parametrize(("queries", "room"), [(L, None), (L, 6), (1, 4)])
def test_a_layer_s_cache_is_read_alike_in_an_array_of_all_and_in_its_own(queries, room):
    """Each of three layers, of which only the first positions may be read."""
    of_layers = [inputs(7, seed)[1:3] for seed in range(3)]
    q, _, _, mask = inputs(7, seed=9)
    q, mask = q[:, :queries], mask[:, :queries, :room]

    @jax.jit
    def read(keys, values, number):
        keys, values = (kv_cache.OfLayer(a, number, room) for a in (keys, values))
        assert keys.shape == (B, G, room or 7, K)
        return attention.attend(q, [KeyValues(keys, values, mask)])

    stacked = [(np.stack(arrays),) for arrays in zip(*of_layers, strict=True)]
    apart = [tuple(array[None] for array in arrays) for arrays in zip(*of_layers, strict=True)]
    for number, (k, v) in enumerate(of_layers):
        k, v = k[:, :, :room], v[:, :, :room]
        expected = attention.attend(q, [KeyValues(k, v, mask)])
        np.testing.assert_allclose(read(*stacked, number), expected, atol=1e-6)
        np.testing.assert_allclose(read(*apart, number), expected, atol=1e-6)


def test_a_step_on_a_cpu_copies_no_layer_s_cache(config):
    config = dataclasses.replace(
        config, num_heads=4, num_kv_heads=4, head_dim=40, attention_kernel="plain"
    )
    model, params = random_params(config)
    cache = caches.empty(model, params, 3, 48)
    token = jnp.ones((3, 1), jnp.int32)
    step = jax.jit(lambda cache: caches.apply(model, params, cache, token, decode=True))
    program = step.lower(cache).compile().as_text()
    G, K = config.kv_heads, config.head_size
    assert f"f32[1,3,{G},48,{K}]" in program
    # What is not a cache itself, but has the size of a layer's part of one.
    made = re.findall(rf"= f32\[3,{G},48,{K}\]\S* (?!bitcast|parameter)(\S+)\(", program)
    assert made == []


def test_narrow_heads_fill_the_lanes_of_a_tpu(config, monkeypatch):
    def shape(**fields):
        shapes = kv_cache.cache_shapes(dataclasses.replace(config, **fields), B=3, M=16)
        assert len({*shapes}) == 1
        return len(shapes) * shapes[0][0], *shapes[0][1:]

    narrow = {"num_heads": 12, "num_kv_heads": 12, "head_dim": 64}
    assert shape(**narrow) == (2, 3, 12, 16, 64)
    monkeypatch.setattr(kv_cache.kernels, "platform_in_use", lambda: "tpu")
    assert shape(**narrow) == (2, 3, 6, 16, 128)
    assert shape(**{**narrow, "num_kv_heads": 3}) == (2, 3, 3, 16, 128)  # No two by two.
    assert shape(**{**narrow, "head_dim": 80}) == (2, 3, 12, 16, 128)
    assert shape(**{**narrow, "head_dim": 160}) == (2, 3, 12, 16, 160)
    mesh = meshes.create_mesh({"data": 2, "model": 4})
    with meshes.sharding_scope(mesh):  # Three heads a device.
        assert shape(**{**narrow, "head_dim": 32}) == (2, 3, 4, 16, 128)
        assert shape(**narrow) == (2, 3, 12, 16, 128)


def test_decoding_with_heads_side_by_side_is_decoding(config, monkeypatch):
    """Prefill and steps of whole models, whose cache is as on TPU: the logits stay."""
    monkeypatch.setattr(kv_cache, "_NARROW", 0)
    cfg = dataclasses.replace(config, num_kv_heads=2, attention_kernel="plain")
    model, params = random_params(cfg)
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 90, (3, 9)), jnp.int32)

    def logits():
        every, key = jax.jit(lambda: decoded())()  # A function of its own: the platform is asked.
        return key.shape, every

    def decoded():
        cache = caches.empty(model, params, 3, 16)
        lengths = jnp.array([6, 4, 6], jnp.int32)
        _, cache = caches.apply(
            model, params, cache, tokens[:, :6], prefill=True, prefill_lengths=lengths
        )
        every = []
        for i in range(6, 9):
            step, cache = caches.apply(
                model, params, cache, tokens[:, i : i + 1], decode=True, cache_room=12
            )
            every.append(step)
        name = "cached_key_1" if "cached_key_1" in cache else "cached_key"
        return jnp.concatenate(every, axis=1), cache[name]

    shape, expected = logits()
    assert shape == (1, 3, 2, 16, 8)
    monkeypatch.setattr(kv_cache.kernels, "platform_in_use", lambda: "tpu")
    shape, got = logits()
    assert shape == (2, 3, 1, 16, 128)
    np.testing.assert_allclose(got, expected, atol=2e-5)
