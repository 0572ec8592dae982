"""Adaptations: the identity at step 0, the exact set of trained paths, and their effect."""

import dataclasses
import functools
import json
import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from detox_jax import kinds
from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.models import adaptation as adaptations
from detox_jax.models.adaptation import (
    AdapterConfig,
    BitFitConfig,
    LoRAConfig,
    LoReFTConfig,
    ParallelAdapterConfig,
    PrefixConfig,
    advice,
)
from detox_jax.models.adaptation_modules import (
    Adapter,
    LoReFT,
    ParallelAdapter,
    Prefix,
    orthonormal,
)
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from tests.conftest import initial_params, random_params

ADAPTATIONS = {
    "houlsby": AdapterConfig(8),
    "pfeiffer": AdapterConfig(8, placement="pfeiffer"),
    "lora": LoRAConfig(4, target_modules=("query", "key", "value", "out", "wi", "wo")),
    "prefix": PrefixConfig(5),
    "parallel": ParallelAdapterConfig(8),
    "bitfit": BitFitConfig(),
    "loreft": LoReFTConfig(3),
}
_BIASES = {
    *("attention/query", "attention/key", "attention/value", "attention/out", "mlp/wi", "mlp/wo"),
    *("pre_attention_norm", "pre_mlp_norm"),
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
    "parallel": {
        f"layers/mlp_parallel_adapter/{name}"
        for name in ("down_kernel", "down_bias", "up_kernel", "up_bias")
    },
    "bitfit": {"final_norm/added_bias", *(f"layers/{name}/added_bias" for name in _BIASES)},
    "loreft": {f"layers/loreft/{name}" for name in ("rotation", "weight", "bias")},
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
    adapted = _logits(model, params_lib.combine(base, added), tokens)
    np.testing.assert_array_equal(adapted, _logits(TransformerLM(config), base, tokens))


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
        layers = config.num_layers if path[0].key == "layers" else 1
        per_layer = np.abs(np.asarray(gradient)).reshape(layers, -1).max(axis=1)
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
    ("make", "said"),
    [
        (lambda: AdapterConfig(0), "AdapterConfig.bottleneck_dim is 0; must be positive"),
        (lambda: AdapterConfig(8, placement="somewhere"), "AdapterConfig.placement is 'somewhere'"),
        (lambda: LoRAConfig(0), "LoRAConfig.rank is 0; must be positive"),
        (
            lambda: LoRAConfig(4, target_modules=("queries",)),
            r"LoRAConfig.target_modules is \('queries',\); some of \('query', ",
        ),
        (lambda: LoRAConfig(4, target_modules=()), r"LoRAConfig.target_modules is \(\); some of"),
        (lambda: PrefixConfig(-1), "PrefixConfig.prefix_length is -1; must be positive"),
        (lambda: AdapterConfig(1.5), "AdapterConfig.bottleneck_dim is 1.5; give a whole number"),
        (lambda: AdapterConfig(-0.5), "AdapterConfig.bottleneck_dim is -0.5; must be positive"),
        (lambda: AdapterConfig(True), "AdapterConfig.bottleneck_dim is True; must be positive"),
        (lambda: AdapterConfig(float("nan")), "AdapterConfig.bottleneck_dim is nan; must be pos"),
        (lambda: AdapterConfig(float("inf")), "AdapterConfig.bottleneck_dim is inf; give a whole"),
        (lambda: ParallelAdapterConfig(0), "ParallelAdapterConfig.bottleneck_dim is 0; must be"),
        (lambda: ParallelAdapterConfig(8, scale=0.0), "ParallelAdapterConfig.scale is 0.0; must"),
        (lambda: LoRAConfig(4, alpha=0.0), "LoRAConfig.alpha is 0.0; must not be zero"),
        (
            lambda: AdapterConfig(8, activation="gleu"),
            "AdapterConfig.activation is 'gleu'; expected a function of jax.nn, such as gelu",
        ),
        (
            lambda: ParallelAdapterConfig(8, activation="initializers"),
            "ParallelAdapterConfig.activation is 'initializers'; expected a function of jax.nn",
        ),
        (lambda: LoReFTConfig(0), "LoReFTConfig.rank is 0; must be positive"),
        (lambda: LoReFTConfig(layers=()), "LoReFTConfig.layers names none; give some, or None"),
        (lambda: LoReFTConfig(first_positions=0), "LoReFTConfig.first_positions is 0; must be"),
    ],
)
def test_impossible_settings_are_refused(make, said):
    with pytest.raises(UserError, match=said):
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


