"""The walk over epochs: each in its own order, the same for one seed, resumed where it stood."""

import itertools
import json

import pytest

from detox_jax import output_settings
from detox_jax.errors import UserError
from detox_jax.training.epochs import EpochStream, order


class Epochs:
    """Three examples an epoch, named by the epoch's seed; notes the seeds that it was asked for."""

    def __init__(self, length=3):
        self.length, self.seeds = length, []

    def __call__(self, seed):
        self.seeds.append(seed)
        return iter([(seed, row) for row in range(self.length)])


def stream(read_epoch, seed=7, **identity):
    return EpochStream(read_epoch, seed, {"task": "t", **identity}, "t holds nothing")


def take(examples, count):
    return list(itertools.islice(examples, count))


def test_one_epoch_after_another_each_of_its_own_seed():
    epochs = Epochs()
    taken = take(stream(epochs), 7)
    # The order of data under a seed is part of a configuration's output: it does not change.
    assert epochs.seeds == [7_000_021, 7_000_022, 7_000_023]
    assert taken == [(seed, row) for seed in epochs.seeds for row in range(3)][:7]


def test_seeds_of_runs_do_not_meet_and_are_seeds_whatever_the_run():
    taken = []
    for seed in (0, 1, 2, 2**40):
        epochs = Epochs(length=1)
        take(stream(epochs, seed), 50)
        taken += epochs.seeds
    assert len(set(taken)) == 4 * 50
    assert all(0 <= seed < 2**31 - 1 for seed in taken)


def test_two_seeds_have_no_order_in_common():
    """Of 0, 2147483647 and 4294967294 all epochs were the same."""
    taken = {}
    for seed in (0, 1, 2**31 - 2, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1):
        epochs = Epochs(length=1)
        take(stream(epochs, seed), 20)
        taken[seed] = epochs.seeds
    every = [seed for seeds in taken.values() for seed in seeds]
    assert len(set(every)) == len(every) and all(0 <= seed < 2**31 - 1 for seed in every)
    # Those that were apart already stay: an order is part of a configuration's output.
    assert taken[2**31 - 2][0] == (2**31 - 2) * 1_000_003 % (2**31 - 1)


def test_a_position_of_a_large_seed_in_the_order_of_before_is_refused():
    assert order(2**31 - 2, lambda: False) == {}
    state = stream(Epochs(), 2**31 - 1).state()
    with pytest.raises(UserError, match="is of a version before, which put this data in another"):
        stream(Epochs(), 2**31 - 1, **order(2**31 - 1, lambda: False)).restore(state)


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("named", [False, True], ids=["of_before", "of_now"])
def test_a_check_reads_no_example_for_the_order(is_whole, named):
    """A finished training stays, and an unfinished one of this version goes on."""

    def never():
        raise AssertionError("a check counted the examples")

    there = {"seed": 7, **(order(7, lambda: is_whole) if named else {})}
    with output_settings.ahead():
        ahead = {"seed": 7, **order(7, never)}
    assert output_settings.as_far_as_known(ahead, there) == there
    old, new = (
        {"verb": "train", "settings": {"data": of}, "complete": True}
        for of in (there, output_settings.if_undamaged(ahead))
    )
    assert output_settings.difference(old, new) is None
    other = {**new, "settings": {"data": {**new["settings"]["data"], "seed": 8}}}
    assert output_settings.difference(old, other) is not None


@pytest.mark.parametrize("position", range(8))
def test_a_restored_stream_goes_on_where_it_stood(position):
    whole = stream(Epochs())
    take(whole, position)
    state = json.loads(json.dumps(whole.state()))
    epochs = Epochs()
    resumed = stream(epochs)
    take(resumed, 2)  # It may have been used before.
    resumed.restore(state)
    assert resumed.state() == state
    assert take(resumed, 5) == take(whole, 5)
    assert resumed.state() == whole.state()


def test_a_restored_stream_reads_no_epoch_that_is_over():
    whole = stream(Epochs())
    take(whole, 7)
    epochs = Epochs()
    resumed = stream(epochs)
    resumed.restore(whole.state())
    take(resumed, 1)
    assert epochs.seeds == [7_000_023]


def test_a_position_in_other_data_is_refused_by_name():
    state = stream(Epochs(), length=32).state()
    with pytest.raises(UserError, match="is for length 32, now it is 64; resume with the same"):
        stream(Epochs(), length=64).restore(state)
    with pytest.raises(UserError, match="is for rows None, now it is 8"):
        stream(Epochs(), length=32, rows=8).restore(state)


def test_an_epoch_without_an_example_does_not_go_on_for_ever():
    with pytest.raises(UserError, match="t holds nothing"):
        next(stream(Epochs(length=0)))
