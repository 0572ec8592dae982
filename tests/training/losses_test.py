"""Losses over chunks of logits: the same loss and gradients, without the logits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from detox_jax.models import kernels, transformer
from detox_jax.models.transformer import TransformerLM, logits_in_chunks, output_logits
from detox_jax.parallel import mesh as meshes
from detox_jax.planning import collectives, hlo
from detox_jax.training import losses
from tests.conftest import random_params


def _arrays(config):
    """Targets with padding in some rows, and the inputs before them."""
    rng = np.random.default_rng(0)
    targets = rng.integers(1, config.vocab_size, (3, 24)).astype(np.int32)
    targets[0, 20:] = targets[2, 5:] = 0
    return np.roll(targets, 1, axis=1), targets, (targets > 0).astype(np.int32)


@pytest.mark.parametrize("chunk", [8, 7])
def test_chunks_change_neither_loss_nor_gradients(config, chunk):
    cfg = dataclasses.replace(config, logits_softcap=3.0)
    rng = np.random.default_rng(1)
    x_BLD = rng.normal(size=(3, 24, 32)).astype(np.float32)
    table_VD = rng.normal(size=(cfg.padded_vocab_size, 32)).astype(np.float32)
    _, targets, weights = _arrays(cfg)

    def whole(x_BLD, table_VD):
        return losses.cross_entropy(output_logits(cfg, table_VD, x_BLD), targets, weights)

    def chunked(x_BLD, table_VD):
        logits_of = functools.partial(output_logits, cfg, table_VD)
        return losses.chunked_cross_entropy(logits_of, x_BLD, targets, weights, chunk)

    def run(loss):
        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x_BLD, table_VD)

    expected, got = run(whole), run(chunked)
    assert float(got[0][1]) == 3 * 24 - 4 - 19
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)
    assert all(float(jnp.abs(gradient).max()) > 0.1 for gradient in got[1])


def _loss_and_gradients(cfg, chunk=None):
    """Of a random model."""
    model, params = random_params(cfg)
    inputs, targets, weights = _arrays(cfg)

    def loss(params):
        return losses.next_token_loss(
            model, params, inputs, targets, weights, chunk=chunk, enable_dropout=False
        )[0]

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("tied", [True, False])
def test_blocks_of_the_vocabulary_change_neither_loss_nor_gradients(config, tied, monkeypatch):
    """On one CPU in float32, where the table is large; else it stays whole, or split by devices."""
    cfg = dataclasses.replace(config, logits_softcap=3.0, logits_via_embedding=tied)
    expected = _loss_and_gradients(cfg)
    sizes, output_logits = [], transformer.output_logits

    def spy(cfg, table_VD, *rest):
        sizes.append(len(table_VD))
        return output_logits(cfg, table_VD, *rest)

    monkeypatch.setattr(transformer, "output_logits", spy)
    monkeypatch.setattr(transformer, "_NUMBERS_OF_BLOCK", cfg.padded_vocab_size * cfg.emb_dim // 3)
    got = _loss_and_gradients(cfg, chunk=8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)
    assert len(set(sizes)) <= 2 and sum(sizes) % cfg.padded_vocab_size == 0
    assert max(sizes) == -(-cfg.padded_vocab_size // 3)
    sizes.clear()
    with meshes.sharding_scope(meshes.create_mesh({"data": 8})):
        jax.eval_shape(lambda: _loss_and_gradients(cfg, chunk=8))
    _loss_and_gradients(dataclasses.replace(cfg, dtype="bfloat16"), chunk=8)
    assert set(sizes) == {cfg.padded_vocab_size}


def test_an_id_that_there_is_not_costs_no_number():
    """Whatever the containers of blocks, with gradients too."""
    logits = jnp.ones((1, 3, 10))
    ids, weights = jnp.array([[9, 10, -1]]), jnp.ones((1, 3))
    nll = losses._negative_log_likelihood([logits[..., :4], logits[..., 4:]], ids)
    np.testing.assert_array_equal(np.isnan(nll), [[False, True, True]])
    for blocks in ((logits[..., :4], logits[..., 4:]), [logits], np.asarray(logits)):
        total = lambda blocks: losses.cross_entropy(blocks, ids[:, :1], weights[:, :1])[0]  # noqa: E731
        first = jax.tree.map(lambda block: block[:, :1], blocks)
        value, gradient = jax.value_and_grad(total)(first)
        assert float(value) == pytest.approx(np.log(10))
        joined = np.concatenate(jax.tree.leaves(gradient), axis=-1)
        np.testing.assert_allclose(joined[0, 0], [*[0.1] * 9, -0.9], rtol=1e-5)


def test_the_loss_and_its_gradient_are_those_of_jax():
    """Bit by bit: sums are taken in JAX's order, and the targets' share comes last."""
    rng = np.random.default_rng(2)
    logits = jnp.asarray(5 * rng.normal(size=(2, 3, 130)), jnp.float32)
    logits = logits.at[..., :2].set(-1e10)
    targets = jnp.asarray(rng.integers(2, 130, (2, 3)))
    weights = jnp.asarray(rng.random((2, 3)), jnp.float32)

    def run(function):
        total = lambda logits: jnp.sum(function(logits, targets) * weights)  # noqa: E731
        return jax.value_and_grad(total)(logits)

    expected = run(optax.losses.softmax_cross_entropy_with_integer_labels)
    got = run(lambda logits, targets: losses._negative_log_likelihood([logits], targets))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_the_way_back_keeps_the_logits_and_makes_one_array_of_their_size():
    def gradient(logits, targets):
        return jax.grad(lambda x: losses.cross_entropy(x, targets, jnp.ones_like(targets))[0])(
            logits
        )

    shapes = jnp.zeros((4, 64, 1024)), jnp.zeros((4, 64), jnp.int32)
    compiled = jax.jit(gradient).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < shapes[0].nbytes / 8
    assert "scatter" not in compiled.as_text()


@pytest.mark.parametrize("tied", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_models_loss_in_chunks(config, tied):
    model, params = random_params(dataclasses.replace(config, logits_via_embedding=tied))

    def loss(chunk):
        run = functools.partial(losses.next_token_loss, model, chunk=chunk, enable_dropout=False)
        return jax.jit(run)(params, *_arrays(config))

    np.testing.assert_allclose(loss(7), loss(None), rtol=1e-6)


@pytest.mark.slow
def test_a_models_gradients_in_chunks(config):
    model, params = random_params(config)

    def gradients(chunk):
        loss = functools.partial(losses.next_token_loss, model, chunk=chunk, enable_dropout=False)
        return jax.jit(jax.grad(lambda p: loss(p, *_arrays(config))[0]))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5),
        gradients(7),
        gradients(None),
    )


@pytest.mark.parametrize(
    "shape", [{"fsdp": 8}, pytest.param({"fsdp": 4, "model": 2}, marks=pytest.mark.slow)]
)
def test_the_table_is_gathered_once_where_its_width_is_split(config, shape):
    """And not again for the backward pass; gradients are those of one device."""
    _, params = random_params(config)
    # Of 23 positions: the states of 8 rows of 24 are as many numbers as the table.
    batch = [np.repeat(x[:1, :23], 8, axis=0) for x in _arrays(config)]
    mesh = meshes.create_mesh(shape)

    def gradient_of(dtype, chunk):
        model = TransformerLM(dataclasses.replace(config, dtype=dtype))
        loss = functools.partial(losses.next_token_loss, model, chunk=chunk, enable_dropout=False)
        return jax.grad(lambda params, batch: loss(params, *batch)[0])

    def compiled(dtype):
        with meshes.sharding_scope(mesh):
            of_params = meshes.param_shardings(TransformerLM(config), mesh)
            given = (of_params, meshes.batch_sharding(mesh))
            gradient = jax.jit(gradient_of(dtype, 3), in_shardings=given, out_shardings=of_params)
            return gradient.lower(params, batch).compile()

    table = config.padded_vocab_size * config.emb_dim // mesh.shape["model"]
    found = collectives.find(hlo.parse(compiled("bfloat16").as_text()))
    tables = [
        x.count for x in found if x.kind == "all-gather" and x.payload in (table * 2, table * 4)
    ]
    assert sum(tables) == 1
    split = compiled("float32")
    in_parts = split(*jax.device_put((params, batch), split.input_shardings[0]))
    whole = jax.jit(gradient_of("float32", None))(params, batch)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), in_parts, whole
    )


def test_a_table_in_two_bytes_has_a_gradient_that_is_rounded_once(config):
    """As without chunks: what chunks add is summed in four bytes."""
    cfg = dataclasses.replace(config, dtype="bfloat16")
    rng = np.random.default_rng(0)
    table_VD = jnp.asarray(rng.normal(size=(cfg.padded_vocab_size, cfg.emb_dim)), jnp.bfloat16)
    x_BLD = jnp.asarray(rng.normal(size=(4, 64, cfg.emb_dim)), jnp.bfloat16)

    def loss(table_VD, chunk):
        logits_of = logits_in_chunks(cfg, {"token_embedder": {"embedding": table_VD}})
        targets = jnp.ones((4, 64), jnp.int32)
        return losses.chunked_cross_entropy(logits_of, x_BLD, targets, targets, chunk)[0]

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    in_chunks, at_once = (np.asarray(gradient(table_VD, n), np.float32) for n in (1, 64))
    # Sums in two bytes of so many chunks differ by three times as much as those in four.
    assert np.abs(in_chunks - at_once).max() <= 2**-7 * np.abs(at_once).max()


def test_the_logits_of_the_whole_batch_never_exist(config):
    """GPT-2's vocabulary: compiled memory of the loss and its gradients, nothing is run."""
    cfg = dataclasses.replace(config, vocab_size=50258)
    shape = jax.ShapeDtypeStruct
    x_BLD, ids_BL = shape((4, 256, 32), jnp.float32), shape((4, 256), jnp.int32)
    table_VD = shape((cfg.padded_vocab_size, 32), jnp.float32)

    def loss(x_BLD, table_VD, targets_BL, weights_BL, *, chunk):
        logits_of = functools.partial(output_logits, cfg, table_VD)
        if chunk is None:
            return losses.cross_entropy(logits_of(x_BLD), targets_BL, weights_BL)[0]
        arrays = (targets_BL, weights_BL)
        return losses.chunked_cross_entropy(logits_of, x_BLD, *arrays, chunk)[0]

    def temporary_bytes(chunk):
        gradient = jax.jit(jax.grad(functools.partial(loss, chunk=chunk), (0, 1)))
        compiled = gradient.lower(x_BLD, table_VD, ids_BL, ids_BL).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 4 * 256 * cfg.padded_vocab_size * 4
    whole, chunked = temporary_bytes(None), temporary_bytes(32)
    print(f"logits {logits}, whole {whole}, chunked {chunked}")
    assert whole >= logits
    assert chunked < logits / 2