@pytest.mark.parametrize(
    ("given", "emb_dim", "width"),
    [(256, 160, 256), (1e3, 160, 1000), (1, 160, 1), (0.25, 160, 40), (1.0, 160, 160)],
)
def test_a_width_is_a_number_or_a_share(given, emb_dim, width):
    assert AdapterConfig(given).width(emb_dim) == width
    assert ParallelAdapterConfig(given).width(emb_dim) == width
    read = adaptations.from_json(json.loads(json.dumps(adaptations.to_json(AdapterConfig(given)))))
    assert isinstance(read, AdapterConfig) and read.width(emb_dim) == width
    assert AdapterConfig(0.001).width(160) == 1
    fitted = kinds.fitted(given, typing.get_type_hints(AdapterConfig)["bottleneck_dim"])
    assert AdapterConfig(fitted).width(emb_dim) == width  # as gin gives it


def test_an_adapter_wider_than_its_model_is_told():
    said = advice(AdapterConfig(), 160)
    assert said is not None and "256 hidden units are wider than the model's 160" in said
    assert "512 hidden units" in (advice(ParallelAdapterConfig(), 511) or "")
    for fits in (AdapterConfig(160), AdapterConfig(0.25), LoRAConfig(rank=200), None):
        assert advice(fits, 160) is None


def test_a_prefix_at_a_rate_at_which_its_gate_stays_shut_is_told():
    """A gate moves by at most rate times updates: here by 78 * 2e-5 = 0.0016, and by 0.70."""
    said = advice(PrefixConfig(), 160, 2e-5, 78)
    assert said is not None and "hardly moves in 78 updates at a rate of 2e-05" in said
    for moves in ((PrefixConfig(), 160, 9e-3, 78), (PrefixConfig(), 160, 2e-5, 10_000)):
        assert advice(*moves) is None
    assert advice(PrefixConfig(), 160, 2e-5, None) is None  # of EPOCHS that nobody has counted
    assert advice(LoRAConfig(), 160, 2e-5, 78) is None


def test_a_share_is_the_adapter_of_its_width(config):
    shapes = [meshes.param_shapes(TransformerLM(config, AdapterConfig(w))) for w in (0.25, 8)]
    assert shapes[0] == shapes[1]


def test_a_parallel_adapter_is_its_authors_formula(config):
    """`scale * (relu(x W + b) V + c)`, by hand."""
    config = dataclasses.replace(config, emb_dim=4)
    adapter = ParallelAdapterConfig(2, scale=3.0)
    w, v = np.float32([[1, 0], [0, 1], [1, 1], [0, -1]]), np.float32([[1, 2, 0, 0], [0, 1, 0, 5]])
    b, c = np.float32([0.5, -1.0]), np.float32([0, 0, 1, 0])
    params = {"down_kernel": w, "down_bias": b, "up_kernel": v, "up_bias": c}
    x = np.float32([[[1, 2, -3, 4], [0, 3, 1, 0]]])
    out = ParallelAdapter(config, adapter).apply({"params": params}, x)
    np.testing.assert_allclose(out[0], 3 * (np.maximum(x[0] @ w + b, 0) @ v + c), rtol=1e-6)


def test_a_parallel_adapter_reads_what_the_mlp_reads(config):
    """As an MLP whose hidden units are more: its own and the adapter's."""
    adapter = ParallelAdapterConfig(8, scale=1.0, activation="gelu")
    model, params = random_params(config, adapter)
    added, base = params_lib.partition(params, adapter.trainable_pattern)
    beside, mlp = added["layers"]["mlp_parallel_adapter"], base["layers"]["mlp"]
    wide = {
        "wi": {
            "kernel": jnp.concatenate([mlp["wi"]["kernel"], beside["down_kernel"]], -1),
            "bias": jnp.concatenate([mlp["wi"]["bias"], beside["down_bias"]], -1),
        },
        "wo": {
            "kernel": jnp.concatenate([mlp["wo"]["kernel"], beside["up_kernel"]], 1),
            "bias": mlp["wo"]["bias"] + beside["up_bias"],
        },
    }
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 1, config.vocab_size)
    wider = TransformerLM(dataclasses.replace(config, mlp_dim=config.mlp_dim + 8))
    together = {**base, "layers": {**base["layers"], "mlp": wide}}
    np.testing.assert_allclose(
        _logits(model, params, tokens), _logits(wider, together, tokens), atol=2e-5
    )


