"""The schedule of rows comes to an end, whatever ends when, and every sample has one row."""

import numpy as np
import pytest

from detox_jax.generation.schedule import Schedule


def _run(lengths, prompts, samples, most_rows, limit, shards, has_prefill=True):
    """Decodes samples of known lengths as `Decoder` does; returns what ended, in order."""
    rows = Schedule(
        prompts,
        samples,
        most_rows=most_rows,
        limit=limit,
        shards=shards,
        has_prefill=has_prefill,
    )
    step_R, done_R = np.zeros(rows.num_rows, int), np.ones(rows.num_rows, bool)
    length_R, ended = np.zeros(rows.num_rows, int), []
    for _ in range(10_000):
        if rows.finished:
            return ended
        while filling := rows.fill():
            part = rows.num_rows // shards
            for row in np.flatnonzero(filling.source_R >= 0):
                assert done_R[row]
                prompt = filling.prompts[row // part][filling.source_R[row]]
                length_R[row] = lengths[prompt * samples + filling.sample_R[row]]
                step_R[row], done_R[row] = 0, False
        before = step_R.sum()
        while done_R.sum() < min(rows.enough, rows.num_rows):
            step_R += ~done_R
            done_R |= step_R >= length_R
        assert step_R.sum() > before, "the loop was left without a step"
        ended += [(prompt, sample) for _, prompt, sample in rows.advance(step_R, done_R)]
        if (stay := rows.shrink()) is not None:
            assert len(stay) == rows.num_rows
            part = len(done_R) // shards
            places = stay + part * np.repeat(np.arange(shards), rows.num_rows // shards)
            assert set(np.flatnonzero(~done_R)) <= set(places.tolist())
            step_R, done_R, length_R = step_R[places], done_R[places], length_R[places]
    raise AssertionError("the schedule does not end")


@pytest.mark.parametrize("shards", [1, 2, 8])
@pytest.mark.parametrize(
    ("samples", "prompts_at_once"), [(25, 10), (25, 16), (1, 256), (3, 16), (8, 40)]
)
def test_every_sample_ends_once(samples, prompts_at_once, shards):
    """Sizes that are and are not multiples of their parts; 10 x 25 is the protocol's batch."""
    noise = np.random.default_rng(0)
    at_once = -(-prompts_at_once // shards) * shards
    for limit, prompts in ((20, 112), (200, 37), (1000, 5)):
        lengths = noise.integers(1, limit + 1, size=prompts * samples)
        ended = _run(lengths, prompts, samples, at_once * samples, limit, shards)
        assert sorted(ended) == [(p, s) for p in range(prompts) for s in range(samples)]


def test_texts_that_end_in_one_shard_alone():
    """Of two shards one is done and the other goes on: no smaller batch, and no standstill."""
    lengths = np.array([1] * 12 + [300] * 4 + [1] * 4 + [300] * 12)
    ended = _run(lengths, 32, 1, most_rows=32, limit=300, shards=2)
    assert len(ended) == 32


def test_the_last_rows_go_on_in_smaller_batches():
    """Most texts are short, one goes on for long."""
    lengths = np.array([3] * 255 + [1000])
    rows = Schedule(256, 1, most_rows=256, limit=1000, shards=1, has_prefill=False)
    assert rows.fill() is not None and rows.enough == 128
    done_R = np.array(lengths) <= 3
    rows.advance(np.minimum(3, lengths), done_R)
    stay = rows.shrink()
    assert stay is not None and rows.num_rows == 16 and 255 in stay
    assert rows.enough == 16
