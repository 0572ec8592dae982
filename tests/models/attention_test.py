"""Attention as functions: against plain loops, in parts, at low precision; its masks."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.models import attention
from detox_jax.models.adaptation import AdapterConfig, LoRAConfig
from detox_jax.models.attention import KeyValues

B, L, H, G, K = 2, 5, 6, 2, 4


def inputs(length, seed=0):
    """Queries, keys, values, and a mask in which every query sees something."""
    rng = np.random.default_rng(seed)
    q, k, v = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((B, L, H, K), (B, G, length, K), (B, G, length, K))
    )
    mask = rng.random((B, L, length)) < 0.6
    mask[..., 0] = True
    return q, k, v, mask


def by_loops(q, k, v, mask, scale, cap=None):
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
    q, k, v, mask = inputs(7)
    got = attention.attend(q, [KeyValues(k, v, mask)], scale, cap)
    expected = by_loops(q, k, v, mask, K**-0.5 if scale is None else scale, cap)
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_parts_together_are_the_whole(cut):
    """The cache and the new position: one softmax over both."""
    q, k, v, mask = inputs(7)
    parts = [
        KeyValues(k[:, :, part], v[:, :, part], mask[..., part])
        for part in (slice(0, cut), slice(cut, None))
    ]
    whole = attention.attend(q, [KeyValues(k, v, mask)])
    np.testing.assert_allclose(attention.attend(q, parts), whole, atol=1e-6)


def test_what_a_query_does_not_see_changes_nothing():
    q, k, v, mask = inputs(7)
    mask[..., 4] = False
    expected = attention.attend(q, [KeyValues(k, v, mask)])
    k[:, :, 4], v[:, :, 4] = 1e4, -1e4
    np.testing.assert_array_equal(attention.attend(q, [KeyValues(k, v, mask)]), expected)


def test_scores_are_in_float32_for_inputs_of_few_bits():
    """Scores of about 300, which bfloat16 knows to the nearest 2: weights would be off by e."""
    q, k, v, mask = (jnp.asarray(x) for x in inputs(64, seed=1))
    q, k, v = ((x * by).astype(jnp.bfloat16) for x, by in ((q, 8.0), (k, 24.0), (v, 1.0)))
    got = attention.attend(q, [KeyValues(k, v, mask)])
    assert got.dtype == jnp.bfloat16
    expected = by_loops(*(np.asarray(x, np.float32) for x in (q, k, v)), mask, K**-0.5)
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


# --- LoRA -------------------------------------------------------------------------------------


def test_lora_is_on_the_modules_that_it_names():
    lora = LoRAConfig(2, target_modules=("query", "value"))
    assert attention.lora_for("query", lora) is lora
    assert attention.lora_for("key", lora) is None
    assert attention.lora_for("query", AdapterConfig(4)) is None
    assert attention.lora_for("query", None) is None
