"""Texts in rows: each once and whole, little padding, few shapes."""

import numpy as np
import pytest

from detox_jax.classifiers import packed_texts


def _ids(lengths):
    """Each text's tokens say which text it is."""
    return {7 * n: np.full(length, n + 1) for n, length in enumerate(lengths)}


def _batches(lengths, **settings):
    return list(packed_texts.batches(_ids(lengths), **{"rows": 32, "shortest": 3, **settings}))


def _check(batches, lengths):
    """Every text stands once, where its batch says, and nothing else does."""
    ids = _ids(lengths)
    assert sorted(text for batch in batches for text in batch.texts) == list(ids)
    for batch in batches:
        others = batch.tokens_BL.copy()
        for text, row, place in zip(batch.texts, batch.rows, batch.places, strict=True):
            start = batch.starts_BT[row, place]
            stop = start + len(ids[text])
            np.testing.assert_array_equal(batch.tokens_BL[row, start:stop], ids[text])
            others[row, start:stop] = 0
        assert not others.any()
        assert (np.diff(batch.starts_BT) >= 0).all()
        texts = sum(
            len(batch.starts_BT[0]) - (row == batch.tokens_BL.shape[1]).sum()
            for row in batch.starts_BT
        )
        assert texts == len(batch.texts)


def _padding(batches, lengths):
    """Places of all rows for each token."""
    return sum(batch.tokens_BL.size for batch in batches) / sum(lengths)


COMMENTS = np.random.default_rng(0).lognormal(3, 0.8, 3000).clip(3, 512).astype(int).tolist()


@pytest.mark.parametrize("multiple", [1, 8])
def test_many_texts_fill_rows_of_few_shapes(multiple):
    batches = _batches(COMMENTS, multiple=multiple)
    _check(batches, COMMENTS)
    assert _padding(batches, COMMENTS) < 1.03
    assert len({batch.tokens_BL.shape for batch in batches}) <= 4
    assert all(len(batch.tokens_BL) % multiple == 0 for batch in batches)
    longest = [max(map(len, (_ids(COMMENTS)[text] for text in batch.texts))) for batch in batches]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize(
    ("lengths", "settings", "shapes"),
    [
        ([], {}, []),
        ([3], {}, [(1, 8)]),
        ([3] * 4, {}, [(1, 16)]),
        ([3] * 4, {"multiple": 4}, [(4, 8)]),
        ([3], {"multiple": 4}, [(4, 8)]),
        ([70], {}, [(1, 128)]),
        ([64] * 17, {}, [(20, 64)]),  # 3 rows for nothing, and not 15
        ([64] * 33, {}, [(32, 64), (1, 64)]),
        ([512] * 5, {}, [(4, 512), (1, 512)]),
        ([600], {"rows": 2}, [(1, 1024)]),  # one row at least
        # Of rows of 512 and of 128 there would be half for nothing.
        ([300] * 7, {}, [(6, 320), (1, 512)]),
        ([65] * 31, {}, [(25, 80), (6, 128)]),
        ([40] * 32, {}, [(16, 80)]),  # and nothing behind it
        ([60] * 3 + [4] * 3, {"rows": 3}, [(3, 64)]),
    ],
)
def test_shapes(lengths, settings, shapes):
    batches = _batches(lengths, **settings)
    _check(batches, lengths)
    assert [batch.tokens_BL.shape for batch in batches] == shapes


def test_a_row_has_a_place_for_every_text():
    lengths = [3] * 50
    (batch,) = _batches(lengths, rows=3)
    _check([batch], lengths)
    assert batch.starts_BT.shape == (3, 21)
    (batch,) = _batches([1] * 16, shortest=1)
    assert batch.starts_BT.tolist() == [list(range(16))]
