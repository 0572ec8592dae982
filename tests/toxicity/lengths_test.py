"""Documents of the lengths that another corpus has."""

import collections

import numpy as np
import pytest

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.toxicity import lengths


def documents(*sizes):
    return [records.Document(f"d{i}", " ".join(["word"] * n)) for i, n in enumerate(sizes)]


def sizes(chosen):
    return [lengths.num_words(document) for document in chosen]


def test_of_every_length_as_many_the_first_ones_in_their_order():
    chosen, counts = lengths.of_lengths(documents(3, 5, 3, 9, 5, 3, 7), [5, 3, 3], "x")
    assert [d.id for d in chosen] == ["d0", "d1", "d2"]
    assert counts == {"documents": 3, "words": 11, "exact": 3, "words_taken": 11}


def test_a_length_that_is_not_there_takes_the_nearest():
    chosen, counts = lengths.of_lengths(documents(2, 6, 20, 7), [10, 8, 1], "x")
    # 10 takes 7, which is nearer than 6 and 20, then 8 takes 6, and 1 takes 2.
    assert sizes(chosen) == [2, 6, 7]
    assert counts == {"documents": 3, "words": 19, "exact": 0, "words_taken": 15}


def test_of_two_as_near_the_one_that_evens_out_the_words():
    # 10 and 9 take the shorter neighbours in turn with the longer: 8 and 11 are as near to neither.
    chosen, counts = lengths.of_lengths(documents(9, 11, 3, 5), [10, 4], "x")
    assert sizes(chosen) == [9, 5] and counts["words_taken"] == counts["words"] == 14


def test_lengths_are_those_of_the_other_whatever_the_choice_is_like():
    generator = np.random.default_rng(0)
    pool = documents(*generator.integers(1, 40, 3000))
    wanted = [int(n) for n in generator.integers(5, 30, 400)]
    chosen, counts = lengths.of_lengths(pool, wanted, "x")
    assert collections.Counter(sizes(chosen)) == collections.Counter(wanted)
    assert counts["exact"] == 400


@pytest.mark.parametrize(("share", "expected"), [(1.0, [1, 2, 3, 7, 8, 9]), (1 / 3, [2, 8])])
def test_a_share_of_lengths_is_alike_divided(share, expected):
    assert lengths.share_of([9, 1, 2, 8, 3, 7], share) == expected
    assert lengths.share_of([], share) == []


def test_a_third_has_a_third_of_the_words():
    wanted = [int(n) for n in np.random.default_rng(1).geometric(0.1, 900)]
    third = lengths.share_of(wanted, 1 / 3)
    assert len(third) == 300
    assert abs(3 * sum(third) - sum(wanted)) < 0.01 * sum(wanted)


def test_too_few_documents_are_no_control():
    with pytest.raises(UserError, match="LENGTHS_OF=kept: 3 lengths, but only 2 documents"):
        lengths.of_lengths(documents(1, 2), [1, 1, 2], "kept")
