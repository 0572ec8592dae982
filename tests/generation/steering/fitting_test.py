"""What is fitted of states whose answer is known, and which texts are pairs."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.generation.steering import activation_formulas as formulas
from detox_jax.generation.steering import examples, fitting, states
from detox_jax.generation.steering.examples import Pair
from detox_jax.models import edits
from detox_jax.parallel import mesh as meshes

TOXIC = np.array([(-1, 0), (0, -1), (-2, 0), (0, 1)], float)
GOOD = np.array([(1, 0), (2, 1), (1, 2), (4, 2)], float)


def test_affine_map_of_eight_points():
    arrays = fitting.AffineMap(covariance=True, ridge=0.0).fit(TOXIC, GOOD, 1)
    np.testing.assert_allclose(
        arrays["map"], [(1.451351, 0.321982), (0.321982, 1.110158)], atol=1e-6
    )
    means = arrays["toxic_mean"], arrays["clean_mean"]
    for covariance, expected in ((None, (1.75, 1.25)), (arrays["map"], (1.637162, 1.169505))):
        covariance = None if covariance is None else jnp.asarray(covariance)
        moved = formulas.affine(jnp.array((-1.0, 0.0)), *map(jnp.asarray, means), covariance, 1.0)
        np.testing.assert_allclose(moved, expected, atol=1e-6)
    moved = TOXIC @ arrays["map"].T
    np.testing.assert_allclose(np.cov(moved.T), np.cov(GOOD.T), atol=1e-9)


def test_the_ridge_is_on_the_diagonal_and_as_published_on_every_entry():
    given = np.cov(TOXIC.T)
    ours = fitting.AffineMap(ridge=0.5)._covariance(TOXIC)
    np.testing.assert_allclose(ours - given, 0.5 * np.trace(given) / 2 * np.eye(2))
    published = fitting.AffineMap(published=True)._covariance(TOXIC)
    np.testing.assert_allclose(published - given, np.full((2, 2), 1e-7), atol=1e-12)
    flat = np.repeat(TOXIC[:, :1], 2, axis=1)
    with pytest.raises(UserError, match="covariance has no inverse; raise AffineMap.ridge"):
        fitting.AffineMap(covariance=True, ridge=0.0).fit(flat, GOOD, 1)


def test_the_probe():
    """The gradient of the penalised likelihood is zero, and the bias is not penalised."""
    noise = np.random.default_rng(0)
    toxic, clean = noise.normal(size=(2, 60, 3)) + np.array([[[2.0, 0, 5]], [[-2.0, 0, 5]]])
    weight, bias = fitting.logistic_probe(toxic, clean)
    x, y = np.concatenate([toxic, clean]), np.repeat([1.0, 0.0], 60)
    error = 1 / (1 + np.exp(-(x @ weight + bias))) - y
    np.testing.assert_allclose(error @ x + weight, 0, atol=1e-6)
    assert error.sum() == pytest.approx(0, abs=1e-6)
    assert np.mean((x @ weight + bias > 0) == y) > 0.8
    arrays = fitting.AffineMap().fit(toxic, clean, 1)
    assert arrays["probe_least"] == pytest.approx(-bias) and "map" not in arrays
    published = fitting.AffineMap(published=True).fit(toxic, clean, 1)
    assert published["probe_least"] == pytest.approx(0.5 - bias)
    apart = fitting.logistic_probe(toxic * 0 + 100, clean * 0 - 100)
    assert np.isfinite(apart[0]).all() and np.isfinite(apart[1])


def test_mean_difference_and_in_context_vectors():
    noise = np.random.default_rng(1)
    toxic = noise.normal(size=(50, 2, 3))
    axis = np.zeros((2, 3))
    axis[1, 2] = 1
    clean = toxic + 0.25 + noise.normal(size=(50, 1, 1)) * 3 * axis
    mean = (clean - toxic).mean(axis=0)
    found = fitting.MeanDifference().fit(toxic, clean, 1)
    np.testing.assert_allclose(found["direction"], mean)
    found = fitting.InContextVectors().fit(toxic, clean, 1)
    sign = np.sign(mean[1, 2])
    np.testing.assert_allclose(found["direction"], mean + sign * axis, atol=1e-6)
    assert fitting.InContextVectors(published=True).reading().site == edits.RESIDUAL
    assert fitting.InContextVectors().reading().site == fitting.InContextVectors().site == edits.MLP


def test_heads_and_their_weights():
    """Of a head that tells, the probe of the other half is right; of noise it is at chance."""
    noise = np.random.default_rng(2)
    toxic, clean = noise.normal(size=(2, 400, 1, 2, 3))
    toxic[:, 0, 0] += 10
    found = fitting.HeadDirections().fit(toxic, clean, 2)
    np.testing.assert_allclose(found["direction"], (toxic - clean).mean(axis=0))
    assert found["weight"][0, 0] == 2 and found["weight"][0, 1] == pytest.approx(1.5, abs=0.06)
    same = fitting.probe_accuracy(toxic, toxic)
    np.testing.assert_array_equal(same, 0.5)


def test_published_heads_are_chunks_without_weights():
    noise = np.random.default_rng(3)
    toxic, clean = noise.normal(size=(2, 5, 2, 6))
    found = fitting.HeadDirections(published=True).fit(toxic, clean, 3)
    assert list(found) == ["direction"] and found["direction"].shape == (2, 3, 2)
    np.testing.assert_allclose(found["direction"].reshape(2, 6), (toxic - clean).mean(axis=0))
    with pytest.raises(UserError, match="cuts a width of 6 into 4 chunks"):
        fitting.HeadDirections(published=True).fit(toxic, clean, 4)


@pytest.mark.parametrize("fit", [fitting.InContextVectors(), fitting.HeadDirections()])
def test_one_pair_is_too_few(fit):
    with pytest.raises(UserError, match="needs at least 2 pairs"):
        fit.fit(np.ones((1, 2, 2, 3)), np.zeros((1, 2, 2, 3)), 2)


# --- which texts are pairs ----------------------------------------------------------------------


def _written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _prompt(name, *scored):
    generations = [{"text": text, "toxicity": score} for text, score in scored]
    return {"id": name, "prompt": {"text": f"of {name}"}, "generations": generations}


def test_pairs_of_continuations(tmp_path):
    rows = [
        _prompt("a", ("mild", 0.2), ("rude", 0.9), ("no score", None), (" ", 0.0), ("ruder", 0.9)),
        _prompt("b", ("one", 0.5), ("two", 0.6)),
        _prompt("c", ("x", 0.8), ("y", 0.1), ("z", 0.1)),
        _prompt("d", ("alone", 0.9)),
    ]
    source = _written(tmp_path / "prompts.jsonl", rows)
    a, c = Pair("of a", "rude", "mild"), Pair("of c", "x", "y")
    found = examples.pairs_of(source, 0.3, 10)
    assert {*found} == {a, c}
    assert examples.pairs_of(source, 0.3, 1) == found[:1]
    assert examples.pairs_of(source, 0.7, 10) in ([a, c], [c, a])
    assert examples.pairs_of(source, 0.05, 10) != found
    with pytest.raises(UserError, match="none of its 4 records makes a pair whose scores differ"):
        examples.pairs_of(source, 0.95, 10)


def test_pairs_of_documents(tmp_path):
    scores = [0.9, 0.1, 0.5, 0.6, 0.2, None, 0.8]
    rows = [{"id": str(i), "text": f"t{i}", "toxicity": score} for i, score in enumerate(scores)]
    source = _written(tmp_path / "documents.jsonl", [*rows, {"id": "e", "text": "", "toxicity": 0}])
    assert examples.pairs_of(source, 0.3, 10) == [Pair("", "t0", "t1"), Pair("", "t6", "t4")]
    assert examples.pairs_of(source, 0.7, 10) == [Pair("", "t0", "t1")]
    assert examples.pairs_of(source, 0.3, 1) == [Pair("", "t0", "t1")]


@pytest.mark.parametrize(("high", "number"), [(0.7, 1), (0.69, 0)])
def test_a_margin_is_reached_by_what_rounding_makes_a_little_less(tmp_path, high, number):
    assert 0.7 - 0.4 < 0.3
    prompts = _written(tmp_path / "prompts.jsonl", [_prompt("a", ("mild", 0.4), ("rude", high))])
    scores = {"mild": 0.4, "rude": high}
    rows = [{"id": text, "text": text, "toxicity": score} for text, score in scores.items()]
    documents = _written(tmp_path / "documents.jsonl", rows)
    for source in (prompts, documents):
        if number:
            (pair,) = examples.pairs_of(source, 0.3, 10)
            assert (pair.toxic, pair.clean) == ("rude", "mild")
        else:
            with pytest.raises(UserError, match="makes a pair whose scores differ by 0.3"):
                examples.pairs_of(source, 0.3, 10)


def test_a_text_that_is_labelled_both_ways_ends_no_list(tmp_path):
    rows = [("x", 0.0), ("y", 0.1), ("z", 0.9), ("x", 1.0)]
    lines = [
        json.dumps({"id": str(i), "text": t, "toxicity": s}) + "\n" for i, (t, s) in enumerate(rows)
    ]
    (tmp_path / "d.jsonl").write_text("".join(lines))
    assert examples.pairs_of(str(tmp_path / "d.jsonl"), 0.3, 10) == [Pair("", "z", "y")]


# --- hidden states ------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_states_are_of_each_texts_own_last_tokens(model_dir, devices):
    mesh = meshes.create_mesh(devices=jax.devices()[:devices])
    loaded = checkpoints.load_model(model_dir, mesh)
    texts = [[5, 9, 30, 7, 6], [7], [40, 41, 42] * 30, [3, 4]]
    apply = functools.partial(loaded.module.apply, enable_dropout=False, mutable=[edits.RECORDED])
    apply = jax.jit(apply)
    longest = loaded.module.config.max_length
    for site in (edits.HEADS, edits.FINAL):
        read = states.read(loaded, mesh, texts, site, 3, batch_size=3)
        for text, found in zip(texts, read, strict=True):
            whole_1L = jnp.array([text[-longest:]])
            _, variables = apply({"params": loaded.params}, whole_1L)
            whole = np.asarray(edits.recorded(variables)[site])
            expected = whole[0, -3:].mean(axis=0)
            if site == edits.HEADS:
                expected = whole[:, 0, -3:].mean(axis=1)
            np.testing.assert_allclose(found, expected, atol=1e-5)
