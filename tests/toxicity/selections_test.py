"""What selections keep of documents in a list; `filter_test` has them from the command line."""

import numpy as np
import pytest

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.toxicity import selections


def document(id, toxicity, words=3):
    return records.Document(str(id), " ".join(["word"] * words), toxicity)


def ids(documents):
    return sorted(d.id for d in documents)


def test_the_most_toxic_share_is_what_the_least_toxic_leaves():
    documents = [document(i, i % 7 / 10) for i in range(20)]
    generator = np.random.default_rng(0)
    most = selections.MostToxic(0.3).select(documents, generator)
    least = selections.LeastToxic(0.7).select(documents, generator)
    assert len(most) == 6 and ids([*most, *least]) == ids(documents)
    assert min(d.toxicity for d in most) >= max(d.toxicity for d in least)


def test_ties_do_not_depend_on_the_order_of_the_input():
    documents = [document(i, 0.5) for i in range(100)]
    keep = selections.LeastToxic(0.3)
    generator = np.random.default_rng(0)
    kept = keep.select(documents, generator)
    assert len(kept) == 30
    assert ids(kept) == ids(keep.select(documents[::-1], generator))
    # Not the first 30 ids either: ids often carry an order.
    assert ids(kept) != ids(documents[:30])


@pytest.mark.parametrize("values", [3, 1000])
@pytest.mark.parametrize("unscored", [0, 30])
def test_the_least_toxic_are_the_first_of_all_in_order(values, unscored):
    """Ties by the hash of the id, those without a score last; of whatever many are wanted."""
    draws = np.random.default_rng(0).integers(values, size=200).tolist()
    draws[:unscored] = [None] * unscored
    documents = [document(i, draw and draw / values) for i, draw in enumerate(draws)]
    order = sorted(
        documents,
        key=lambda d: (d.toxicity is None, d.toxicity or 0.0, records.stable_hash(d.id)),
    )
    for share in (0.005, 0.3, 0.84, 0.9, 1.0):
        kept = selections.LeastToxic(share).select(documents, np.random.default_rng(0))
        assert list(kept) == order[: round(share * 200)]


def test_shares_are_exact():
    documents = [document(i, i / 1000) for i in range(100)]
    generator = np.random.default_rng(0)
    assert len(selections.LeastToxic(0.29).select(documents, generator)) == 29
    assert len(selections.RandomShare(0.29).select(documents, generator)) == 29
    assert len(selections.LeastToxic(1.0).select(documents, generator)) == 100


def test_within_lengths_the_least_toxic_is_not_the_shortest():
    # Toxicity rises with length: the plain filter keeps the short, the stratified one both.
    documents = [document(i, (i + 1) / 200, words=i + 1) for i in range(100)]
    generator = np.random.default_rng(0)
    plain = selections.LeastToxic(0.5).select(documents, generator)
    stratified = selections.LeastToxicPerLength(0.5, strata=2).select(documents, generator)
    assert ids(plain) == ids(documents[:50])
    assert ids(stratified) == ids(documents[:25] + documents[50:75])


def test_strata_smaller_than_the_share_keep_it_together():
    documents = [document(i, i / 100, words=i + 1) for i in range(10)]
    for fraction, strata, count in [(0.5, 10, 5), (0.3, 4, 3), (0.5, 100, 5)]:
        keep = selections.LeastToxicPerLength(fraction, strata)
        assert len(keep.select(documents, np.random.default_rng(0))) == count


def test_a_random_share_does_not_look_at_scores():
    low = [document(i, i / 1000) for i in range(200)]
    high = [document(i, 1 - i / 1000) for i in range(200)]
    share = selections.RandomShare(0.5)
    kept = share.select(low, np.random.default_rng(3))
    assert ids(kept) == ids(share.select(high, np.random.default_rng(3)))
    assert ids(kept) != ids(share.select(low, np.random.default_rng(4)))
    assert 0.05 < np.mean([d.toxicity for d in kept]) < 0.15


def test_half_is_kept_and_length_is_in_tenths_unless_told():
    assert selections.LeastToxic() == selections.LeastToxic(0.5)
    assert selections.RandomShare() == selections.RandomShare(0.5)
    assert selections.LeastToxicPerLength() == selections.LeastToxicPerLength(0.5, 10)
    assert selections.LeastToxic(1.0).fraction == 1.0
    for fraction in (0.0, -0.1, 1.1, 2.0):
        with pytest.raises(UserError, match=f"KEEP_FRACTION is {fraction}"):
            selections.LeastToxic(fraction)


def test_one_stratum_is_the_plain_filter():
    documents = [document(i, (i * 7 % 100) / 100, words=i + 1) for i in range(100)]
    generator = np.random.default_rng(0)
    kept = selections.LeastToxicPerLength(0.3, strata=1).select(documents, generator)
    assert ids(kept) == ids(selections.LeastToxic(0.3).select(documents, generator))
