"""A model beside its base: an adaptation's base is in it, of a whole model a copy is held."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.checkpoints import params as params_lib
from detox_jax.models.adaptation import LoRAConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.training import base_model
from detox_jax.training.objective import LanguageModeling
from detox_jax.training.per_target import per_target
from tests.conftest import initial_params, random_params
from tests.training.pairs_made import Fixed

LORA = LoRAConfig(rank=2)
BASE_LOGITS = np.array([2.0, 1.0, 0.0])


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(1, 300, (2, 2, 10)).astype(np.int32)


def read(model, params, ids, chunk=None):
    model = model.clone(config=dataclasses.replace(model.config, logits_chunk=chunk))
    call = functools.partial(per_target, model, with_base=True, dropout_key=None)
    return jax.jit(call)(params, *ids)


def test_an_adaptation_is_compared_with_the_same_parameters_without_it(config, ids):
    model, adapted = random_params(config, LORA)
    _, base = params_lib.partition(adapted, LORA.trainable_pattern)
    assert base_model.held(base, LORA.trainable_pattern) == {}
    found = read(model, adapted, ids)
    own = jax.nn.log_softmax(jax.jit(model.apply)({"params": adapted}, ids[0]))
    bare = jax.nn.log_softmax(jax.jit(TransformerLM(config).apply)({"params": base}, ids[0]))
    np.testing.assert_allclose(
        found.kl_BL, (jnp.exp(own) * (own - bare)).sum(-1), rtol=1e-3, atol=1e-6
    )
    chosen = np.take_along_axis(np.asarray(own), ids[1][..., None], -1)[..., 0]
    np.testing.assert_allclose(found.log_probs_BL, chosen, atol=1e-5)
    np.testing.assert_allclose(found.log_others_BL, np.log1p(-np.exp(chosen)), atol=1e-5)
    assert found.kl_BL.min() > 0
    in_chunks = read(model, adapted, ids, chunk=4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), in_chunks, found)


def test_a_whole_model_is_compared_with_the_copy_that_is_held(config):
    params = initial_params(config)
    held = base_model.held(params, ".*")
    jax.tree.map(np.testing.assert_array_equal, held["base"], params)
    one, copy = (x["token_embedder"]["embedding"] for x in (params, held["base"]))
    assert one.unsafe_buffer_pointer() != copy.unsafe_buffer_pointer()
    with pytest.raises(ValueError, match="must be held"):
        base_model.of(TransformerLM(config), params)


def test_of_base_parameters_that_are_trained_copies_stand_in(config):
    """As biases are, where they alone are trained."""
    params = initial_params(config)
    held = base_model.held(params, r".*/bias")
    changed = jax.tree.map(lambda x: x + 1, params)
    model = TransformerLM(config, _Biases())
    _, base = base_model.of(model, {**changed, **held})
    flat = params_lib.partition(base, r".*/bias")
    jax.tree.map(np.testing.assert_array_equal, flat[0], held["base"])
    assert params_lib.count(base) == params_lib.count(params)


class _Biases:
    trainable_pattern = r".*/bias"


def test_language_modelling_with_a_kl():
    params = {"logits": np.array([2.5, 0.5, 0.0]), "base": {"logits": BASE_LOGITS}}
    batch = {
        "decoder_input_tokens": np.array([[1, 0, 2, 0]]),
        "decoder_target_tokens": np.array([[0, 2, 0, 0]]),
        "decoder_loss_weights": np.array([[1, 1, 0, 0]]),
        "decoder_segment_ids": np.ones((1, 4), int),
        "decoder_positions": np.arange(4)[None],
    }
    with jax.enable_x64(True):
        objective = LanguageModeling(kl_to_base=2.0)
        total, weight = objective.loss(Fixed(), params, batch, None)
        figures = objective.figures(Fixed(), params, batch)
        assert LanguageModeling().figures(Fixed(), params, batch) == {}
    assert float(weight) == 2
    assert float(total) / 2 == pytest.approx(2.893468 / 2 + 2 * 0.065994, abs=1e-6)
    assert float(figures["kl_to_base"][0]) / 2 == pytest.approx(0.065994, abs=1e-6)
    assert float(figures["nll_good"][0]) / 2 == pytest.approx(2.893468 / 2, abs=1e-6)
    assert objective.reads_base() and not LanguageModeling().reads_base()
