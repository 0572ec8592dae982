"""Losses over chunks of logits: the same loss and gradients, without the logits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.models.transformer import output_logits
from detox_jax.training import losses
from tests.conftest import random_params


@pytest.mark.parametrize(
    ("fields", "chunk"),
    [({}, 8), ({"logits_via_embedding": False, "logits_softcap": 3.0}, 7)],
    ids=["tied", "untied, chunks do not divide"],
)
def test_chunks_change_neither_loss_nor_gradients(config, fields, chunk):
    model, params = random_params(dataclasses.replace(config, **fields))
    rng = np.random.default_rng(0)
    targets = rng.integers(1, config.vocab_size, (3, 24)).astype(np.int32)
    targets[0, 20:] = targets[2, 5:] = 0
    inputs = np.roll(targets, 1, axis=1)

    def run(chunk):
        def loss(params):
            arrays = (inputs, targets, targets > 0)
            return losses.next_token_loss(model, params, *arrays, chunk=chunk, enable_dropout=False)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    (plain, tokens), gradients = run(None)
    (chunked, again), chunked_gradients = run(chunk)
    assert float(tokens) == float(again) == 3 * 24 - 4 - 19
    np.testing.assert_allclose(chunked, plain, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5),
        chunked_gradients,
        gradients,
    )


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
