"""The next batch is there early, and counts from when it is taken."""

import numpy as np
import pytest

from detox_jax.training.ahead import Ahead
from tests.training.conftest import Numbered


def _ahead(**changes):
    source = Numbered(lambda _: {"x": np.full((8, 2), source.taken)})
    return source, Ahead(source, lambda rows: {name: rows[name] * 10 for name in rows}, **changes)


def test_batches_come_in_their_order_whether_they_are_read_ahead_or_not():
    source, ahead = _ahead()
    taken = []
    for number in range(1, 7):
        if number % 3:
            ahead.read()
            ahead.read()
            assert source.taken == number
        taken.append(ahead.take()["x"][0, 0])
    assert taken == [10 * number for number in range(1, 7)]


def test_a_position_is_behind_what_was_taken_and_not_what_was_read():
    source, ahead = _ahead()
    assert ahead.state()["taken"] == 0
    ahead.take()
    ahead.read()
    assert source.taken == 2 and ahead.state()["taken"] == 1
    ahead.take()
    assert ahead.state()["taken"] == 2


def test_an_error_comes_with_the_batch_that_it_is_of():
    source, ahead = _ahead()
    ahead.take()
    source._make = lambda _: 1 / 0
    ahead.read()
    assert ahead.state()["taken"] == 1
    with pytest.raises(ZeroDivisionError):
        ahead.take()
