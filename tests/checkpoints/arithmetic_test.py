"""Arithmetic on weights: hand-worked figures, exact cases, and what is in memory at once."""

import weakref

import jax
import ml_dtypes
import numpy as np
import pytest
from etils import epath

from detox_jax.checkpoints import arithmetic, streamed
from detox_jax.checkpoints.arithmetic import Term, weighted_sum
from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.errors import UserError
from tests.checkpoints.models_made import write_model

# Two models with which METHODS' figures were worked out by hand.
BASE, TOXIC = np.array([2.0, 1.0, 0.0], np.float32), np.array([1.0, 2.5, 0.0], np.float32)


@pytest.mark.parametrize(
    ("strength", "logits", "probabilities"),
    [
        (0.0, [2, 1, 0], [0.665241, 0.244728, 0.090031]),
        (0.5, [2.5, 0.25, 0], [0.842116, 0.088758, 0.069125]),
        (1.0, [3, -0.5, 0], [0.925939, 0.027961, 0.046100]),
    ],
)
def test_a_toxic_model_is_forgotten(strength, logits, probabilities):
    left = weighted_sum(BASE, [(-strength, TOXIC)])
    np.testing.assert_array_equal(left, np.float32(logits))
    np.testing.assert_allclose(jax.nn.softmax(left), probabilities, atol=1e-6)


def _random(seed, scale=1.0):
    return np.random.default_rng(seed).normal(scale=scale, size=1000).astype(np.float32)


def test_weight_0_keeps_every_bit():
    base = np.append(_random(0), [-0.0, 0.0, np.float32(1e-45)]).astype(np.float32)
    model = np.append(_random(1), [1.0, -0.0, 3.0]).astype(np.float32)
    assert weighted_sum(base, [(0.0, model)]).tobytes() == base.tobytes()
    assert weighted_sum(base, [(-0.7, base)]).tobytes() == base.tobytes()
    assert weighted_sum(base, []).tobytes() == base.tobytes()


def test_weight_1_of_one_model_is_that_model():
    # Up to 2^28 times smaller than the base: equal; beyond, within 2^-53 of the difference.
    base, model = _random(0), _random(1, 1e-2)
    model += np.sign(model) * np.float32(1e-6)
    np.testing.assert_array_equal(weighted_sum(base, [(1.0, model)]), model)
    tiny = np.float32([3e-16])
    off = abs(float(weighted_sum(np.float32([1.0]), [(1.0, tiny)])[0]) - float(tiny[0]))
    assert 0 < off <= 2.0**-53


def test_an_exact_inverse():
    base, model = _random(0), _random(1)
    # Numbers with few bits: no sum is rounded, and -1 of -1 is the model.
    short, other = (np.round(x * 64) / 64 for x in (base, model))
    np.testing.assert_array_equal(
        weighted_sum(short, [(-1.0, weighted_sum(short, [(-1.0, other)]))]), other
    )
    # Others come back to half a step of what was stored on the way.
    away = weighted_sum(base, [(-1.0, model)])
    back = weighted_sum(base, [(-1.0, away)])
    assert np.all(np.abs(back - model) <= np.spacing(np.abs(away)) / 2 + np.spacing(np.abs(back)))
    both = weighted_sum(base, [(1.0, model), (-1.0, model)])
    assert both.tobytes() == base.tobytes()


def test_numbers_that_are_no_fractions_are_kept():
    counts = np.array([3, 4], np.int32)
    kept = weighted_sum(counts, [(-1.0, np.array([7, 7], np.int32))])
    assert kept.dtype == np.int32 and kept.tolist() == [3, 4]


def test_fewer_bits_are_read_as_they_are_and_rounded_once():
    base = BASE.astype(ml_dtypes.bfloat16)
    model = (BASE + np.float32(2**-12)).astype(np.float32)
    np.testing.assert_array_equal(weighted_sum(base, [(1.0, model)]), model)
    rounded = weighted_sum(base, [(1.0, model)], ml_dtypes.bfloat16)
    np.testing.assert_array_equal(rounded, model.astype(ml_dtypes.bfloat16))


@pytest.fixture(scope="module")
def models(tmp_path_factory, config, vocabulary):
    root = tmp_path_factory.mktemp("models")
    paths = [write_model(root / str(seed), config, vocabulary, seed) for seed in range(3)]
    base, *others = (Checkpoint.open(path) for path in paths)
    return base, [Term(other, weight) for other, weight in zip(others, (-0.5, 0.25), strict=True)]


def test_of_every_model_one_parameter_is_in_memory(models, monkeypatch, tmp_path):
    """What was read and is still there, in bytes, at its highest."""
    base, terms = models
    monkeypatch.setattr(streamed, "_SMALL_BYTES", 0)
    read, alive, highest = Checkpoint.read, {}, [0]

    def counted(self, path):
        array = read(self, path)
        key = len(alive)
        alive[key] = array.nbytes
        weakref.finalize(array, alive.__setitem__, key, 0)
        highest[0] = max(highest[0], sum(alive.values()))
        return array

    monkeypatch.setattr(Checkpoint, "read", counted)
    into = streamed.mapped_zeros(epath.Path(tmp_path), base.paths, np.float32)
    arithmetic.add(base, terms, None, into)
    sizes = [array.nbytes for array in into.values()]
    assert len(alive) == 3 * len(sizes)
    assert highest[0] == 3 * max(sizes) < 3 * sum(sizes) / 2


def test_a_model_is_summed_layer_by_layer_and_measured(models, tmp_path):
    base, terms = models
    into = streamed.mapped_zeros(epath.Path(tmp_path), base.paths, np.float32)
    norms = arithmetic.add(base, terms, None, into)
    for path, result in into.items():
        parts = [(term.weight, term.checkpoint.read(path)) for term in terms]
        np.testing.assert_array_equal(result, weighted_sum(base.read(path), parts))
    ratios = norms.ratios()
    assert list(ratios)[-2:] == ["layers/0", "layers/1"] and "token_embedder" in ratios
    layer = [path for path in base.paths if path.startswith("layers/")]
    change, norm = (
        sum(np.sum(np.square(of(path)[1].astype(float))) for path in layer)
        for of in (lambda path: into[path] - base.read(path), base.read)
    )
    assert ratios["layers/1"] == pytest.approx(np.sqrt(change / norm), rel=1e-5)
    assert norms.whole() is not None


def test_large_parameters_go_in_blocks(models, monkeypatch, tmp_path):
    base, terms = models
    into, again = (
        streamed.mapped_zeros(epath.Path(tmp_path / name), base.paths, np.float32)
        for name in ("whole", "blocks")
    )
    arithmetic.add(base, terms, None, into)
    monkeypatch.setattr(arithmetic, "_BLOCK", 100)
    arithmetic.add(base, terms, None, again)
    assert all(again[path].tobytes() == into[path].tobytes() for path in into)


def test_a_sum_that_overflows_is_refused(models, tmp_path):
    base, terms = models
    into = streamed.mapped_zeros(epath.Path(tmp_path), base.paths, np.float32)
    with pytest.raises(UserError, match=r"weights take \S+ beyond what float32 holds"):
        arithmetic.add(base, [Term(terms[0].checkpoint, 1e39)], None, into)


def test_the_order_of_blocks():
    norms = arithmetic.Norms()
    for block in ("layers/10", "layers/9", "final_norm"):
        norms.add(block, np.ones(1), np.zeros(1))
    norms.add("position_embedder", np.zeros(2), np.ones(2))
    assert norms.ratios() == {
        "final_norm": 1.0,
        "position_embedder": None,
        "layers/9": 1.0,
        "layers/10": 1.0,
    }