def _loss_in_chunks(x_BLD, table_VD, weights_BL):
    def logits_of(x_BCD):
        return jnp.einsum("BCD,VD->BCV", x_BCD, table_VD)

    targets_BL = jnp.zeros(weights_BL.shape, jnp.int32)
    return losses.chunked_cross_entropy(logits_of, x_BLD, targets_BL, weights_BL, 4)[0]


@pytest.mark.parametrize(("trained", "products"), [((0, 1), 3), ((0,), 2), ((2,), 1)])
def test_logits_of_a_chunk_are_made_once_and_gradients_only_of_what_is_trained(trained, products):
    """Logits, the gradient of the states, and that of the table: a product each, in one loop."""
    arrays = jnp.ones((2, 8, 16)), jnp.ones((64, 16)), jnp.ones((2, 8))
    compiled = jax.jit(jax.grad(_loss_in_chunks, trained)).lower(*arrays).compile().as_text()
    assert compiled.count(" dot(") == products
    assert compiled.count(" while(") == 1


def test_a_chunked_loss_has_the_gradient_of_its_weights_and_a_second_one():
    """Of equal logits every target costs log V; and gradients of gradients are JAX's own."""
    rng = np.random.default_rng(3)
    x_BLD, table_VD = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 6, 4), (7, 4)))
    weights_BL = jnp.asarray(rng.random((2, 6)), jnp.float32)
    of_weights = jax.grad(_loss_in_chunks, 2)(0 * x_BLD, table_VD, weights_BL)
    np.testing.assert_allclose(of_weights, np.log(7), rtol=1e-6)

    def whole(scale):
        logits_BLV = jnp.einsum("BLD,VD->BLV", scale * x_BLD, table_VD)
        nll_BL = jax.nn.logsumexp(logits_BLV, axis=-1) - logits_BLV[..., 0]
        return jnp.sum(nll_BL * weights_BL)

    def second(loss):
        return float(jax.grad(jax.grad(loss))(0.7))

    in_chunks = second(lambda scale: _loss_in_chunks(scale * x_BLD, table_VD, weights_BL))
    assert in_chunks == pytest.approx(second(whole), rel=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_chunked_loss_mixes_no_dtypes_by_accident(dtype):
    arrays = jnp.ones((2, 8, 16), dtype), jnp.ones((64, 16), dtype), jnp.ones((2, 8))

    def loss(x_BLD, table_VD, weights_BL):
        def logits_of(x_BCD):
            return jnp.einsum("BCD,VD->BCV", x_BCD, table_VD).astype(jnp.float32)

        ids_BL = jnp.zeros(weights_BL.shape, jnp.int32)
        return losses.chunked_cross_entropy(logits_of, x_BLD, ids_BL, weights_BL, 4)[0]

    with jax.numpy_dtype_promotion("strict"):
        gradients = jax.grad(loss, (0, 1, 2))(*arrays)
    assert [g.dtype for g in gradients] == [x.dtype for x in arrays]


@pytest.mark.parametrize(
    ("platform", "chunk", "rows", "expected"),
    [
        ("cpu", None, 4, 64),
        ("cpu", 32, 4, 32),
        ("cpu", 512, 1000, 1),
        ("cpu", None, 1, None),
        ("tpu", None, 4, None),
        ("tpu", 128, 4, 128),
        ("tpu", 256, 4, None),
        ("tpu", 255, 4, 128),  # Not 255, of which the second would hold one position.
        ("cpu", 100, 1, 86),
    ],
)
def test_a_cpu_makes_logits_of_few_positions_at_once(monkeypatch, platform, chunk, rows, expected):
    monkeypatch.setattr(kernels, "platform_in_use", lambda: platform)
    assert losses.positions_at_once(chunk, rows, 256) == expected


def test_a_mesh_on_cpu_counts_the_rows_of_a_device():
    with meshes.sharding_scope(meshes.create_mesh({"data": 4, "model": 2})):
        assert losses.positions_at_once(None, 64, 128) == 16


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_squared_errors_count_more_the_more_was_read(dtype):
    """One text of three tokens, by hand; padding counts nothing, and weights multiply."""
    with jax.enable_x64(dtype == "float64"):
        values = jnp.array([[0.2, 0.5, 0.9, 7.0]], dtype)
        is_text = jnp.array([[True, True, True, False]])
        one = jnp.ones(1, dtype)
        total, weight = losses.growing_squared_error(values, one, is_text, one)
        assert float(total) == pytest.approx(0.195, abs=1e-6) and float(weight) == 1
        total, weight = losses.growing_squared_error(values, one, is_text, 3 * one)
        assert float(total) == pytest.approx(0.585, abs=1e-6) and float(weight) == 3
