"""Decoding: the text of a row depends on its own prompt, record and sample alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.generation import decoding, sampling, schedule, slots
from detox_jax.models import kernels, kv_cache
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from tests.conftest import random_params

PROMPTS = [[5, 9, 30], [7], [40, 41, 42, 43, 44, 45], [9, 9], [3, 4, 5, 6, 7]]
IDS = ["a", "b", "c", "d", "e"]


def _decoder(config, mesh, method, max_new_tokens=12, seed=3, end_ids=(1,)):
    model, params = random_params(config)
    return decoding.Decoder(
        model,
        params,
        mesh,
        sampling=method,
        max_new_tokens=max_new_tokens,
        end_ids=end_ids,
        seed=seed,
    )


def _decode(decoder, rows, prompts=PROMPTS, ids=IDS, num_samples=3):
    samples = []
    for first in range(0, len(prompts), rows):
        samples += decoder(
            prompts[first : first + rows],
            ids[first : first + rows],
            num_samples=num_samples,
            num_rows=rows,
            bucket=16,
        )
    return [[(s.tokens, s.stopped) for s in group] for group in samples]


@pytest.fixture(scope="module")
def expected(config, one_device_mesh):
    return _decode(_decoder(config, one_device_mesh, sampling.TopPSampling(0.9)), rows=5)


def test_same_text_for_any_batch_size(config, one_device_mesh, expected):
    decoder = _decoder(config, one_device_mesh, sampling.TopPSampling(0.9))
    assert _decode(decoder, rows=1) == expected
    assert _decode(decoder, rows=2) == expected


def test_same_text_for_any_device_count(config, expected):
    for shape in ({"data": 8}, {"data": 2, "model": 2, "fsdp": 2}):
        mesh = meshes.create_mesh(shape)
        decoder = _decoder(config, mesh, sampling.TopPSampling(0.9))
        assert _decode(decoder, rows=8) == expected


def test_same_text_whatever_else_is_in_the_batch(config, one_device_mesh, expected):
    decoder = _decoder(config, one_device_mesh, sampling.TopPSampling(0.9))
    order = [3, 0, 4]
    samples = _decode(decoder, 5, [PROMPTS[i] for i in order], [IDS[i] for i in order])
    assert samples == [expected[i] for i in order]


def _with_programs_of_its_own(config, dropout_rate):
    """An equal model: programs are found by its configuration, and dropout is never on here."""
    return dataclasses.replace(config, dropout_rate=dropout_rate)


def test_same_text_where_only_the_filled_part_of_a_cache_is_read(
    config, one_device_mesh, expected, monkeypatch
):
    """Loops of their own for every eight positions; rows that start later join those of others."""
    monkeypatch.setattr(slots, "_ROOM_MULTIPLE", 8)
    assert slots.rooms(32) == [8, 16, 24, 32]  # Of 16 positions and 12 new ones, in whole tiles.
    config = _with_programs_of_its_own(config, dropout_rate=0.1)
    decoder = _decoder(config, one_device_mesh, sampling.TopPSampling(0.9))
    assert _decode(decoder, rows=5) == expected
    assert _decode(decoder, rows=2) == expected
    together = decoder(PROMPTS, IDS, num_samples=3, num_rows=2, bucket=16)
    assert [[(s.tokens, s.stopped) for s in group] for group in together] == expected


def test_same_text_where_each_layer_has_a_cache_of_its_own(
    config, one_device_mesh, expected, monkeypatch
):
    """And its own matrices, on one device; caches grow by eight positions."""
    monkeypatch.setattr(kv_cache, "_NARROW", 0)
    monkeypatch.setattr(slots, "_GROWTH_MULTIPLE", 8)
    monkeypatch.setattr(slots, "_GROWTH_STEPS", 3)
    config = _with_programs_of_its_own(config, dropout_rate=0.2)
    decoder = _decoder(config, one_device_mesh, sampling.TopPSampling(0.9))
    assert _decode(decoder, rows=5) == expected
    assert _decode(decoder, rows=2) == expected
    together = decoder(PROMPTS, IDS, num_samples=3, num_rows=2, bucket=16)
    assert [[(s.tokens, s.stopped) for s in group] for group in together] == expected
    decoder = _decoder(config, meshes.create_mesh({"data": 8}), sampling.TopPSampling(0.9))
    assert _decode(decoder, rows=8) == expected


def test_a_cache_of_its_own_grows_with_its_rows_and_is_read_where_it_lies(
    config, one_device_mesh, monkeypatch
):
    arguments = {"num_samples": 8, "num_rows": 1, "bucket": 1}
    documents = [[2]] * 3, ["a", "b", "c"]

    def decoder(config):
        method = sampling.TopPSampling(0.9)
        return _decoder(config, one_device_mesh, method, max_new_tokens=31, end_ids=tuple(range(9)))

    expected = decoder(config)(*documents, **arguments)
    lengths = [len(sample.tokens) for group in expected for sample in group]
    assert min(lengths) < 8 and max(lengths) == 31
    monkeypatch.setattr(kv_cache, "_NARROW", 0)
    monkeypatch.setattr(slots, "_GROWTH_MULTIPLE", 8)
    monkeypatch.setattr(slots, "_GROWTH_STEPS", 3)
    calls, advance = [], decoding._advance

    def advanced(program, params, state, *rest, **named):
        filled = int(jnp.max(jnp.where(state.done_R, 0, state.filled_1R)))
        calls.append((filled, state.room))
        if len(calls) == 1:
            traced = jax.make_jaxpr(lambda *rest: slots.advance(program, *rest, **named))
            (step,) = _loops(traced(params, state, *rest).jaxpr)
            assert f"limit_indices=(1, 8, {config.num_heads}" not in str(step)
        return advance(program, params, state, *rest, **named)

    monkeypatch.setattr(decoding, "_advance", advanced)
    grows = decoder(_with_programs_of_its_own(config, dropout_rate=0.3))
    assert grows(*documents, **arguments) == expected
    assert all(filled < room <= (filled + 10) // 8 * 8 for filled, room in calls)
    rooms = [room for _, room in calls]
    assert set(rooms) == {8, 16, 24, 32}
    assert max(rooms) == 32 and any(np.diff(rooms) < 0)  # Short rows behind long ones.


def test_a_cache_has_room_for_some_steps_at_once(config, monkeypatch):
    def rooms(bucket, max_new_tokens, filled):
        model = TransformerLM(config)
        program = slots.Program(model, sampling.Greedy(), max_new_tokens, (1,), bucket, shards=1)
        return [program.room(number) for number in filled]

    assert rooms(64, 20, [0]) == [96]  # Which has all positions from the start.
    monkeypatch.setattr(kv_cache, "_NARROW", 0)
    assert rooms(64, 20, [0, 64, 82]) == [96, 96, 96]  # Not 64 for one step.
    assert rooms(1, 256, [0, 48, 49, 64, 200, 255]) == [64, 64, 128, 128, 256, 272]
    assert rooms(32, 900, [0, 112, 113, 930]) == [128, 128, 256, 944]


def _loops(jaxpr):
    """The bodies of its while-loops, those of loops within them left out."""
    whiles = [equation for equation in jaxpr.eqns if equation.primitive.name == "while"]
    return [equation.params["body_jaxpr"].jaxpr for equation in whiles]


@pytest.mark.parametrize("rows", [1, 8, 11])
def test_rows_that_are_drawn_a_few_at_a_time_get_the_tokens_of_all_at_once(rows, monkeypatch):
    logits = 3 * jax.random.normal(jax.random.key(rows), (rows, 1000))
    keys = jax.random.split(jax.random.key(1), rows)
    method = sampling.TopPSampling(0.9)
    expected = jax.jit(method.sample)(logits, keys)
    assert rows == 1 or len(set(expected.tolist())) > 1
    monkeypatch.setattr(slots, "_BYTES_AT_ONCE", 4 * 4 * 1000)
    seen = []

    def sample(logits_RV, keys_R):
        seen.append(logits_RV.shape)
        return method.sample(logits_RV, keys_R)

    got = jax.jit(lambda *rows: slots.drawn(sample, *rows))(logits, keys)
    np.testing.assert_array_equal(got, expected)
    assert set(seen) == {(1, 1000)}  # Of which `lax.map` makes four; one row is drawn as it is.
    monkeypatch.setattr(kernels, "platform_in_use", lambda: "tpu")
    slots.drawn(sample, logits, keys)
    assert seen[-1] == (rows, 1000)


def test_a_loop_reads_what_rows_that_start_together_have_filled():
    steps = slots.steps_by_room(bucket=1, max_new_tokens=1000)
    assert steps == {256: 257, 512: 256, 768: 256, 1008: 231}
    assert slots.steps_by_room(bucket=16, max_new_tokens=20) == {48: 20}
    # The first two steps find 511 and 512 positions filled.
    assert slots.steps_by_room(bucket=512, max_new_tokens=10) == {256: 0, 512: 2, 528: 8}


def test_samples_records_and_seeds_differ(config, one_device_mesh, expected):
    decoder = _decoder(config, one_device_mesh, sampling.TopPSampling(0.9))
    first, second, _ = expected[0]
    assert first != second
    assert _decode(decoder, 5, PROMPTS, ["z", *IDS[1:]])[0] != expected[0]
    other_seed = _decoder(config, one_device_mesh, sampling.TopPSampling(0.9), seed=4)
    assert _decode(other_seed, 5) != expected


def test_greedy_equals_repeated_full_forward(config, one_device_mesh):
    model, params = random_params(config)
    decoder = _decoder(config, one_device_mesh, sampling.Greedy())
    apply = jax.jit(lambda tokens: model.apply({"params": params}, tokens, enable_dropout=False))
    for prompt, [(tokens, stopped)] in zip(
        PROMPTS, _decode(decoder, rows=5, num_samples=1), strict=True
    ):
        sequence = list(prompt)
        while len(sequence) < len(prompt) + 12:
            padded = np.zeros((1, 64), np.int32)
            padded[0, : len(sequence)] = sequence
            token = int(jnp.argmax(apply(padded)[0, len(sequence) - 1]))
            if token == 1:
                break
            sequence.append(token)
        assert tokens == sequence[len(prompt) :]
        assert stopped == (len(tokens) < 12)


def test_limit_is_exact_and_end_of_text_is_not_text(config, one_device_mesh):
    """Rows either reach exactly the limit or stop before it, whatever their prompt's length."""
    decoder = _decoder(
        config, one_device_mesh, sampling.TemperatureSampling(3.0), max_new_tokens=40
    )
    samples = [s for group in _decode(decoder, rows=5, num_samples=40) for s in group]
    assert {stopped for _, stopped in samples} == {True, False}
    for tokens, stopped in samples:
        assert len(tokens) == 40 if not stopped else len(tokens) < 40
        assert 1 not in tokens and 0 not in tokens


