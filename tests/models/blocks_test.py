"""Attention in blocks: the same as plain attention, in value and gradient, over less memory."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.models import blocks
from detox_jax.models.attention import KeyValues, attend, training_mask
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.training import step
from detox_jax.zero_shot import likelihood
from tests.conftest import random_params

LENGTH = 75  # No multiple of a block of 16.
SCORES = blocks.Scores(0.3, cap=2.0)


@pytest.mark.parametrize("shape", [{"data": 1}, {"fsdp": 4, "model": 2}], ids=str)
def test_blocks_of_a_masked_input_are_the_whole(shape, config, monkeypatch):
    """150 positions, no multiple of a block; windows in some layers; branches of a context."""
    wide = dataclasses.replace(
        config,
        num_heads=4,
        num_kv_heads=2,
        position_embedding="rotary",
        max_length=150,
        sliding_window=40,
        sliding_layers=(True, False) * (config.num_layers // 2),
        attention_softcap=5.0,
    )
    model, params = random_params(wide)
    rng = np.random.default_rng(0)
    tokens_BL = jnp.asarray(rng.integers(1, wide.vocab_size, (8, 150)))
    branches_BL = jnp.sort(jnp.asarray(rng.integers(0, 3, (8, 150))), axis=1)
    mask_BLM = likelihood.branch_mask(branches_BL)
    mesh = meshes.create_mesh(shape, jax.devices()[: math.prod(shape.values())])

    def run():
        with meshes.sharding_scope(mesh):
            apply = lambda params: model.apply(  # noqa: E731
                {"params": params}, tokens_BL, attention_mask=mask_BLM, enable_dropout=False
            )
            return jax.jit(apply)(params)

    asked = []
    chosen = blocks.in_blocks
    monkeypatch.setattr(blocks, "in_blocks", lambda *a: asked.append(a) or chosen(*a))
    in_blocks = run()
    assert asked
    monkeypatch.setattr(blocks, "reads_in_blocks", lambda *args: False)
    np.testing.assert_allclose(in_blocks, run(), atol=2e-5)


def _inputs(dtype):
    """Queries of four heads, keys and values of two; packed documents, a window, padding."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(3, LENGTH, heads, 8)), dtype) for heads in (4, 2, 2))
    segments = jnp.asarray(np.sort(rng.integers(0, 3, (3, LENGTH)), axis=1))
    index = jnp.arange(LENGTH)
    window = (index[:, None] - index[None, :] < 40)[None]
    return q, k, v, training_mask(LENGTH, segments, None) & window


def _attend(q, k, v, mask):
    return attend(q, [KeyValues(k.swapaxes(1, 2), v.swapaxes(1, 2), mask)], 0.3, cap=2.0)


def _attend_float64(q, k, v, mask):
    """The same, with nothing rounded to float32 on the way."""
    k, v = (jnp.repeat(x, 2, axis=2) for x in (k, v))
    scores = 2.0 * jnp.tanh(jnp.einsum("BLHK,BMHK->BHLM", q, k) * 0.3 / 2.0)
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e30), axis=-1)
    return jnp.einsum("BHLM,BMHK->BLHK", weights, v)


@pytest.mark.parametrize(
    ("dtype", "function", "atol"),
    [
        (jnp.bfloat16, _attend, 0.05),
        (jnp.float32, _attend, 5e-6),
        (jnp.float64, _attend_float64, 1e-13),
    ],
)
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_a_gradient_in_blocks_is_that_of_the_whole(monkeypatch, dtype, function, atol, at_once):
    """Of one row at a time, of two and then the third, and of all."""
    monkeypatch.setattr(blocks, "_GRADIENT_BLOCK", 16)
    monkeypatch.setattr(blocks, "_GRADIENT_SCORES", at_once * 4 * 16 * LENGTH)
    with jax.enable_x64(dtype == jnp.float64):
        *qkv, mask = _inputs(dtype)
        weights = jnp.cos(jnp.arange(qkv[0].size, dtype=float)).reshape(qkv[0].shape).astype(dtype)

        def gradients(attended):
            total = lambda *qkv: jnp.sum(attended(*qkv, mask) * weights)  # noqa: E731
            return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(*qkv)

        expected = gradients(function)
        got = gradients(lambda *a: blocks.with_gradient_in_blocks(function, SCORES, *a))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=atol, atol=atol), got, expected
        )
        assert all(x.dtype == dtype and jnp.abs(x).max() > 0.1 for x in got[1])


