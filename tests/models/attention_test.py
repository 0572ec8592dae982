"""Attention as functions: against plain loops, in parts, at low precision; masks and the cache."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.generation import caches
from detox_jax.models import attention
from detox_jax.models.adaptation import AdapterConfig, LoRAConfig
from detox_jax.models.attention import KeyValues
from detox_jax.parallel import mesh as meshes
from tests.conftest import random_params

B, L, H, G, K = 2, 5, 6, 2, 4


def _inputs(length, seed=0):
    """Queries, keys, values, and a mask in which every query sees something."""
    rng = np.random.default_rng(seed)
    q, k, v = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((B, L, H, K), (B, G, length, K), (B, G, length, K))
    )
    mask = rng.random((B, L, length)) < 0.6
    mask[..., 0] = True
    return q, k, v, mask


def _by_loops(q, k, v, mask, scale, cap=None):
    out = np.zeros(q.shape)
    for b, i, h in np.ndindex(B, L, H):
        group = h // (H // G)  # Neighbouring query heads share keys and values.
        scores = k[b, group].astype(np.float64) @ q[b, i, h] * scale
        scores = scores if cap is None else cap * np.tanh(scores / cap)
        weights = np.where(mask[b, i], np.exp(scores - scores.max()), 0)
        out[b, i, h] = weights / weights.sum() @ v[b, group]
    return out


@pytest.mark.parametrize(("scale", "cap"), [(None, None), (0.3, 2.0)])
def test_attention_equals_loops_over_heads_and_positions(scale, cap):
    q, k, v, mask = _inputs(7)
    got = attention.attend(q, [KeyValues(k, v, mask)], scale, cap)
    expected = _by_loops(q, k, v, mask, K**-0.5 if scale is None else scale, cap)
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_parts_together_are_the_whole(cut):
    """The cache and the new position: one softmax over both."""
    q, k, v, mask = _inputs(7)
    parts = [
        KeyValues(k[:, :, part], v[:, :, part], mask[..., part])
        for part in (slice(0, cut), slice(cut, None))
    ]
    whole = attention.attend(q, [KeyValues(k, v, mask)])
    np.testing.assert_allclose(attention.attend(q, parts), whole, atol=1e-6)


def test_what_a_query_does_not_see_changes_nothing():
    q, k, v, mask = _inputs(7)
    mask[..., 4] = False
    expected = attention.attend(q, [KeyValues(k, v, mask)])
    k[:, :, 4], v[:, :, 4] = 1e4, -1e4
    np.testing.assert_array_equal(attention.attend(q, [KeyValues(k, v, mask)]), expected)


def test_scores_are_in_float32_for_inputs_of_few_bits():
    """Scores of about 300, which bfloat16 knows to the nearest 2: weights would be off by e."""
    q, k, v, mask = (jnp.asarray(x) for x in _inputs(64, seed=1))
    q, k, v = ((x * by).astype(jnp.bfloat16) for x, by in ((q, 8.0), (k, 24.0), (v, 1.0)))
    got = attention.attend(q, [KeyValues(k, v, mask)])
    assert got.dtype == jnp.bfloat16
    expected = _by_loops(*(np.asarray(x, np.float32) for x in (q, k, v)), mask, K**-0.5)
    np.testing.assert_allclose(np.asarray(got, np.float32), expected, atol=0.03)


# --- who sees whom ----------------------------------------------------------------------------


def test_the_mask_of_a_packed_prefix_language_model_by_hand():
    """Inputs of two documents see each other both ways, but no other document's."""
    segments = jnp.array([[1, 1, 1, 2, 2, 0]])
    both_ways = jnp.array([[1, 1, 0, 1, 1, 0]])
    mask = attention.training_mask(6, segments, both_ways)
    assert mask.astype(int).tolist() == [
        [
            [1, 1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [0, 0, 0, 1, 1, 0],
            [0, 0, 0, 1, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ]
    ]


def test_the_plain_mask_is_one_triangle_for_all_rows():
    mask = attention.training_mask(4, None, None)
    np.testing.assert_array_equal(mask, np.tril(np.ones((1, 4, 4), bool)))


def test_windows_are_data_of_the_layers(config):
    assert attention.layer_data(config) == attention.LayerData()
    cfg = dataclasses.replace(config, sliding_window=5)
    assert attention.layer_data(cfg).window.tolist() == [5, 5]
    cfg = dataclasses.replace(cfg, sliding_layers=(False, True), position_embedding="rotary")
    data = attention.layer_data(cfg)
    assert data.window[1] == 5 and data.window[0] > 10**6
    assert data.frequency_K.shape == (2, cfg.head_size // 2)


# --- the cache --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_position_goes_to_each_rows_own_place_and_nowhere_else(dtype):
    rng = np.random.default_rng(0)
    layers, index = 3, np.array([4, 0])
    cache = jnp.asarray(rng.normal(size=(layers, B, G, 6, K)), dtype)
    new = jnp.asarray(rng.normal(size=(layers, B, 1, G, K)), jnp.float32)
    got = jax.jit(attention.extend_cache)(cache, new, index)
    expected = np.array(cache)
    for row, place in enumerate(index):
        expected[:, row, :, place] = new[:, row, 0].astype(dtype)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("width", "per_place"), [(8, 2), (4, 1), (9, 2), (5, 1)])
def test_heads_side_by_side_are_heads(width, per_place):
    """The keys and values of a cache, several heads in the last axis, or zeros behind them."""
    q, k, v, mask = _inputs(7)
    side_by_side = [
        attention.to_cache(jnp.asarray(x).swapaxes(1, 2)[None], (1, B, G // per_place, 7, width))[0]
        for x in (k[:, :, :6], v[:, :, :6])
    ]
    assert side_by_side[0].shape == (B, G // per_place, 6, width)
    parts = [
        KeyValues(*side_by_side, mask[..., :6]),
        KeyValues(k[:, :, 6:], v[:, :, 6:], mask[..., 6:]),
    ]
    expected = _by_loops(q, k, v, mask, K**-0.5)
    np.testing.assert_allclose(attention.attend(q, parts), expected, atol=2e-6)


@pytest.mark.parametrize(("queries", "room"), [(L, None), (L, 6), (1, 4)])
def test_a_layer_s_cache_is_read_alike_in_an_array_of_all_and_in_its_own(queries, room):
    """Each of three layers, of which only the first positions may be read."""
    of_layers = [_inputs(7, seed)[1:3] for seed in range(3)]
    q, _, _, mask = _inputs(7, seed=9)
    q, mask = q[:, :queries], mask[:, :queries, :room]

    @jax.jit
    def read(keys, values, number):
        keys, values = (attention.OfLayer(a, number, room) for a in (keys, values))
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
        shapes = attention.cache_shapes(dataclasses.replace(config, **fields), B=3, M=16)
        assert len({*shapes}) == 1
        return len(shapes) * shapes[0][0], *shapes[0][1:]

    narrow = {"num_heads": 12, "num_kv_heads": 12, "head_dim": 64}
    assert shape(**narrow) == (2, 3, 12, 16, 64)
    monkeypatch.setattr(attention.kernels, "platform_in_use", lambda: "tpu")
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
    monkeypatch.setattr(attention, "_NARROW", 0)
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
    monkeypatch.setattr(attention.kernels, "platform_in_use", lambda: "tpu")
    shape, got = logits()
    assert shape == (2, 3, 1, 16, 128)
    np.testing.assert_allclose(got, expected, atol=2e-5)


# --- LoRA -------------------------------------------------------------------------------------


def test_lora_is_on_the_modules_that_it_names():
    lora = LoRAConfig(2, target_modules=("query", "value"))
    assert attention.lora_for("query", lora) is lora
    assert attention.lora_for("key", lora) is None
    assert attention.lora_for("query", AdapterConfig(4)) is None
    assert attention.lora_for("query", None) is None