@pytest.mark.parametrize("method", [sampling.Greedy(), sampling.TemperatureSampling(1.0)])
def test_any_of_several_tokens_ends_a_text(config, one_device_mesh, method):
    """A text is what it is without the further end tokens, up to the first of them."""
    long = _decode(_decoder(config, one_device_mesh, method), 5)
    written = [tokens for group in long for tokens, _ in group]
    further = (written[0][4], written[-1][2])
    decoder = _decoder(config, one_device_mesh, method, end_ids=(1, *further))
    cut = 0
    for (tokens, stopped), (before, stopped_before) in zip(
        [sample for group in _decode(decoder, 5) for sample in group],
        [sample for group in long for sample in group],
        strict=True,
    ):
        ends = [i for i, token in enumerate(before) if token in further]
        cut += bool(ends)
        assert tokens == (before[: ends[0]] if ends else before)
        assert stopped == (bool(ends) or stopped_before)
    assert cut >= 2


def test_short_texts_of_more_prompts_than_rows_end(config, one_device_mesh, monkeypatch):
    """Batches shrink while several samples go on: no turn of the loop may stand still."""
    monkeypatch.setattr(schedule, "_WORTH_OPERATIONS", 0)
    prompts = [[5 + n, 9] for n in range(12)]
    ids = [str(n) for n in range(12)]
    method, end_ids = sampling.TemperatureSampling(1.0), tuple(range(1, 80, 2))
    many = _decoder(config, one_device_mesh, method, max_new_tokens=20, end_ids=end_ids)
    few = _decoder(config, one_device_mesh, method, max_new_tokens=20, end_ids=end_ids)
    samples = _decode(many, 10, prompts, ids, num_samples=25)
    assert samples == _decode(few, 1, prompts, ids, num_samples=25)
    assert many.row_steps < 12 * 25 * 20


