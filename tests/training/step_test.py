"""The training step: one for every adaptation, sharded as unsharded, frozen bits untouched."""

import dataclasses
import functools
import itertools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from detox_jax.checkpoints import params as params_lib
from detox_jax.models import adaptation as adaptations
from detox_jax.models import kernels
from detox_jax.models.adaptation import AdapterConfig, LoRAConfig, LoReFTConfig, PrefixConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.training import step as steps
from detox_jax.training.optimizer import AdamW
from tests.conftest import random_params
from tests.marks import slow_but

ADAPTATIONS = [None, AdapterConfig(8), LoRAConfig(4), PrefixConfig(4)]
MESHES = [
    {"data": 8},
    {"fsdp": 8},
    {"model": 4, "data": 2},
    {"data": 2, "fsdp": 2, "model": 2},
    {"fsdp": 4, "model": 2},
]


def make_batch(config, seed=0, rows=8, length=24):
    """Two documents a row and some padding, as packing makes them."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(1, config.vocab_size, (rows, length)).astype(np.int32)
    segments = np.concatenate([np.full(10, 1), np.full(11, 2), np.zeros(3)]).astype(np.int32)
    positions = np.concatenate([np.arange(10), np.arange(11), np.zeros(3)]).astype(np.int32)
    targets[:, segments == 0] = 0
    inputs = np.roll(targets, 1, axis=1)
    inputs[:, positions == 0] = 1
    weights = (targets > 0).astype(np.int32)
    for row in range(rows):  # Rows of different numbers of tokens: a mean of means is not the mean.
        weights[row, : 2 * row] = 0
    return {
        "decoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": weights,
        "decoder_segment_ids": np.broadcast_to(segments, targets.shape),
        "decoder_positions": np.broadcast_to(positions, targets.shape),
    }


def run_steps(config, adaptation, mesh, num_steps=3, optimizer=None, accumulation_steps=1):
    """Losses, the trained and the frozen parameters after some steps on a mesh."""
    model, params = random_params(config, adaptation)
    params = jax.device_put(params, meshes.param_shardings(model, mesh))
    trained, frozen = params_lib.partition(params, adaptations.trainable_pattern(adaptation))
    transformation = (optimizer or AdamW(learning_rate=1e-2)).transformation(num_steps)
    state = steps.create_state(trained, mesh, transformation)
    step = steps.jit_train_step(model, transformation, 0, accumulation_steps=accumulation_steps)
    losses = []
    with meshes.sharding_scope(mesh):
        for i in range(num_steps):
            batch = jax.device_put(make_batch(config, seed=i), meshes.batch_sharding(mesh))
            state, metrics = step(state, frozen, batch)
            losses.append(float(metrics["loss"]))
    return losses, state, frozen


@pytest.mark.parametrize("shape", slow_but(MESHES[2:], MESHES), ids=str)
def test_sharded_losses_equal_unsharded(config, one_device_mesh, shape):
    expected, _, _ = _one_device_run(config, one_device_mesh)
    losses, state, _ = run_steps(config, None, meshes.create_mesh(shape))
    np.testing.assert_allclose(losses, expected, rtol=2e-6)
    kernel = state.params["layers"]["mlp"]["wi"]["kernel"]
    parts = shape.get("fsdp", 1) * shape.get("model", 1)
    assert kernel.addressable_shards[0].data.size * parts == kernel.size
    assert len({str(s.index) for s in kernel.addressable_shards}) == parts


@pytest.mark.slow
def test_every_mesh_of_eight_devices_computes_the_same(config, one_device_mesh):
    cfg = dataclasses.replace(config, num_heads=8, num_kv_heads=8, head_dim=4)
    expected, reference, _ = run_steps(cfg, None, one_device_mesh)
    sizes = [s for s in itertools.product((1, 2, 4, 8), repeat=3) if math.prod(s) == 8]
    assert len(sizes) == 10
    for size in sizes:
        mesh = meshes.create_mesh(dict(zip(meshes.AXES, size, strict=True)))
        losses, state, _ = run_steps(cfg, None, mesh)
        print(dict(mesh.shape), max(abs(np.divide(losses, expected) - 1)))
        np.testing.assert_allclose(losses, expected, rtol=2e-6)
        for path, leaf in traverse_util.flatten_dict(state.params).items():
            other = traverse_util.flatten_dict(reference.params)[path]
            np.testing.assert_allclose(leaf, other, atol=2e-3, err_msg=str(path))


def test_parts_of_a_batch_train_as_the_large_batch(config, one_device_mesh):
    expected, _, _ = _one_device_run(config, one_device_mesh)
    losses, _, _ = run_steps(config, None, one_device_mesh, accumulation_steps=4)
    np.testing.assert_allclose(losses, expected, rtol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adaptation", "shape", "parts"),
    [
        (LoRAConfig(4), {"data": 2, "fsdp": 2, "model": 2}, 2),
        (LoReFTConfig(4), {"data": 2, "fsdp": 2, "model": 2}, 2),
        (None, {"data": 1}, 4),
    ],
    ids=["lora on a mesh", "loreft on a mesh", "whole"],
)
def test_accumulated_gradients_are_those_of_the_large_batch(config, adaptation, shape, parts):
    mesh = meshes.create_mesh(shape, jax.devices()[: math.prod(shape.values())])
    model, params = random_params(config, adaptation)
    params = jax.device_put(params, meshes.param_shardings(model, mesh))
    trained, frozen = params_lib.partition(params, adaptations.trainable_pattern(adaptation))
    batch = jax.device_put(make_batch(config), meshes.batch_sharding(mesh))
    optimizer = optax.sgd(1.0)  # The change of a parameter is its gradient.

    def run(accumulation_steps):
        state = steps.create_state(jax.tree.map(jnp.copy, trained), mesh, optimizer)
        step = steps.jit_train_step(model, optimizer, 0, accumulation_steps=accumulation_steps)
        with meshes.sharding_scope(mesh):
            state, metrics = step(state, frozen, batch)
        return metrics, jax.tree.map(lambda a, b: a - b, trained, state.params)

    (expected, gradients), (metrics, accumulated) = run(1), run(parts)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-6, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), accumulated, gradients
    )
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradients)) > 1e-2


@pytest.mark.slow
def test_parts_of_a_batch_draw_their_own_dropout(config, one_device_mesh):
    """Two rows that are alike get two masks, as in a large batch."""
    cfg = dataclasses.replace(config, dropout_rate=0.5)
    model, params = random_params(cfg)
    row = jax.tree.map(lambda x: np.repeat(x[:1], 2, axis=0), make_batch(cfg))
    optimizer = optax.sgd(0.0)
    losses = []
    for parts in (1, 2):
        state = steps.create_state(jax.tree.map(jnp.copy, params), one_device_mesh, optimizer)
        _, metrics = steps.jit_train_step(model, optimizer, 0, accumulation_steps=parts)(
            state, {}, row
        )
        losses.append(float(metrics["loss"]))
    one = jax.tree.map(lambda x: x[:1], row)
    state = steps.create_state(jax.tree.map(jnp.copy, params), one_device_mesh, optimizer)
    _, metrics = steps.jit_train_step(model, optimizer, 0)(state, {}, one)
    assert len({*losses, float(metrics["loss"])}) == 3


@functools.cache
def _one_device_run(config, mesh):
    return run_steps(config, None, mesh)


@pytest.mark.parametrize("adaptation", ADAPTATIONS, ids=lambda a: type(a).__name__)
def test_frozen_bits_stay_and_have_no_optimizer_state(config, one_device_mesh, adaptation):
    model, before = random_params(config, adaptation)
    losses, state, frozen = run_steps(config, adaptation, one_device_mesh, num_steps=4)
    pattern = adaptations.trainable_pattern(adaptation)
    trained_before, frozen_before = params_lib.partition(before, pattern)
    jax.tree.map(np.testing.assert_array_equal, frozen, frozen_before)
    assert jax.tree.structure(frozen) == jax.tree.structure(frozen_before)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), state.params, trained_before)
    assert all(jax.tree.leaves(moved))
    moments = params_lib.count(state.params) * 2
    scalars = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim == 0)
    assert sum(x.size for x in jax.tree.leaves(state.opt_state)) == moments + scalars


def _compiled(config, adaptation, mesh, length=24):
    """A training step, compiled as `train` does, and not run."""
    model, params = random_params(config, adaptation)
    params = jax.device_put(params, meshes.param_shardings(model, mesh))
    trained, frozen = params_lib.partition(params, adaptations.trainable_pattern(adaptation))
    transformation = AdamW().transformation(1)
    state = steps.create_state(trained, mesh, transformation)
    batch = jax.device_put(make_batch(config, length=length), meshes.batch_sharding(mesh))
    step: Any = steps.jit_train_step(model, transformation, 0)
    with meshes.sharding_scope(mesh):
        return step.lower(state, frozen, batch).compile()


@pytest.mark.parametrize(
    "adaptation", slow_but([LoRAConfig(4)], [AdapterConfig(8), LoRAConfig(4)]), ids=str
)
def test_frozen_weights_have_no_gradient_and_are_not_kept_twice(
    config, one_device_mesh, adaptation
):
    """Nothing of the size of all layers' MLP is made, nor of the embedding."""
    cfg = dataclasses.replace(config, mlp_dim=88, vocab_size=300)
    frozen = f"{cfg.num_layers},{cfg.emb_dim},88]", f"f32[{cfg.padded_vocab_size},{cfg.emb_dim}]"
    # What neither computes nor copies.
    passed = {"parameter", "get-tuple-element", "bitcast"}

    def made(adaptation):
        lines = _compiled(cfg, adaptation, one_device_mesh).as_text().splitlines()
        results = [re.match(r"\s*(?:ROOT )?%\S+ = (f32\S+)\{\S* ([\w-]+)\(", x) for x in lines]
        return {
            match[2]
            for match in results
            if match and any(match[1].endswith(shape) for shape in frozen)
        } - passed

    assert made(None) and not made(adaptation)


