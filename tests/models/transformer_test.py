"""The decoder: causality, caching, packing, masked ids, sizes, and the exact parameter tree."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.models.adaptation import AdapterConfig
from detox_jax.models.config import RopeScaling, TransformerConfig
from detox_jax.models.layers import rotary_frequencies
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from tests.conftest import initial_params, random_params

VARIANTS = {
    "gpt2": {},
    "llama": {
        "position_embedding": "rotary",
        "norm": "rmsnorm",
        "mlp_activations": ("silu", "linear"),
        "num_kv_heads": 2,
        "use_bias": False,
        "logits_via_embedding": False,
    },
    "neox": {
        "position_embedding": "rotary",
        "rotary_fraction": 0.5,
        "parallel_residual": True,
        "mlp_activations": ("gelu_exact",),
        "qkv_bias": False,
    },
    "opt": {"position_offset": 2, "mlp_activations": ("relu",)},
    "gemma": {
        "position_embedding": "rotary",
        "rope_local_theta": 100.0,
        "rope_scaling": {"kind": "linear", "factor": 2.0},
        "sliding_window": 3,
        "sliding_layers": (True, False),
        "query_scalar": 5.0,
        "attention_softcap": 2.0,
        "logits_softcap": 3.0,
        "qk_norm": True,
        "norm": "rmsnorm",
        "norm_unit_offset": True,
        "post_norms": True,
        "embedding_scale": True,
        "mlp_activations": ("gelu", "linear"),
        "num_kv_heads": 1,
        "use_bias": False,
    },
}


@pytest.fixture(params=VARIANTS, scope="module")
def variant(request, config):
    return dataclasses.replace(config, **VARIANTS[request.param])


def _tokens(config, shape=(2, 16), seed=5):
    return jax.random.randint(jax.random.key(seed), shape, 1, config.vocab_size)


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, params, tokens, **kwargs):
    return model.apply({"params": params}, tokens, enable_dropout=False, **kwargs)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("decode", "prefill", "ahead"))
def _cached(model, variables, tokens, **kwargs):
    return model.apply(variables, tokens, enable_dropout=False, mutable=["cache"], **kwargs)


def test_causality_by_gradients(variant):
    """The logits at position i depend on embeddings 0..i, and on none after."""
    model, params = random_params(variant)
    tokens = jnp.arange(1, 13)[None]  # Distinct, so that an embedding row is one position.

    def score(table, position):
        changed = {**params, "token_embedder": {"embedding": table}}
        if variant.logits_via_embedding:  # Keep the output projection out of the gradient.
            untied = dataclasses.replace(variant, logits_via_embedding=False)
            changed["logits_dense"] = params["token_embedder"]
            return _logits(TransformerLM(untied), changed, tokens)[0, position].std()
        return _logits(model, changed, tokens)[0, position].std()

    gradient_of = jax.jit(jax.grad(score))
    for position in (0, 5, 11):
        gradient = gradient_of(params["token_embedder"]["embedding"], position)
        touched = np.abs(np.asarray(gradient)).sum(axis=1)[1:13] > 0
        assert touched.tolist() == [i <= position for i in range(12)]


def test_cached_decoding_equals_full_forward(variant):
    model, params = random_params(variant)
    tokens = _tokens(variant, (3, 20))
    full = _logits(model, params, tokens)
    _, cache = _cached(model, {"params": params}, tokens, decode=True)
    lengths = jnp.array([1, 5, 8])
    variables = {"params": params, **cache}
    _, cache = _cached(model, variables, tokens[:, :8], prefill=True, prefill_lengths=lengths)
    for step in range(12):
        index = (lengths + step)[:, None]
        token = jnp.take_along_axis(tokens, index, axis=1)
        logits, cache = _cached(model, {"params": params, **cache}, token, decode=True)
        expected = jnp.take_along_axis(full, index[..., None], axis=1)
        np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=1e-5)


def test_tokens_that_might_come_next_are_read_from_one_cache(variant):
    """Each has the logits that it would have alone, and leaves what it would add to the cache."""
    model, params = random_params(variant)
    tokens, lengths = _tokens(variant, (3, 8)), jnp.array([1, 5, 8])
    _, cache = _cached(model, {"params": params}, _tokens(variant, (3, 20)), decode=True)
    variables = {"params": params, **cache}
    _, cache = _cached(model, variables, tokens, prefill=True, prefill_lengths=lengths)
    variables, next_Bk = {"params": params, **cache}, _tokens(variant, (3, 4), seed=6)
    logits, ahead = _cached(model, variables, next_Bk, decode=True, ahead=True)
    ahead = ahead["cache"]
    np.testing.assert_array_equal(ahead["cache_index"], cache["cache"]["cache_index"])
    for place in range(4):
        token = next_Bk[:, place : place + 1]
        expected, alone = _cached(model, variables, token, decode=True)
        np.testing.assert_allclose(logits[:, place], expected[:, 0], atol=1e-5, rtol=1e-5)
        for name in ahead.keys() - {"cache_index"}:
            added = jnp.take_along_axis(
                alone["cache"][name], lengths.reshape(1, -1, 1, 1, 1), axis=3
            )
            np.testing.assert_allclose(ahead[name][:, :, :, place], added[:, :, :, 0], atol=1e-5)


def test_packed_segments_do_not_see_each_other(variant):
    model, params = random_params(variant)
    first, second = _tokens(variant, (1, 6), 1), _tokens(variant, (1, 9), 2)
    packed = jnp.concatenate([first, second, jnp.zeros((1, 1), jnp.int32)], axis=1)
    segments = jnp.array([[1] * 6 + [2] * 9 + [0]])
    positions = jnp.array([[*range(6), *range(9), 0]])
    logits = _logits(
        model, params, packed, decoder_segment_ids=segments, decoder_positions=positions
    )
    np.testing.assert_allclose(logits[:, :6], _logits(model, params, first), atol=1e-5)
    np.testing.assert_allclose(logits[:, 6:15], _logits(model, params, second), atol=1e-5)


def test_bidirectional_part_sees_all_of_itself(config):
    model, params = random_params(config)
    tokens = _tokens(config, (1, 10))
    part = jnp.array([[1] * 4 + [0] * 6])
    changed = tokens.at[0, 3].set(tokens[0, 3] % (config.vocab_size - 1) + 1)
    plain = _logits(model, params, tokens), _logits(model, params, changed)
    prefix = [_logits(model, params, t, decoder_causal_attention=part) for t in (tokens, changed)]
    assert jnp.array_equal(plain[0][0, 0], plain[1][0, 0])
    assert not jnp.allclose(prefix[0][0, 0], prefix[1][0, 0])


def test_padding_ids_have_no_probability(config):
    model, params = random_params(config)
    probs = np.asarray(jax.nn.softmax(_logits(model, params, _tokens(config))))
    assert config.padded_vocab_size > config.vocab_size
    assert np.all(probs[..., 0] == 0) and np.all(probs[..., config.vocab_size :] == 0)
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("how", [{}, {"decode": True}, {"prefill": True}])
def test_a_layer_is_traced_once_for_all(config, how):
    # A verb that starts again finds its programs compiled, and traces them all the same.
    config = dataclasses.replace(config, remat="none")
    model, params = random_params(config)
    calls = []

    def count(call, arguments, keywords, context):
        calls.append((type(context.module).__name__, context.method_name))
        return call(*arguments, **keywords)

    if "prefill" in how:
        how = {**how, "prefill_lengths": jnp.array([3, 2])}
    with nn.intercept_methods(count):
        jax.eval_shape(
            lambda params, tokens: model.apply(
                {"params": params}, tokens, enable_dropout=False, mutable=["cache"], **how
            ),
            params,
            _tokens(config),
        )
    assert calls.count(("DecoderLayer", "__call__")) == 1, calls


@pytest.mark.parametrize(
    "remat",
    [
        "dots",
        "full",
        pytest.param("dots_all", marks=pytest.mark.slow),
        pytest.param("attention", marks=pytest.mark.slow),
    ],
)
def test_rematerialisation_changes_no_gradient(config, remat):
    tokens = _tokens(config)

    def gradient(cfg):
        model, params = random_params(cfg)
        return jax.jit(
            jax.grad(lambda p: jnp.mean(jax.nn.log_softmax(_logits(model, p, tokens))[..., 5]))
        )(params)

    plain, again = gradient(config), gradient(dataclasses.replace(config, remat=remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, again)
    assert float(jnp.abs(plain["layers"]["mlp"]["wi"]["kernel"]).max()) > 0


def test_what_leaves_a_bottleneck_is_not_kept(config):
    """Of a layer with adapters `dots` keeps what products with weights give, but the wide ones."""
    tokens = _tokens(config)

    def kept(width):
        cfg = dataclasses.replace(config, remat="dots", emb_dim=64, num_heads=4, head_dim=16)
        model, params = random_params(cfg, AdapterConfig(width))
        _, backward = jax.vjp(lambda p: jnp.mean(_logits(model, p, tokens)), params)
        shape = (cfg.num_layers, *tokens.shape, cfg.emb_dim)
        return sum(leaf.shape == shape for leaf in jax.tree.leaves(backward))

    # A layer's input, and what attention and MLP give; of wide bottlenecks, what leaves the first
    # adapter as well. What leaves the second only becomes the next layer's input.
    assert kept(4) == kept(5) - 1


def test_bfloat16_computes_in_bfloat16_and_stays_close(config):
    half = dataclasses.replace(config, dtype="bfloat16")
    model, params = random_params(config)
    tokens = _tokens(config)
    exact = _logits(model, params, tokens)
    rounded = _logits(TransformerLM(half), params, tokens)
    assert rounded.dtype == jnp.float32
    valid = slice(1, config.vocab_size)
    assert 0 < float(jnp.abs(exact - rounded)[..., valid].max()) < 0.1


def test_dropout_needs_its_key_and_is_off_otherwise(config):
    for rate in (10, 1.0, -0.1, float("nan")):
        with pytest.raises(UserError, match="TransformerConfig.dropout_rate is .*; must be at lea"):
            dataclasses.replace(config, dropout_rate=rate)
    cfg = dataclasses.replace(config, dropout_rate=0.5)
    model, params = random_params(cfg)
    tokens = _tokens(cfg)
    apply = jax.jit(lambda key: model.apply({"params": params}, tokens, rngs={"dropout": key}))
    dropped = [apply(jax.random.key(i)) for i in (0, 1)]
    assert not jnp.allclose(dropped[0], dropped[1])
    _, base = random_params(config)
    np.testing.assert_array_equal(
        _logits(model, params, tokens), _logits(TransformerLM(config), base, tokens)
    )


def test_whole_parameter_tree(config):
    shapes, axes = meshes.abstract_params(TransformerLM(config))
    D, F, H, K, N = 32, 64, 4, 8, 2
    norm = {"scale": (N, D), "bias": (N, D)}
    project = {"kernel": (N, D, H, K), "bias": (N, H, K)}
    assert jax.tree.map(lambda x: x.shape, shapes) == {
        "token_embedder": {"embedding": (384, D)},
        "position_embedder": {"embedding": (64, D)},
        "final_norm": {"scale": (D,), "bias": (D,)},
        "layers": {
            "pre_attention_norm": norm,
            "pre_mlp_norm": norm,
            "attention": {
                "query": project,
                "key": project,
                "value": project,
                "out": {"kernel": (N, H, K, D), "bias": (N, D)},
            },
            "mlp": {
                "wi": {"kernel": (N, D, F), "bias": (N, F)},
                "wo": {"kernel": (N, F, D), "bias": (N, D)},
            },
        },
    }
    assert tuple(axes["layers"]["attention"]["query"]["kernel"]) == (
        "layers",
        "embed",
        "heads",
        "kv",
    )
    known = {name for name, _ in meshes.LOGICAL_AXIS_RULES}
    names = {
        name
        for spec in jax.tree.leaves(
            axes, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
        )
        for name in spec
    }
    assert names <= known


def test_initial_weights_have_the_configured_scale(config):
    cfg = dataclasses.replace(config, emb_dim=256, head_dim=64, mlp_dim=512, init_std=0.02)
    layers = initial_params(cfg)["layers"]
    assert float(layers["mlp"]["wi"]["kernel"].std()) == pytest.approx(0.02, rel=0.02)
    assert float(layers["mlp"]["wo"]["kernel"].std()) == pytest.approx(0.02 / 2, rel=0.02)


@pytest.mark.parametrize(
    "field",
    [
        {"num_heads": 5},
        {"num_kv_heads": 3},
        {"norm": "batchnorm"},
        {"dtype": "float8"},
        {"num_layers": 0},
        {"mlp_activations": ()},
        {"sliding_window": 0},
        {"sliding_layers": (True,)},
        {"attention_kernel": "flash"},
        {"logits_chunk": 0},
        {"rotary_fraction": 0.1, "position_embedding": "rotary"},
    ],
)
def test_impossible_configs_are_refused_by_name(config, field):
    base = {"vocab_size": 384, "emb_dim": 32, "num_heads": 4, "num_layers": 2, "mlp_dim": 64}
    with pytest.raises(UserError, match=next(iter(field))):
        TransformerConfig(**{**base, **field})


def test_parameter_counts_are_counted_without_creating_them(config):
    shapes, _ = meshes.abstract_params(TransformerLM(config))
    _, params = random_params(config)
    assert params_lib.count(shapes) == params_lib.count(params)


def test_a_sliding_layer_sees_its_window_and_no_further(config):
    """With one layer, a position depends on the tokens of its window alone."""
    cfg = dataclasses.replace(config, num_layers=1, sliding_window=3)
    model, params = random_params(cfg)
    tokens = _tokens(cfg, (1, 10))
    plain = _logits(model, params, tokens)[0, 7]
    for position in range(8):
        changed = tokens.at[0, position].set(tokens[0, position] % (cfg.vocab_size - 1) + 1)
        same = jnp.allclose(_logits(model, params, changed)[0, 7], plain, atol=1e-6)
        assert bool(same) == (position < 5)


def test_rotary_frequencies_differ_by_layer_as_data(config):
    cfg = dataclasses.replace(config, **VARIANTS["gemma"])
    local, stretched = rotary_frequencies(cfg)
    exponents = np.arange(0, 8, 2) / 8
    np.testing.assert_allclose(local, 100.0**-exponents, rtol=1e-6)
    np.testing.assert_allclose(stretched, 10_000.0**-exponents / 2, rtol=1e-6)


def test_llama3_scaling_keeps_short_wavelengths_and_stretches_long_ones(config):
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, original_max_length=64)
    cfg = dataclasses.replace(
        config, head_dim=64, position_embedding="rotary", rope_scaling=scaling
    )
    plain = rotary_frequencies(dataclasses.replace(cfg, rope_scaling=None))[0]
    ratio = rotary_frequencies(cfg)[0] / plain
    wavelength = 2 * np.pi / plain
    np.testing.assert_allclose(ratio[wavelength < 16], 1, rtol=1e-6)
    np.testing.assert_allclose(ratio[wavelength > 64], 1 / 8, rtol=1e-6)
    between = ratio[(wavelength > 16) & (wavelength < 64)]
    assert len(between) > 1 and np.all(np.diff(between) < 0)


def test_settings_survive_json(config):
    cfg = dataclasses.replace(config, **VARIANTS["gemma"])
    assert TransformerConfig(**json.loads(json.dumps(dataclasses.asdict(cfg)))) == cfg
