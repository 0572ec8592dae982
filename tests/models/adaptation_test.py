"""Adaptations: the identity at step 0, the exact set of trained paths, and their effect."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.models import adaptation as adaptations
from detox_jax.models.adaptation import AdapterConfig, LoRAConfig, PrefixConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from tests.conftest import initial_params, random_params

ADAPTATIONS = {
    "houlsby": AdapterConfig(8),
    "pfeiffer": AdapterConfig(8, placement="pfeiffer"),
    "lora": LoRAConfig(4, target_modules=("query", "key", "value", "out", "wi", "wo")),
    "prefix": PrefixConfig(5),
}
TRAINED = {
    "houlsby": {
        f"layers/{sublayer}_adapter/{name}"
        for sublayer in ("attention", "mlp")
        for name in ("down_kernel", "down_bias", "up_kernel", "up_bias")
    },
    "pfeiffer": {
        f"layers/mlp_adapter/{name}"
        for name in ("down_kernel", "down_bias", "up_kernel", "up_bias")
    },
    "lora": {
        f"layers/{module}/lora_{part}"
        for module in (
            "attention/query",
            "attention/key",
            "attention/value",
            "attention/out",
            "mlp/wi",
            "mlp/wo",
        )
        for part in "ab"
    },
    "prefix": {f"layers/attention/prefix/{name}" for name in ("key", "value", "gate")},
}


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, params, tokens):
    return model.apply({"params": params}, tokens, enable_dropout=False)


def _paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}


def _fresh(config, adaptation):
    """Base parameters with noise, and an adaptation's own as they are initialised."""
    model = TransformerLM(config, adaptation)
    fresh = initial_params(config, adaptation, seed=7)
    added, _ = params_lib.partition(fresh, adaptations.trainable_pattern(adaptation))
    _, base = random_params(config)
    return model, base, added


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_equals_its_base_at_step_0(config, name):
    model, base, added = _fresh(config, ADAPTATIONS[name])
    tokens = jax.random.randint(jax.random.key(1), (2, 16), 1, config.vocab_size)
    adapted = model.apply({"params": params_lib.combine(base, added)}, tokens, enable_dropout=False)
    plain = TransformerLM(config).apply({"params": base}, tokens, enable_dropout=False)
    np.testing.assert_array_equal(adapted, plain)


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_trains_exactly_its_own_paths_and_renames_no_other(config, name):
    _, base, added = _fresh(config, ADAPTATIONS[name])
    assert _paths(added) == TRAINED[name]
    shapes, _ = meshes.abstract_params(TransformerLM(config, ADAPTATIONS[name]))
    assert _paths(shapes) - TRAINED[name] == _paths(base)


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_every_trained_parameter_matters(config, name):
    """Away from zero, the output depends on each of an adaptation's parameters."""
    model, params = random_params(config, ADAPTATIONS[name])
    tokens = jax.random.randint(jax.random.key(1), (2, 16), 1, config.vocab_size)

    def score(trained, frozen):
        tree = params_lib.combine(trained, frozen)
        return model.apply({"params": tree}, tokens, enable_dropout=False)[..., 1:300].std()

    trained, frozen = params_lib.partition(params, adaptations.trainable_pattern(ADAPTATIONS[name]))
    gradients = jax.jit(jax.grad(score))(trained, frozen)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        per_layer = np.abs(np.asarray(gradient)).reshape(config.num_layers, -1).max(axis=1)
        assert np.all(per_layer > 0), path


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_cached_decoding_of_an_adapted_model(config, name):
    model, params = random_params(config, ADAPTATIONS[name])
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 1, config.vocab_size)
    full = _logits(model, params, tokens)
    step = jax.jit(
        lambda variables, tokens: model.apply(
            variables, tokens, decode=True, enable_dropout=False, mutable=["cache"]
        )
    )
    _, cache = step({"params": params}, tokens)
    for i in range(9):
        logits, cache = step({"params": params, **cache}, tokens[:, i : i + 1])
        np.testing.assert_allclose(logits[:, 0], full[:, i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("adaptation", [None, *ADAPTATIONS.values()])
def test_json_round_trip(adaptation):
    assert adaptations.from_json(adaptations.to_json(adaptation)) == adaptation


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdapterConfig(0),
        lambda: AdapterConfig(8, placement="somewhere"),
        lambda: LoRAConfig(0),
        lambda: LoRAConfig(4, target_modules=("queries",)),
        lambda: LoRAConfig(4, target_modules=()),
        lambda: PrefixConfig(-1),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(UserError):
        make()


def test_lora_is_scaled_by_alpha_over_rank(config):
    adaptation = LoRAConfig(4, alpha=8.0, target_modules=("wo",))
    model, params = random_params(config, adaptation)
    wo = params["layers"]["mlp"]["wo"]
    delta = 2.0 * jnp.einsum("nfr,nrd->nfd", wo["lora_a"], wo["lora_b"])
    merged = {**wo, "kernel": wo["kernel"] + delta}
    _, base = params_lib.partition(params, adaptation.trainable_pattern)
    base["layers"]["mlp"]["wo"] = {"kernel": merged["kernel"], "bias": merged["bias"]}
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 1, config.vocab_size)
    np.testing.assert_allclose(
        _logits(model, params, tokens),
        _logits(TransformerLM(config), base, tokens),
        atol=2e-5,
    )


def test_configs_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AdapterConfig(8).bottleneck_dim = 9
