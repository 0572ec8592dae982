"""Krippendorff's alpha: his published example, worked by hand, and what has no alpha."""

import math

import numpy as np
import pytest

from detox_jax.human import alpha

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, twelve
# units, five values, some missing. He prints the matrix of coincidences, and alpha by level.
OBSERVERS = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]
COINCIDENCES = np.array(
    [
        [7, 4 / 3, 1 / 3, 1 / 3, 0],
        [4 / 3, 10, 4 / 3, 1 / 3, 0],
        [1 / 3, 4 / 3, 8, 1 / 3, 0],
        [1 / 3, 1 / 3, 1 / 3, 4, 0],
        [0, 0, 0, 0, 3],
    ]
)


def counts_of(observers):
    values = np.array([line.split() for line in observers])
    return np.stack([(values == str(value)).sum(axis=0) for value in range(1, 6)], axis=1)


def alphas(counts_UC):
    summed = alpha.coincidences(np.array(counts_UC)).sum(axis=0)[..., None]
    return [float(alpha.alpha(summed, level)[0]) for level in ("nominal", "ordinal")]


def test_the_published_example_has_its_coincidences_and_its_alphas():
    counts_UC = counts_of(OBSERVERS)
    np.testing.assert_allclose(alpha.coincidences(counts_UC).sum(axis=0), COINCIDENCES, atol=1e-12)
    nominal, ordinal = alphas(counts_UC)
    # By hand: 40 values, 32 of them on the diagonal, 9 13 10 5 3 of each category:
    # 1 - 39 * (40 - 32) / (40^2 - 384) for nominal.
    assert nominal == pytest.approx(1 - 39 * 8 / 1216)
    assert (round(nominal, 3), round(ordinal, 3)) == (0.743, 0.815)


def test_two_raters_of_three_answers_are_worked_by_hand():
    """Units LL LW TT WW; L and T 3 and 2 times, W 3: n = 8, n - 1 = 7."""
    counts_UC = [[2, 0, 0], [1, 0, 1], [0, 2, 0], [0, 0, 2]]
    nominal, ordinal = alphas(counts_UC)
    assert nominal == pytest.approx(1 - 7 * 2 / (64 - 9 - 4 - 9))
    # Distances squared: L-T (3/2 + 2/2)^2, T-W the same, L-W (3/2 + 2 + 3/2)^2.
    near, far = 2.5**2, 5.0**2
    expected = 2 * (3 * 2 * near + 2 * 3 * near + 3 * 3 * far)
    assert ordinal == pytest.approx(1 - 7 * 2 * far / expected)
    assert ordinal < nominal


def test_a_unit_with_one_rating_does_not_count():
    counts_UC = [[2, 0, 0], [0, 1, 1], [0, 0, 2]]
    assert alphas([*counts_UC, [1, 0, 0], [0, 0, 0]]) == pytest.approx(alphas(counts_UC))


def test_perfect_agreement_is_one_and_one_category_alone_has_no_alpha():
    assert alphas([[2, 0, 0], [0, 3, 0], [0, 0, 2]]) == pytest.approx([1, 1])
    assert all(map(math.isnan, alphas([[3, 0, 0], [3, 0, 0]])))
    assert all(map(math.isnan, alphas([[1, 0, 0], [0, 1, 0]])))


def test_agreement_is_the_share_of_equal_pairs():
    same_U, pairs_U = alpha.pairs(np.array([[3, 0, 0], [1, 1, 1], [2, 1, 0]]))
    # Of three ratings three pairs a unit: 3, 0 and 1 of them equal.
    assert (same_U.tolist(), pairs_U.tolist()) == ([3, 0, 1], [3, 3, 3])
    # Of two one pair, of one and of none no pair.
    same_U, pairs_U = alpha.pairs(np.array([[0, 0, 3], [1, 0, 1], [0, 1, 0], [0, 0, 0]]))
    assert (same_U.tolist(), pairs_U.tolist()) == ([3, 0, 0, 0], [3, 1, 0, 0])


def test_resamples_are_computed_side_by_side():
    rng = np.random.default_rng(0)
    matrices_DCC = alpha.coincidences(rng.integers(0, 3, size=(5, 3)))
    together = alpha.alpha(np.moveaxis(matrices_DCC, 0, 2), "ordinal")
    alone = [alpha.alpha(matrix[..., None], "ordinal")[0] for matrix in matrices_DCC]
    np.testing.assert_allclose(together, alone)
