"""Which sample stands in which row: every sample once, and a loop that always goes on."""

import numpy as np
import pytest

from detox_jax.generation.schedule import Schedule

# The most prompts at once, samples of each, shards; the first are the demo's.
SHAPES = [(10, 25, 1), (8, 25, 1), (32, 25, 1), (150, 1, 1), (4, 8, 1), (16, 1, 8), (8, 25, 4)]
LIMIT = 20  # tokens of a sample
GPT2 = 124_000_000  # parameters


def _decode(schedule, lengths, shards):
    """The loop of `Decoder.finished`, with samples that end after so many tokens.

    Args:
      schedule: of the samples.
      lengths: tokens by prompt and index of the sample.
      shards: of the batch.

    Returns:
      What ended, in order, and the sizes that the batch had.
    """
    step_R, done_R = np.zeros(schedule.num_rows, int), np.ones(schedule.num_rows, bool)
    length_R = np.zeros(schedule.num_rows, int)
    ended, sizes = [], [schedule.num_rows]
    while not schedule.finished:
        while filling := schedule.fill():
            per_shard = schedule.num_rows // shards
            for row in np.flatnonzero(filling.source_R >= 0):
                prompt = filling.prompts[row // per_shard][filling.source_R[row]]
                step_R[row], done_R[row] = 0, False
                length_R[row] = lengths[prompt, filling.sample_R[row]]
        enough = schedule.enough
        assert done_R.sum() < enough <= schedule.num_rows
        while done_R.sum() < enough:
            step_R += ~done_R
            done_R |= step_R >= length_R
        ended += [(n, sample) for _, n, sample in schedule.advance(step_R, done_R)]
        per_shard = schedule.num_rows // shards
        if (stay := schedule.shrink()) is not None:
            stay = (stay.reshape(shards, -1) + per_shard * np.arange(shards)[:, None]).ravel()
            step_R, done_R, length_R = step_R[stay], done_R[stay], length_R[stay]
            sizes.append(schedule.num_rows)
    return ended, sizes


@pytest.mark.parametrize("end", [1 / 4, 1 / 12, 1 / 100], ids="end={:.2f}".format)
@pytest.mark.parametrize(("rows", "samples", "shards"), SHAPES)
def test_every_turn_takes_a_step_and_every_sample_ends_once(rows, samples, shards, end):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        prompts = int(rng.integers(1, 4 * rows))
        lengths = np.minimum(rng.geometric(end, (prompts, samples)), LIMIT)
        schedule = Schedule(
            prompts,
            samples,
            most_rows=rows * samples,
            limit=LIMIT,
            shards=shards,
            bucket=16,
            num_params=GPT2,
        )
        ended, sizes = _decode(schedule, lengths, shards)
        assert sorted(ended) == [(n, sample) for n in range(prompts) for sample in range(samples)]
        assert sizes == sorted(set(sizes), reverse=True)
        assert all(size % shards == 0 for size in sizes)


@pytest.mark.parametrize(("num_params", "smaller"), [(GPT2, [16]), (675_328, [])])
def test_the_last_samples_go_on_in_a_smaller_batch(num_params, smaller):
    """One sample of 250 takes all steps: a batch of 250 rows halves once it alone is left.

    Not with a model as small as the demo's, which takes all of its steps while that is compiled.
    """
    lengths = np.ones((10, 25), int)
    lengths[3, 7] = 100
    schedule = Schedule(
        10, 25, most_rows=250, limit=100, shards=1, bucket=16, num_params=num_params
    )
    ended, sizes = _decode(schedule, lengths, shards=1)
    assert len(set(ended)) == 250 and ended[-1] == ((3, 7) if smaller else (9, 24))
    assert sizes == [250, *smaller]
    assert schedule.row_steps == 250 + 99 * sizes[-1]


@pytest.mark.parametrize(("prompts", "row_steps"), [(16, 416), (10, 250), (20, 500), (3, 80)])
def test_continuations_that_reach_their_limit_take_equal_turns(prompts, row_steps):
    """16 prompts in place of 10 at a time took 500 rows' steps for 400 samples."""
    schedule = Schedule(
        prompts, 25, most_rows=250, limit=LIMIT, shards=1, bucket=16, num_params=GPT2
    )
    lengths = np.full((prompts, 25), LIMIT)
    assert len(_decode(schedule, lengths, 1)[0]) == prompts * 25
    assert schedule.row_steps == row_steps * LIMIT


@pytest.mark.parametrize(("num_params", "rooms"), [(GPT2, {10, 3}), (675_328, {10})])
def test_few_prompts_are_inserted_by_a_program_of_their_own(num_params, rooms):
    """Those of a small model are prefilled, with padding, by the program that all of them take."""
    lengths = np.random.default_rng(0).integers(1, LIMIT, (112, 25))
    schedule = Schedule(
        112, 25, most_rows=250, limit=LIMIT, shards=1, bucket=16, num_params=num_params
    )
    fill, seen = schedule.fill, set()

    def counted():
        filling = fill()
        seen.update({filling.room} if filling else ())
        return filling

    schedule.fill = counted
    assert len(_decode(schedule, lengths, 1)[0]) == 112 * 25
    assert seen == rooms
