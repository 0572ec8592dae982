"""Edits of hidden states: what each site is, and that a network without one is what it was."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from detox_jax.models import adaptation as adaptations
from detox_jax.models import edits
from detox_jax.models.transformer import TransformerLM
from tests.conftest import initial_params, random_params
from tests.marks import slow_but
from tests.models.transformer_test import VARIANTS

N, B, L = 2, 3, 7


@struct.dataclass
class Add:
    """Adds what it holds."""

    by: jax.Array
    site: str = struct.field(pytree_node=False)

    def __call__(self, h):
        return h + self.by


@pytest.fixture(params=slow_but(("gpt2", "gemma"), VARIANTS), scope="module")
def variant(request, config):
    return dataclasses.replace(config, **VARIANTS[request.param])


def _offset(config, site, seed=0):
    shape = (config.num_heads, config.head_size) if site == edits.HEADS else (config.emb_dim,)
    shape = shape if site == edits.FINAL else (N, *shape)
    return Add(jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32"), site)


def _tokens(config):
    return jax.random.randint(jax.random.key(5), (B, L), 1, config.vocab_size)


def _read(model, params, tokens, *given):
    """Logits, and what every site held, `[N, B, L, ...]`."""
    logits, variables = jax.jit(
        lambda params, given: model.apply(
            {"params": params}, tokens, enable_dropout=False, edits=given, mutable=[edits.RECORDED]
        )
    )(params, given)
    return logits, edits.recorded(variables)


def test_a_network_without_edits_computes_what_it_did(variant, monkeypatch):
    model, params = random_params(variant)
    tokens = _tokens(variant)

    def traced(*given):
        return str(
            jax.make_jaxpr(
                lambda p, e: model.apply({"params": p}, tokens, enable_dropout=False, edits=e)
            )(params, given)
        )

    now = traced()
    assert traced(_offset(variant, edits.MLP)) != now
    monkeypatch.setattr(edits, "pass_through", lambda module, site, h, edits: h)
    assert traced() == now


def test_no_parameter_and_no_variable_is_added(variant):
    variables = TransformerLM(variant).init(jax.random.key(0), _tokens(variant))
    assert set(variables) == {"params", "params_axes"}
    assert jax.tree.structure(variables["params"]) == jax.tree.structure(initial_params(variant))


def test_every_site_is_edited_in_every_layer(variant):
    """What a site held in the last layer is that of an unedited one, and what the layer before
    passed on; only what stands behind a site changes."""
    model, params = random_params(variant)
    tokens = _tokens(variant)
    plain_logits, plain = _read(model, params, tokens)
    for site in edits.SITES:
        offset = _offset(variant, site)
        logits, states = _read(model, params, tokens, offset)
        assert np.abs(logits[..., 1:300] - plain_logits[..., 1:300]).max() > 1e-3, site
        for other in edits.SITES:
            is_behind = edits.SITES.index(other) > edits.SITES.index(site)
            if variant.parallel_residual and other == edits.MLP:
                is_behind = False  # of the first layer, whose MLP reads what attention does
            if other != edits.FINAL:
                assert np.array_equal(states[other][0], plain[other][0]) != is_behind, (site, other)
        if site == edits.RESIDUAL:  # the second layer reads the first one's, edited
            only_first = Add(offset.by.at[1].set(0.0), site)
            _, first = _read(model, params, tokens, only_first)
            np.testing.assert_array_equal(first[site][1], states[site][1])
            assert np.abs(states[site][1] - plain[site][1]).max() > 0.1


def test_edits_of_the_stream_are_what_they_say(variant):
    """An offset of attention's output and of the MLP's is one of the stream behind them."""
    model, params = random_params(variant)
    tokens = _tokens(variant)
    offset = _offset(variant, edits.MLP)
    of_mlp, _ = _read(model, params, tokens, offset)
    of_stream, _ = _read(model, params, tokens, Add(offset.by, edits.RESIDUAL))
    np.testing.assert_allclose(of_mlp, of_stream, atol=1e-4)
    twice, _ = _read(model, params, tokens, offset, offset)
    of_stream, _ = _read(model, params, tokens, Add(2 * offset.by, edits.RESIDUAL))
    np.testing.assert_allclose(twice, of_stream, atol=1e-4)


@pytest.mark.parametrize(
    "adaptation",
    [
        None,
        adaptations.AdapterConfig(8),
        pytest.param(adaptations.LoRAConfig(2), marks=pytest.mark.slow),
        pytest.param(adaptations.PrefixConfig(4), marks=pytest.mark.slow),
    ],
    ids=["whole", "adapter", "lora", "prefix"],
)
def test_cached_is_uncached(variant, adaptation):
    """Prefilled and decoded with edits as read at once with them, whatever is added to the base."""
    model, params = random_params(variant, adaptation)
    tokens = _tokens(variant)
    given = tuple(_offset(variant, site, seed) for seed, site in enumerate(edits.SITES))
    whole, _ = _read(model, params, tokens, *given)

    def call(cache, tokens, **how):
        return model.apply(
            {"params": params, "cache": cache},
            tokens,
            enable_dropout=False,
            mutable=["cache"],
            edits=given,
            **how,
        )

    shapes = jax.eval_shape(lambda: call({}, jnp.zeros((B, 16), jnp.int32), decode=True))[1]
    cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes["cache"])
    lengths = jnp.full(B, 3, jnp.int32)
    _, variables = jax.jit(
        lambda cache: call(cache, tokens[:, :4], prefill=True, prefill_lengths=lengths)
    )(cache)
    step = jax.jit(lambda cache, token: call(cache, token, decode=True))
    for position in range(3, L):
        logits, variables = step(variables["cache"], tokens[:, position : position + 1])
        np.testing.assert_allclose(logits[:, 0], whole[:, position], atol=1e-4)
