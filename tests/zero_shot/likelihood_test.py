"""Likelihoods: shared contexts change nothing, rows and batches hold every pair once."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detox_jax.errors import UserError
from detox_jax.generation.steering import one_pass
from detox_jax.models import kernels
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.zero_shot import likelihood
from detox_jax.zero_shot.likelihood import LikelihoodReader, Row, batches, pack, padded_lengths
from tests.conftest import random_params

MAX_LENGTH = 24


def _pairs(vocab_size):
    """Several continuations of one context, one-token ones, other contexts, and too long ones."""
    ids = np.random.default_rng(0).integers(1, vocab_size, 400).tolist()
    take = iter(ids).__next__
    some = lambda n: [take() for _ in range(n)]  # noqa: E731
    shared = some(7)
    pairs = [(shared, some(n)) for n in (3, 1, 1, 5, 9, 8)]
    pairs += [(some(1), some(4)), (some(30), some(6)), (some(24), some(1)), (some(2), some(24))]
    return [*pairs, (shared, [])]


@pytest.mark.parametrize("kind", ["learned positions", "sliding window", "kernel"])
def test_as_if_each_pair_were_read_alone(kind, config, one_device_mesh, monkeypatch):
    """Also where a kernel attends to the rows of one branch, and logits are of some places."""
    monkeypatch.setattr(one_pass, "_PLACES", 15)
    asked = []
    if kind == "kernel":
        config = dataclasses.replace(config, attention_kernel="cudnn")  # Compiled for this alone.

        def choose(cfg, num_rows, length, *, causal=True):
            asked.append(causal)
            kernel = kernels.Cudnn(cfg.attention_scale, implementation="xla")
            return (kernel, "") if causal else (None, "")

        monkeypatch.setattr(kernels, "choose", choose)
    if kind == "sliding window":
        config = dataclasses.replace(config, position_embedding="rotary", sliding_window=5)
    model, params = random_params(config)
    pairs = _pairs(config.vocab_size)
    read = jax.jit(lambda tokens: model.apply({"params": params}, tokens, enable_dropout=False))

    def log_probs_of(inputs):
        tokens = np.zeros((len(pairs), MAX_LENGTH), np.int32)
        for row, ids in zip(tokens, inputs, strict=False):
            row[: len(ids)] = ids
        return np.asarray(jax.nn.log_softmax(read(tokens)))

    shared = pairs[0][0]
    best = int(log_probs_of([shared])[0, len(shared) - 1].argmax())
    pairs[1:3] = [(shared, [best]), (shared, [best % (config.vocab_size - 1) + 1])]
    rows = pack(pairs, MAX_LENGTH)
    assert len(rows) < len(pairs) - 1  # Something is shared.
    found = LikelihoodReader(model, params, one_device_mesh, 4, MAX_LENGTH)(pairs)

    inputs = [(context + continuation)[-(MAX_LENGTH + 1) :][:-1] for context, continuation in pairs]
    log_probs = log_probs_of(inputs)
    for number, (_, continuation) in enumerate(pairs):
        end = len(inputs[number])
        places = log_probs[number, end - len(continuation) : end] if continuation else []
        chosen = [place[token] for place, token in zip(places, continuation, strict=True)]
        assert found[number].log_probability == pytest.approx(sum(chosen), abs=1e-4)
        greedy = all(p.argmax() == t for p, t in zip(places, continuation, strict=True))
        assert found[number].is_greedy == greedy
    assert [one.is_greedy for one in found[:4]] == [False, True, False, False]
    assert kind != "kernel" or set(asked) == {True, False}


def test_a_branch_sees_the_context_and_itself():
    mask = np.asarray(likelihood.branch_mask(np.array([[0, 0, 1, 1, 2]])))[0]
    assert mask.astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


def test_a_row_by_hand():
    (row,) = pack([([1, 2], [3, 4, 5]), ([1, 2], [6]), ([1, 2], [7, 8])], 10)
    assert row.tokens == [1, 2, 3, 4, 7]
    assert row.branches == [0, 0, 1, 1, 2]
    assert row.positions == [0, 1, 2, 3, 2]
    assert row.reads == [1, 2, 3, 1, 1, 4]
    assert row.targets == [3, 4, 5, 6, 7, 8]
    assert row.scored == {0: slice(0, 3), 1: slice(3, 4), 2: slice(4, 6)}


@pytest.mark.parametrize("texts", [100, 1_000])
def test_room_does_not_grow_with_the_texts_of_a_context(texts):
    """A row that took all that a long context holds would be 32,768 tokens."""
    pairs = [([1], [2] * (20 + number % 30)) for number in range(texts)]
    rows = pack([*pairs, ([1], [2] * 700)], 32_768)
    shapes = [
        (arrays[0].shape, arrays[4].shape, arrays[1] is None) for _, arrays in batches(rows, 4)
    ]
    # What is alone in its row needs no mask, and nothing else is padded to its length.
    assert shapes[0] == ((1, 704), (1, 1024), True)
    for (B, L), (_, T), is_causal in shapes[1:]:
        assert B <= 4 and L <= 512 and T <= 512 and not is_causal


def test_logits_of_some_places_are_there_at_once(config, monkeypatch):
    """Room grows with the vocabulary by what `_PLACES` allow, not by all that is scored."""
    monkeypatch.setattr(one_pass, "_PLACES", 64)
    B, L = 4, 256

    def temporary_bytes(vocab_size):
        model = TransformerLM(dataclasses.replace(config, vocab_size=vocab_size, max_length=L))
        params, _ = meshes.abstract_params(model)
        ids_BL = jax.ShapeDtypeStruct((B, L), np.int32)
        read = jax.jit(likelihood.read, static_argnums=0)
        compiled = read.lower(model, params, *[ids_BL] * 5).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    growth = temporary_bytes(16_384) - temporary_bytes(8_192)
    assert growth < 4 * 64 * 8_192 * 4 < B * L * 8_192 * 4 / 2


_IDS = st.integers(1, 3)
_PAIR = st.tuples(st.lists(_IDS, min_size=1, max_size=9), st.lists(_IDS, max_size=6))


@settings(max_examples=50, deadline=None)
@given(st.lists(_PAIR, max_size=12))
def test_every_pair_is_in_one_row_and_every_row_in_one_batch(pairs):
    rows = pack(pairs, 8)
    assert all(len(row.tokens) <= 8 for row in rows)
    scored = sorted(itertools.chain.from_iterable(row.scored for row in rows))
    assert scored == [number for number, (_, continuation) in enumerate(pairs) if continuation]
    for row in rows:
        for number, part in row.scored.items():
            assert row.targets[part] == pairs[number][1]
    batched = [row for batch, _ in batches(rows, 4) for row in batch]
    assert sorted(map(id, batched)) == sorted(map(id, rows))


def test_shapes_are_few_and_the_longest_come_first():
    lengths = np.random.default_rng(0).integers(1, 300, 500)
    rows = [Row.of_context([1] * int(length)) for length in lengths]
    for number, row in enumerate(rows):
        row.add(number, [1] * (1 + number % 20))
    shapes = [arrays[0].shape for _, arrays in batches(rows, 8)]
    assert len({length for _, length in shapes}) == 4 and len(set(shapes)) <= 8
    assert [length for _, length in shapes] == sorted((s[1] for s in shapes), reverse=True)
    # A short last batch is not mostly padding, and divides among the shards of the mesh.
    assert [arrays[0].shape[0] for _, arrays in batches(rows[:40], 32)] == [32, 8]
    assert [arrays[0].shape[0] for _, arrays in batches(rows[:34], 32, 8)] == [32, 8]


@pytest.mark.parametrize(
    ("lengths", "most", "padded"),
    [
        ([], 4, []),
        ([3, 5], 4, [16]),
        ([3, 20, 40], 4, [16, 32, 48]),
        # Two lengths for three sizes: the many short rows are not padded to the next.
        ([10] * 9 + [20] + [40], 2, [16, 48]),
        ([10] + [20] * 9 + [40], 2, [32, 48]),
    ],
)
def test_padded_lengths(lengths, most, padded):
    assert padded_lengths(lengths, most) == padded


def test_a_continuation_beyond_the_context_is_refused():
    with pytest.raises(UserError, match="a continuation has 9 tokens, but the model reads 8"):
        pack([([1], [1] * 9)], 8)