def test_what_is_only_read_keeps_its_bits():
    arrays = _inputs(jnp.float32)
    whole = jax.jit(_attend)(*arrays)
    read = jax.jit(lambda *a: blocks.with_gradient_in_blocks(_attend, SCORES, *a))(*arrays)
    np.testing.assert_array_equal(read, whole)


def test_the_setting_decides_and_by_default_the_devices(config):
    def decided(wanted, length, rows=1, heads=4):
        cfg = dataclasses.replace(config, attention_kernel=wanted, num_kv_heads=heads)
        return blocks.trains_in_blocks(cfg, rows, length)

    with meshes.sharding_scope(meshes.create_mesh({"data": 1}, jax.devices()[:1])):
        for wanted in ("auto", "blocks"):
            assert [decided(wanted, length) for length in (1, 2, 128, 2048)] == [0, 1, 1, 1]
        assert not decided("plain", 2048)
    with meshes.sharding_scope(meshes.create_mesh({"data": 4, "model": 2})):
        assert decided("auto", 512, rows=8) and not decided("auto", 512, rows=6)
    assert not decided("auto", 512)  # Eight devices, and no mesh that says how to split.


def _gradients(config, kernel, length, shape, remat="none"):
    """Loss and gradients of a packed batch, traced on a mesh, with its arguments."""
    cfg = dataclasses.replace(config, attention_kernel=kernel, max_length=length, remat=remat)
    model, params = random_params(cfg)
    tokens = jax.random.randint(jax.random.key(1), (8, length), 1, cfg.vocab_size)
    index = np.arange(length, dtype=np.int32)
    segments = jnp.broadcast_to(1 + np.int32(index >= length // 3), tokens.shape)
    positions = jnp.broadcast_to(index, tokens.shape)
    batch = dict.fromkeys(("decoder_input_tokens", "decoder_target_tokens"), tokens) | {
        "decoder_loss_weights": jnp.ones_like(tokens),
        "decoder_segment_ids": segments,
        "decoder_positions": positions,
    }
    mesh = meshes.create_mesh(shape, jax.devices()[: math.prod(shape.values())])
    batch = jax.device_put(batch, meshes.batch_sharding(mesh))
    with meshes.sharding_scope(mesh):
        params = jax.device_put(params, meshes.param_shardings(TransformerLM(cfg), mesh))
        loss = lambda params, batch: step.batch_loss(model, params, batch, None)[0]  # noqa: E731
        return jax.jit(jax.value_and_grad(loss)).lower(params, batch).compile(), (params, batch)


@pytest.mark.parametrize(
    ("shape", "remat"),
    [
        pytest.param({"data": 1}, "none", marks=pytest.mark.slow),
        ({"fsdp": 2, "model": 2}, "attention"),
    ],
    ids=str,
)
def test_a_model_trains_in_blocks_as_with_plain_attention(config, monkeypatch, shape, remat):
    monkeypatch.setattr(blocks, "_GRADIENT_BLOCK", 16)
    results = []
    for kernel in ("plain", "blocks"):
        compiled, arguments = _gradients(config, kernel, 40, shape, remat)
        results.append(compiled(*arguments))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-5), *results)


@pytest.mark.parametrize("scores", [1, blocks._GRADIENT_SCORES])
def test_no_square_of_scores_is_made_or_kept(config, monkeypatch, scores):
    monkeypatch.setattr(blocks, "_GRADIENT_SCORES", scores)

    def compiled(kernel):
        return _gradients(config, kernel, 512, {"data": 1})[0]

    plain, in_blocks = compiled("plain"), compiled("auto")
    square = re.compile(r"f32\[(\d+,)*512,512\]")
    assert square.search(plain.as_text()) and not square.search(in_blocks.as_text())
    temporaries = [x.memory_analysis().temp_size_in_bytes for x in (plain, in_blocks)]
    assert temporaries[1] < 0.5 * temporaries[0]