def test_bitfit_moves_biases(config):
    model, params = random_params(config, BitFitConfig())
    added, base = params_lib.partition(params, BitFitConfig.trainable_pattern)
    moved = traverse_util.flatten_dict(base, sep="/")
    for path, value in traverse_util.flatten_dict(added, sep="/").items():
        path = path.replace("added_bias", "bias")
        moved[path] = moved[path] + value
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 1, config.vocab_size)
    merged = traverse_util.unflatten_dict(moved, sep="/")
    np.testing.assert_array_equal(
        _logits(model, params, tokens), _logits(TransformerLM(config), merged, tokens)
    )


def test_bitfit_is_refused_where_a_model_has_no_biases(config):
    llama = dataclasses.replace(config, norm="rmsnorm", use_bias=False)
    with pytest.raises(UserError, match="BitFitConfig, but the model has no biases"):
        TransformerLM(llama, BitFitConfig())
    qwen = dataclasses.replace(llama, qkv_bias=True)
    shapes, _ = meshes.abstract_params(TransformerLM(qwen, BitFitConfig()))
    trained, _ = params_lib.partition(shapes, BitFitConfig.trainable_pattern)
    assert _paths(trained) == {
        f"layers/attention/{n}/added_bias" for n in ("query", "key", "value")
    }


def test_loreft_of_a_hand_worked_state(config):
    """R (.6, .8), W (1, 0), b .5, h (1, 2) becomes (.58, 1.44)."""
    rotation = np.float32([[0.6], [0.8]])
    params = {
        "rotation": 5 * rotation,  # of any length
        "weight": np.float32([[1], [0]]) - rotation,
        "bias": np.float32([0.5]),
    }
    h = np.float32([[[1, 2]]])
    config = dataclasses.replace(config, emb_dim=2)
    added = LoReFT(config, LoReFTConfig(1)).apply({"params": params}, h)
    np.testing.assert_allclose(h + added, [[[0.58, 1.44]]], atol=1e-6)


def test_the_rows_of_loreft_stay_orthonormal_and_do_not_jump():
    raw = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    rotation = orthonormal(raw)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(orthonormal(rotation), rotation, atol=1e-6)
    np.testing.assert_allclose(orthonormal(raw + 1e-4), rotation, atol=1e-3)


def test_loreft_acts_in_its_layers_and_at_its_first_positions(config):
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 1, config.vocab_size)
    _, params = random_params(config, LoReFTConfig(3))
    _, base = params_lib.partition(params, LoReFTConfig.trainable_pattern)
    plain = _logits(TransformerLM(config), base, tokens)
    second = _logits(TransformerLM(config, LoReFTConfig(3, layers=(1,))), params, tokens)
    both = _logits(TransformerLM(config, LoReFTConfig(3, layers=(0, 1))), params, tokens)
    np.testing.assert_array_equal(
        both, _logits(TransformerLM(config, LoReFTConfig(3)), params, tokens)
    )
    # Behind the last layer an edit of the first two positions reaches no other position.
    last = LoReFTConfig(3, layers=(1,), first_positions=2)
    start = _logits(TransformerLM(config, last), params, tokens)
    np.testing.assert_array_equal(start[:, :2], second[:, :2])
    np.testing.assert_array_equal(start[:, 2:], plain[:, 2:])
    assert not np.allclose(second[:, 2:], plain[:, 2:]) and not np.allclose(both, second)
    with pytest.raises(UserError, match="names layer 2; the model's are 0 to 1"):
        TransformerLM(config, LoReFTConfig(3, layers=(2,)))
    with pytest.raises(UserError, match="at most the model's width"):
        TransformerLM(config, LoReFTConfig(33))


@pytest.mark.parametrize(
    ("module", "adaptation", "shape"),
    [
        (Adapter, AdapterConfig(8), (2, 5, 32)),
        (ParallelAdapter, ParallelAdapterConfig(8), (2, 5, 32)),
        (Prefix, PrefixConfig(3), (2, 5, 4, 8)),
        (LoReFT, LoReFTConfig(3), (2, 5, 32)),
    ],
)
def test_what_is_added_is_linear_in_the_scaled_parameters(config, module, adaptation, shape):
    network = module(config, adaptation)
    x, noise = jax.random.normal(jax.random.key(0), shape), np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: noise.normal(size=leaf.shape).astype(np.float32),
        network.init(jax.random.key(1), x)["params"],
    )
    negated = {
        name: -0.5 * value if re.fullmatch(adaptation.scaled_pattern, f"x/{name}") else value
        for name, value in params.items()
    }
    residual = x if module is Adapter else 0
    added, scaled = (network.apply({"params": p}, x) - residual for p in (params, negated))
    np.testing.assert_allclose(scaled, -0.5 * added, atol=2e-5, rtol=1e-5)
