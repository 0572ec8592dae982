"""The encoder: what padding, order and distance do to its logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from detox_jax.errors import UserError
from detox_jax.models import disentangled
from detox_jax.models.encoder import Encoder
from detox_jax.models.encoder_config import EncoderConfig, RelativePositions
from detox_jax.parallel import mesh as meshes

BERT = EncoderConfig(
    vocab_size=60,
    emb_dim=16,
    num_heads=2,
    num_layers=2,
    mlp_dim=24,
    num_labels=3,
    max_length=20,
)
ROBERTA = dataclasses.replace(BERT, position_offset=2, uncounted_id=2, type_vocab_size=1)
DEBERTA = dataclasses.replace(
    BERT,
    absolute_positions=False,
    type_vocab_size=0,
    relative_positions=RelativePositions(span=6, max_distance=20),
    head_activation="gelu_exact",
)
OWN = dataclasses.replace(
    DEBERTA,
    relative_positions=RelativePositions(
        span=5, max_distance=None, shared_projections=False, norm=False
    ),
)
# The tests of interop run more families.
CONFIGS = {"bert": BERT, "roberta": ROBERTA, "deberta": DEBERTA, "own projections": OWN}
TOKENS_BL = np.array([[3, 9, 17, 4, 0, 0, 0], [3, 8, 21, 30, 31, 32, 4]], np.int32)


@pytest.fixture(scope="module", params=CONFIGS)
def made(request):
    """A config, random parameters, and the compiled model."""
    config = CONFIGS[request.param]
    shapes, _ = meshes.abstract_params(Encoder(config))
    noise = np.random.default_rng(0)
    params = jax.tree.map(lambda s: noise.normal(scale=0.7, size=s.shape).astype(s.dtype), shapes)
    return config, params, jax.jit(_apply, static_argnums=0)


def _apply(config, params, tokens_BL, starts_BT=None):
    return Encoder(config).apply({"params": params}, tokens_BL, starts_BT, enable_dropout=False)


def test_padding_changes_nothing(made):
    config, params, apply = made
    logits_BC = np.asarray(apply(config, params, TOKENS_BL))
    wider = apply(config, params, np.pad(TOKENS_BL, ((0, 0), (0, 9))))
    np.testing.assert_allclose(wider, logits_BC, atol=1e-5)
    assert logits_BC.dtype == np.float32 and logits_BC.shape == (2, 3)


def test_texts_of_a_row_do_not_see_each_other(made):
    """One behind the other, in a row that is longer than any text may be."""
    config, params, apply = made
    first, second = TOKENS_BL[0, :4], TOKENS_BL[1]
    with_padding_id = np.array([3, 2, 9, 2, 4], np.int32)  # Which RoBERTa does not count.
    texts = [second, with_padding_id, first]
    expected = [np.asarray(apply(config, params, text[None]))[0] for text in texts]
    L = 25
    assert config.max_length < L
    tokens_BL = np.zeros((3, L), np.int32)  # the last row without a text
    tokens_BL[0, :16] = np.concatenate(texts)
    tokens_BL[1, :5] = with_padding_id
    starts_BT = np.array([[0, 7, 12, L], [0, L, L, L], [L] * 4], np.int32)
    logits_BTC = np.asarray(apply(config, params, tokens_BL, starts_BT))
    assert logits_BTC.dtype == np.float32 and logits_BTC.shape == (3, 4, 3)
    np.testing.assert_allclose(logits_BTC[0, :3], expected, atol=1e-5)
    np.testing.assert_allclose(logits_BTC[1, 0], expected[1], atol=1e-5)
    assert np.isfinite(logits_BTC).all()


def test_order_matters(made):
    config, params, apply = made
    swapped = TOKENS_BL.copy()
    swapped[:, [1, 2]] = TOKENS_BL[:, [2, 1]]
    before, after = (np.asarray(apply(config, params, each)) for each in (TOKENS_BL, swapped))
    assert np.abs(before - after).max() > 1e-2


def test_every_parameter_matters_and_names_its_axes(made):
    config, params, _ = made
    loss = jax.jit(jax.grad(lambda p: _apply(config, p, TOKENS_BL)[:, 0].sum()))
    for path, gradient in traverse_util.flatten_dict(loss(params), sep="/").items():
        assert np.abs(gradient).max() > (0 if path.endswith("key/bias") else 1e-6), path
    shapes, axes = meshes.abstract_params(Encoder(config))
    for path, shape in traverse_util.flatten_dict(shapes, sep="/").items():
        names = traverse_util.flatten_dict(axes, sep="/")[path]
        assert len(names) == len(shape.shape), path
        assert ("layers" in names) == path.startswith("layers/"), path


def test_a_padding_token_within_a_roberta_text_counts_no_position():
    config = ROBERTA
    tokens_BL = jnp.array([[3, 2, 9, 4, 0]])
    positions = Encoder(config)._positions(tokens_BL, tokens_BL > 0)
    # Row 1 is that of padding, by whichever kind.
    assert positions.tolist() == [[2, 1, 3, 4, 1]]


@pytest.mark.parametrize("terms", [(True, False), (False, True), (True, True)])
def test_distances_are_those_between_query_and_key(terms):
    """Against a gather of every pair's own distance."""
    relative = RelativePositions(*terms, span=3, max_distance=None)
    noise = np.random.default_rng(0)
    table_SD, q, k = (noise.normal(size=s).astype(np.float32) for s in ((6, 4), (5, 4), (5, 4)))
    project = lambda x: x[:, None] * 2  # noqa: E731  One head.
    ours = disentangled.distance_scores(
        relative,
        disentangled.Distances.create(relative, jnp.asarray(table_SD), 5),
        jnp.asarray(q)[None, :, None],
        jnp.asarray(k)[None, :, None],
        query=project,
        key=project,
        terms=relative.num_terms,
    )
    expected = np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            vector = 2 * table_SD[np.clip(i - j + 3, 0, 5)]
            expected[i, j] += terms[0] * (q[i] @ vector)
            expected[i, j] += terms[1] * (k[j] @ vector) / np.sqrt(4 * relative.num_terms)
    np.testing.assert_allclose(ours[0, 0], expected, rtol=1e-5)


def test_buckets_grow_with_distance():
    relative = RelativePositions(span=8, max_distance=40)
    rows = disentangled.table_row(relative, np.arange(-39, 40))
    half = rows[39:] - 8  # Distances from 0.
    assert half[:5].tolist() == [0, 1, 2, 3, 4]
    assert half.max() == 7 and (np.diff(half) >= 0).all() and len(set(half)) == 8
    assert rows[:39].tolist() == (8 - half[:0:-1].clip(max=8)).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"emb_dim": 15}, "no multiple of num_heads"),
        ({"num_labels": 0}, "num_labels is 0"),
        ({"dtype": "float16"}, "one of float32, bfloat16"),
        ({"head_activation": "sin"}, "head_activation is 'sin'"),
        ({"dropout_rate": 10}, "EncoderConfig.dropout_rate is 10; must be at least 0 and below 1"),
    ],
)
def test_configs_that_make_no_sense(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(BERT, **change)
    with pytest.raises(UserError, match="span is 0"):
        RelativePositions(span=0)
    with pytest.raises(UserError, match="at least 4 and less than"):
        RelativePositions(span=64, max_distance=32)
