"""The map of LM-Steer on figures of two dimensions, computed by hand."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.models import edits, linear_edit
from detox_jax.models.linear_edit import LinearEdit

TABLE = ((1, 0), (0, 1), (-1, 0))


@pytest.fixture(params=["float64", "float32"])
def array(request):
    with jax.enable_x64(True) if request.param == "float64" else contextlib.nullcontext():
        yield lambda values: jnp.asarray(values, request.param)


@pytest.mark.parametrize(
    ("switch", "state", "probabilities"),
    [
        (0, (2, 1), (0.721399, 0.265388, 0.013213)),
        (5, (2.06, 0.92), (0.748467, 0.239374, 0.012158)),
        (-5, (1.94, 1.08), (0.692611, 0.293087, 0.014303)),
    ],
)
def test_the_map(array, switch, state, probabilities):
    """One switch of rank 1, and the same as the second of two, of which the first is off."""
    down, up = array([[[1], [2]]]), 1e-3 * array([[[3], [-4]]])
    h = linear_edit.moved(array((2, 1)), down, up, array([switch]))
    np.testing.assert_allclose(h, state, atol=1e-6)
    np.testing.assert_allclose(jax.nn.softmax(array(TABLE) @ h), probabilities, atol=1e-6)
    both = [jnp.concatenate([array([[[7], [9]]]), matrix]) for matrix in (down, up)]
    again = linear_edit.moved(array((2, 1)), *both, array([0, switch]))
    np.testing.assert_allclose(again, state, atol=1e-6)


def test_switches_of_rows():
    """As a matrix product of each row, written out."""
    noise = np.random.default_rng(0)
    h, down, up = (noise.normal(size=shape) for shape in ((2, 3, 4), (2, 4, 5), (2, 4, 5)))
    switch = np.array([[1.0, 1.0], [-1.0, 1.0]])
    found = linear_edit.moved(*map(jnp.asarray, (h, down, up, switch[:, None])))
    for row in range(2):
        matrix = np.eye(4) + sum(switch[row, s] * up[s] @ down[s].T for s in range(2))
        np.testing.assert_allclose(found[row], h[row] @ matrix.T, rtol=1e-4, atol=1e-4)


def test_it_is_an_edit_of_the_final_state():
    arrays = {"down": jnp.ones((2, 4, 1)), "up": jnp.ones((2, 4, 1))}
    edit = LinearEdit.of(arrays, jnp.zeros(2))
    h = jnp.ones((1, 2, 4), jnp.bfloat16)
    assert edit.site == edits.FINAL
    assert edit(h).dtype == h.dtype and (edit(h) == h).all()
