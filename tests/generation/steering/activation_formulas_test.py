"""Figures of two and four dimensions, computed by hand."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.generation.steering import activation_formulas as formulas


@pytest.fixture(params=["float64", "float32"])
def array(request):
    with jax.enable_x64(True) if request.param == "float64" else contextlib.nullcontext():
        yield lambda values: jnp.asarray(values, request.param)


def _close(found, expected):
    np.testing.assert_allclose(np.asarray(found).ravel(), np.ravel(expected), rtol=0, atol=1.1e-6)


HEADS = ((1, 0), (0, 2))
DIRECTIONS = ((0.5, 0.5), (1, 0))


def test_offset(array):
    _close(formulas.offset(array((1, 2)), array((0.3, -0.4)), 2.0), (1.6, 1.2))


def test_in_context_vectors(array):
    found = formulas.in_context(array((1, 2)), array((0.3, -0.4)), 0.1)
    _close(found, (1.264745, 1.844023))
    assert np.linalg.norm(found) == pytest.approx(np.sqrt(5), rel=1e-6)


def test_heads_as_published(array):
    x, d = array(HEADS), array(DIRECTIONS)
    found = formulas.per_head(x, d, None, 0.45, keep_head_norms=False)
    _close(found, (1.017649, -1.210120, -0.648844, 1.441875))
    nothing = formulas.per_head(x, d, None, 0.0, keep_head_norms=False)
    _close(nothing, (1.581139, 0, 0, 1.581139))


def test_weights_of_heads_act_behind_the_normalisation(array):
    x, d, weight = array(HEADS), array(DIRECTIONS), 1 + array((0.9, 0.6))
    found = formulas.per_head(x, d, weight, 0.45, keep_head_norms=False)
    _close(found, (-0.049117, -1.580376, -0.923867, 1.283148))
    # Of a direction's own length nothing depends, which is why the published weights do nothing.
    longer = formulas.per_head(x, weight[:, None] * d, None, 0.45, keep_head_norms=False)
    _close(longer, (1.017649, -1.210120, -0.648844, 1.441875))


def test_heads_that_keep_their_norms(array):
    x, d, weight = array(HEADS), array(DIRECTIONS), 1 + array((0.9, 0.6))
    found = formulas.per_head(x, d, weight, 0.45, keep_head_norms=True)
    scale = np.array([1, 2]) / np.sqrt(2.5)
    expected = np.array([[-0.049117, -1.580376], [-0.923867, 1.283148]]) * scale[:, None]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), (1, 2), rtol=1e-6)
    _close(formulas.per_head(x, d, weight, 0.0, keep_head_norms=True), HEADS)


def test_reversal(array):
    toxic, clean = array(((1, 1), (1, 2))), array(((1, 0.5), (0, 1)))
    end = array(((1, 0), (0, 1)))
    found = formulas.reversal(array(HEADS), toxic, clean, end, 1.0, (0.4, 0.6))
    _close(found, (0.879163, -0.783599, -1.895822, -0.137496))
    before = np.array((1, -0.891301, -2.156395, -0.156395))
    _close(found, before * np.sqrt(5) / np.linalg.norm(before))
    _close(formulas.reversal(array(HEADS), toxic, clean, end, 0.0, (0.4, 0.6)), HEADS)


def test_affine(array):
    h, toxic, clean = array((-1, 0)), array((-0.75, 0)), array((2, 1.25))
    _close(formulas.affine(h, toxic, clean, None, 1.0), (1.75, 1.25))
    covariance = array(((1.451351, 0.321982), (0.321982, 1.110158)))
    _close(formulas.affine(h, toxic, clean, covariance, 1.0), (1.637162, 1.169505))
    turned = array(((0, 1), (0, 0)))  # the map is no symmetric one in general
    _close(formulas.affine(array((-0.75, 2)), toxic, clean, turned, 1.0), (4, 1.25))
    _close(formulas.affine(h, toxic, clean, covariance, 0.0), h)


def test_a_direction_of_zeros_changes_nothing(array):
    x, zeros = array(HEADS), jnp.zeros((2, 2))
    _close(formulas.in_context(x, zeros, 5.0), x)
    _close(formulas.per_head(x, zeros, None, 5.0, keep_head_norms=True), x)
    _close(formulas.reversal(x, x, x, zeros, 5.0, (0.4, 0.6)), x)
    assert np.isfinite(formulas.in_context(zeros, x, 5.0)).all()