def test_on_cpu_what_lies_between_products_is_not_kept(config, one_device_mesh, monkeypatch):
    cfg = dataclasses.replace(config, num_layers=6, mlp_dim=256, norm="layernorm")
    ours = _compiled(cfg, None, one_device_mesh).memory_analysis()
    monkeypatch.setattr(kernels, "platform_in_use", lambda: "gpu")
    elsewhere = _compiled(cfg, None, one_device_mesh).memory_analysis()
    assert ours.temp_size_in_bytes < 0.6 * elsewhere.temp_size_in_bytes


def test_learns_a_batch_by_heart(config, one_device_mesh):
    model, params = random_params(config)
    transformation = AdamW(learning_rate=1e-2, weight_decay=0.0).transformation(60)
    state = steps.create_state(
        jax.device_put(params, meshes.param_shardings(model, one_device_mesh)),
        one_device_mesh,
        transformation,
    )
    step = steps.jit_train_step(model, transformation, seed=0)
    batch = make_batch(config)
    losses = []
    for _ in range(60):
        state, metrics = step(state, {}, batch)
        losses.append(float(metrics["loss"]))
    assert losses[0] > 4 and losses[-1] < 1


def test_loss_is_the_mean_over_weighted_targets(config):
    model, params = random_params(config)
    batch = make_batch(config)
    total, tokens = jax.jit(functools.partial(steps.batch_loss, model))(params, batch, None)
    logits = jax.jit(
        lambda p: model.apply(
            {"params": p},
            batch["decoder_input_tokens"],
            decoder_segment_ids=batch["decoder_segment_ids"],
            decoder_positions=batch["decoder_positions"],
            enable_dropout=False,
        )
    )(params)
    log_probs = np.asarray(jax.nn.log_softmax(logits), np.float64)
    by_hand = 0.0
    for row in range(8):
        for i in range(21):  # 24 positions, of which 3 are padding.
            weight = batch["decoder_loss_weights"][row, i]
            by_hand -= weight * log_probs[row, i, batch["decoder_target_tokens"][row, i]]
    assert float(tokens) == 8 * 21 - sum(range(0, 16, 2))
    assert float(total) == pytest.approx(by_hand, rel=1e-5)


