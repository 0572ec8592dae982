"""Analytic FLOPs against XLA's own count, on models whose layers are not in a loop."""

import dataclasses

import jax
import numpy as np
import pytest

from detox_jax.generation.sampling import Greedy
from detox_jax.models.adaptation import (
    AdapterConfig,
    LoRAConfig,
    LoReFTConfig,
    ParallelAdapterConfig,
    PrefixConfig,
)
from detox_jax.models.config import TransformerConfig
from detox_jax.planning import flops, programs
from detox_jax.training.optimizer import AdamW

# Wide enough that what is no matrix product hardly counts.
CONFIG = TransformerConfig(
    vocab_size=500, emb_dim=128, num_heads=2, num_layers=2, mlp_dim=512, max_length=64
)


@pytest.fixture
def unscanned(monkeypatch):
    """XLA counts the body of a loop once, so that the layers must not be in one."""
    scan = jax.lax.scan
    monkeypatch.setattr(jax.lax, "scan", lambda *args, **kw: scan(*args, **{**kw, "unroll": True}))


def xla_flops(program):
    return program.traced.lower().cost_analysis()["flops"]


def xla_flops_of_training(config, adaptation, mesh):
    model = programs.Model(config, adaptation, "float32")
    return xla_flops(
        programs.train_step(model, AdamW(), mesh, batch_size=8, length=64, total_steps=1)
    )


@pytest.mark.parametrize(
    ("adaptation", "remat"),
    [
        (None, "none"),
        (None, "full"),
        (None, "dots_all"),
        (None, "attention"),
        (AdapterConfig(32), "full"),
        (LoRAConfig(16, target_modules=("query", "wi")), "dots"),
        (PrefixConfig(16), "none"),
        (ParallelAdapterConfig(32), "dots"),
        (AdapterConfig(0.25), "none"),
    ],
    ids=str,
)
def test_a_training_step(unscanned, one_device_mesh, adaptation, remat):
    config = dataclasses.replace(CONFIG, remat=remat)
    counted = flops.computed_train_step(config, adaptation, tokens=512, length=64)
    found = xla_flops_of_training(config, adaptation, one_device_mesh)
    assert found == pytest.approx(counted, rel=0.06)
    without = flops.train_step(config, adaptation, tokens=512, length=64)
    assert without < (0.85 if remat == "full" else 1) * counted


def test_chunked_logits_are_made_once(unscanned, one_device_mesh):
    config = dataclasses.replace(CONFIG, logits_chunk=32)
    counted = flops.computed_train_step(config, None, tokens=512, length=64)
    found = xla_flops_of_training(config, None, one_device_mesh)
    assert found == pytest.approx(counted, rel=0.06)


def test_a_kernel_skips_hidden_blocks_and_makes_scores_again():
    """Of 2048 positions in blocks of 512: ten blocks of sixteen, nine products for plain's six."""
    config = dataclasses.replace(CONFIG, max_length=2048)
    plain, kernel = (
        flops.computed_train_step(config, None, tokens=1, length=2048, kernel=kernel)
        for kernel in (False, True)
    )
    scores = 2 * 2 * config.emb_dim * 2048 * config.num_layers
    assert plain - kernel == pytest.approx(scores * (3 - 4.5 * 10 / 16))
    for remat, again in (("dots_all", 0), ("dots", 0), ("attention", 0), ("full", 1)):
        config = dataclasses.replace(config, remat=remat)
        longer, shorter = (
            flops.computed_train_step(config, None, tokens=1, length=length, kernel=True)
            for length in (2048, 1024)
        )
        # What grows with the length is attention: ten blocks of sixteen, three of four.
        grown = 2 * 2 * config.emb_dim * (2048 * 10 / 16 - 1024 * 3 / 4) * config.num_layers
        assert longer - shorter == pytest.approx(grown * (4.5 + again))