def test_rows_that_stay_are_taken_array_by_array(config, one_device_mesh, monkeypatch):
    """Beside the rows of before there is half of the keys, or of the values, and never of both."""
    model, params = random_params(config)
    program = slots.Program(model, sampling.Greedy(), 20, (1,), bucket=16, shards=2)
    taken, alive = slots._taken, []
    row_K = np.array([0, 2, 1, 3])  # of two shards of four rows
    with meshes.sharding_scope(one_device_mesh):
        state = jax.jit(slots.empty, static_argnums=(0, 2))(program, params, 8)
        state = dataclasses.replace(state, token_R=jnp.arange(8))
        cache = {
            name: leaf + np.arange(8).reshape(1, 8, *[1] * (leaf.ndim - 2)).astype(leaf.dtype)
            for name, leaf in state.cache.items()
        }
        state = dataclasses.replace(state, cache=cache)
        large = [leaf for leaf in cache.values() if leaf.ndim == 5]
        whole, kept = sum(leaf.nbytes for leaf in large), []

        def spy(layouts, leaves, **where):
            new = taken(layouts, leaves, **where)
            kept.extend(leaf for leaf in new if leaf.ndim == 5)
            here = [leaf for leaf in (*large, *kept) if not leaf.is_deleted()]
            alive.append(sum(leaf.nbytes for leaf in here))
            return new

        monkeypatch.setattr(slots, "_taken", spy)
        smaller = slots.select(state, jnp.asarray(row_K), 2)
    assert len(large) == 2 and all(leaf.is_deleted() for leaf in large)
    assert max(alive) == whole + whole // 4
    stay = np.array([0, 2, 5, 7])
    np.testing.assert_array_equal(smaller.token_R, stay)
    for name, leaf in smaller.cache.items():
        assert leaf.shape[1] == 4, name
        np.testing.assert_array_equal(
            np.asarray(leaf).reshape(-1, 4, leaf[0, 0].size)[0, :, 0], stay
        )


def test_padding_ids_are_never_drawn(config, one_device_mesh):
    decoder = _decoder(config, one_device_mesh, sampling.TemperatureSampling(50.0))
    tokens = [t for group in _decode(decoder, 5, num_samples=40) for s in group for t in s[0]]
    assert len(set(tokens)) > 0.8 * config.vocab_size
    assert 0 < min(tokens) and max(tokens) < config.vocab_size


@pytest.mark.parametrize(
    ("length", "longest", "bucket"),
    [(1, 64, 1), (2, 64, 16), (16, 64, 16), (17, 64, 32), (40, 44, 44)],
)
def test_bucket_length(length, longest, bucket):
    assert decoding.bucket_length(length, longest) == bucket