def test_created_sharded_over_the_mesh(config):
    """Every device makes its own part of each parameter, and nothing larger on the way."""
    mesh = meshes.create_mesh({"fsdp": 4, "model": 2})
    model = TransformerLM(dataclasses.replace(config, emb_dim=128, mlp_dim=512))
    state = steps.init_trainable(model, mesh, AdamW().transformation(1), seed=0)
    moments = optax.tree.get(state.opt_state, "mu")
    full = held = 0
    for leaf, moment in zip(*map(jax.tree.leaves, (state.params, moments)), strict=True):
        part = leaf.addressable_shards[0].data
        assert moment.sharding == leaf.sharding
        full, held = full + leaf.nbytes, held + part.nbytes
        if leaf.size > 10_000:  # Of the matrices of the layers, an eighth.
            assert part.size * 8 == leaf.size
    assert held < full / 7
    with meshes.sharding_scope(mesh):
        compiled = steps.jit_init(model, mesh, 0).lower().compile()
    memory: Any = compiled.memory_analysis()
    assert memory.output_size_in_bytes < full / 7
    # Not even the largest parameter is whole on the way.
    assert memory.temp_size_in_bytes < max(leaf.nbytes for leaf in jax.tree.leaves(state.params))


def test_initialisation_does_not_depend_on_the_mesh(config, one_device_mesh):
    optimizer = AdamW().transformation(1)
    model = TransformerLM(config)
    states = [
        steps.init_trainable(model, mesh, optimizer, seed=3)
        for mesh in (one_device_mesh, meshes.create_mesh({"fsdp": 4, "model": 2}))
    ]
    jax.tree.map(np.testing.assert_array_equal, states[0].params, states[1].params)