def test_a_sliding_layer_needs_its_window_alone():
    """Of 2048 positions and a window of 128: 1 + 2 + ... + 127 and 1921 times 128, for 1024.5."""
    config = dataclasses.replace(CONFIG, max_length=2048)
    all_slide = dataclasses.replace(config, sliding_window=128)
    one_slides = dataclasses.replace(all_slide, sliding_layers=(True, False))
    full, all_of, one_of = (
        flops.train_step(each, None, tokens=1, length=2048)
        for each in (config, all_slide, one_slides)
    )
    saved = 1024.5 - (127 * 128 / 2 + 1921 * 128) / 2048
    assert full - all_of == pytest.approx(3 * 4 * config.emb_dim * saved * 2)
    assert full - one_of == pytest.approx(3 * 4 * config.emb_dim * saved)
    # A window as long as the row hides nothing, and plain attention computes what one hides.
    wide = dataclasses.replace(config, sliding_window=2048)
    assert flops.train_step(wide, None, tokens=1, length=2048) == pytest.approx(full)
    computed = [
        flops.computed_train_step(each, None, tokens=1, length=2048) for each in (config, all_slide)
    ]
    assert computed[0] == computed[1]


@pytest.mark.parametrize(
    ("length", "window", "block"),
    [
        (2048, None, 512),
        (2048, 128, 512),
        (2048, 513, 512),
        (2048, 514, 512),
        (2048, 4096, 512),
        (1000, None, 512),
        (1152, 300, 128),
        (100, 1, 128),
    ],
)
def test_a_kernel_computes_every_block_in_which_anything_is_seen(length, window, block):
    padded = -(-length // 128) * 128
    query, key = np.arange(padded)[:, None], np.arange(padded)
    seen = (key <= query) & (query - key < (window or padded))
    blocks = seen.reshape(padded // block, block, padded // block, block).any(axis=(1, 3))
    config = dataclasses.replace(CONFIG, max_length=2048, sliding_window=window, remat="none")
    kernel, plain = (
        flops.computed_train_step(config, None, tokens=length, length=length, kernel=is_kernel)
        for is_kernel in (True, False)
    )
    scores = 4 * config.emb_dim * config.num_layers
    expected = scores * (4.5 * blocks.sum() * block**2 - 3 * length**2)
    assert kernel - plain == pytest.approx(expected)


def test_a_prefill_and_a_decoding_step(unscanned, one_device_mesh):
    """XLA's count of both: the loop over new tokens is counted once.

    Nobody reads what the last layer of a prefill returns beside keys and values. Where layers are
    not in a loop, as here alone, JAX 0.12 leaves that out.
    """
    program = programs.decode(
        programs.Model(CONFIG, None, "float32"),
        Greedy(),
        one_device_mesh,
        num_rows=4,
        prompt_length=32,
        num_samples=16,
        max_new_tokens=16,
    )
    prefill = flops.prefill(CONFIG, None, rows=4, length=32)
    step = flops.decode_step(CONFIG, None, rows=64, context=48)
    counted = prefill + step
    keys_and_values = 2 * 2 * CONFIG.emb_dim * CONFIG.kv_heads * CONFIG.head_size
    unread = prefill / CONFIG.num_layers - 4 * 32 * keys_and_values
    found = xla_flops(program)
    as_counted = abs(found - counted) <= 0.06 * counted
    assert as_counted or abs(found - (counted - unread)) <= 0.07 * counted


def test_six_operations_a_parameter_and_token():
    """The rule of thumb, for a wide model and short rows."""
    config = TransformerConfig(
        vocab_size=500, emb_dim=4096, num_heads=32, num_layers=40, mlp_dim=16384
    )
    counted = flops.train_step(config, None, tokens=1, length=2)
    parameters = 40 * 12 * 4096**2 + config.padded_vocab_size * 4096
    assert counted == pytest.approx(6 * parameters, rel=1e-3)


def test_loreft_is_two_products_with_its_rank():
    added = flops.layer(CONFIG, LoReFTConfig(4), 8).adaptation
    assert added == 2 * 2 * CONFIG.emb_dim * 4