def test_step_counts_and_reports(config, one_device_mesh):
    _, state, _ = run_steps(config, None, one_device_mesh, num_steps=2)
    assert int(state.step) == 2 and state.step.dtype == jnp.int32


def test_an_update_is_written_over_what_it_reads(config, one_device_mesh):
    """Nothing of the size of all layers' MLP is copied."""
    cfg = dataclasses.replace(config, mlp_dim=88)
    shape = f"f32[{cfg.num_layers},{cfg.emb_dim},88]"
    lines = _compiled(cfg, None, one_device_mesh).as_text().splitlines()
    made = [re.match(r"\s*(?:ROOT )?%\S+ = (f32\S+)\{\S* ([\w-]+)\(", line) for line in lines]
    operations = {match[2] for match in made if match and match[1] == shape}
    assert "fusion" in operations and "copy" not in operations


def test_good_steps_are_what_they_were_without_the_choice(config, one_device_mesh):
    """What a step computes does not depend on whether a bad one would have been left out."""
    config = dataclasses.replace(config, dropout_rate=0.0)
    model, params = random_params(config)
    optimizer = AdamW(learning_rate=1e-2).transformation(4)
    batch = make_batch(config)
    states = {}
    for name, loss in {"plain": steps.batch_loss, "never finite": _nan_loss}.items():
        state = steps.create_state(jax.tree.map(jnp.array, params), one_device_mesh, optimizer)
        train = steps.jit_train_step(model, optimizer, 0, loss)
        state, metrics = train(state, {}, batch)
        states[name] = state
        assert np.isfinite(metrics["loss"]) == (name == "plain")
    # The same update by hand, in one program without the choice.
    start = steps.create_state(jax.tree.map(jnp.array, params), one_device_mesh, optimizer)

    @jax.jit
    def unguarded(state):
        def loss_fn(trainable):
            return steps.batch_loss(model, trainable, batch, None)

        (_, weight), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        scale = 1 / jnp.maximum(weight, 1.0)
        gradients = jax.tree.map(lambda x: (x * scale).astype(x.dtype), gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state

    expected = unguarded(start)
    found = states["plain"].params, states["plain"].opt_state
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-7), found, expected)
    skipped = states["never finite"]
    assert int(skipped.step) == 1
    jax.tree.map(np.testing.assert_array_equal, skipped.params, params)
    jax.tree.map(np.testing.assert_array_equal, skipped.opt_state, optimizer.init(params))


def _nan_loss(model, params, batch, key):
    total, weight = steps.batch_loss(model, params, batch, key)
    return total * jnp.nan, weight
