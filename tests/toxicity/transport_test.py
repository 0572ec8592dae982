"""GOT-D: the selection that brings a corpus nearest to a target, by OTT-JAX."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from scipy import optimize

from detox_jax import cli, records
from detox_jax.errors import UserError
from detox_jax.toxicity import filter as filters
from detox_jax.toxicity import text_features, transport
from tests.marks import slow_but

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ott") is None, reason="needs the extra transport"
)
SEA = ("boat", "sea", "sail", "harbour", "wave", "anchor", "tide", "ferry")
KITCHEN = ("bread", "oven", "flour", "butter", "salt", "dough", "spoon", "sugar")


def texts_of(words, count, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, 9)) for _ in range(count)]


def write(path, texts, **more):
    rows = [{"id": f"d{i}", "text": text, "toxicity": 0.5} | more for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def clusters(tmp_path):
    """Ten candidates of the sea, `d0` to `d9`, then ten of the kitchen; a target of the kitchen."""
    texts = [*texts_of(SEA, 10, 0), *texts_of(KITCHEN, 10, 1)]
    target = write(tmp_path / "target.jsonl", texts_of(KITCHEN, 30, 2))
    return write(tmp_path / "in.jsonl", texts), target


def run(clusters, output, *extra):
    input, target = clusters
    flags = [f"--gin.INPUT={input}", f"--gin.OUTPUT_DIR={output}", f"--gin.TARGET={target}"]
    return cli.main(["filter", "--gin.SELECTION=@transport.NearTarget()", *flags, *extra])


def numbers(directory):
    files = sorted(directory.glob("*.jsonl"))
    return sorted(int(json.loads(x)["id"][1:]) for f in files for x in f.read_text().splitlines())


def manifest(directory):
    return json.loads((directory / "manifest.json").read_text())


# --- the gradient -----------------------------------------------------------------------------


def on_a_line(places):
    """Points whose squared distances are the distances of whole numbers on a line."""
    return np.array([[float(i < place) for i in range(8)] for place in places], np.float32)


def test_the_gradient_on_a_line_is_that_of_the_exact_transport():
    """METHODS' figures: candidates 0, 1, 4, targets 3, 5, cost |x - y|."""
    x, y = on_a_line([0, 1, 4]), on_a_line([3, 5])
    solved = transport.potentials(x, y, 0.01, 20_000)
    assert solved.converged and solved.error < 1e-3
    assert transport.calibrated(solved.potential_N) == pytest.approx([2.5, 1, -3.5], abs=0.03)
    assert solved.distance == pytest.approx(2.333333, abs=0.02)


def exact(costs_NM):
    """The dual of the transport of equal weights as a linear programme: distance, potentials."""
    N, M = costs_NM.shape
    pairs = [np.r_[np.eye(N)[i], np.eye(M)[j]] for i in range(N) for j in range(M)]
    weights = -np.r_[np.full(N, 1 / N), np.full(M, 1 / M)]
    solved = optimize.linprog(weights, np.array(pairs), costs_NM.ravel(), bounds=(None, None))
    return -solved.fun, solved.x[:N]


def test_the_gradient_is_near_that_of_a_linear_programme():
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, 3)).astype(np.float32) for n in (5, 7))
    distance, potential_N = exact(((x[:, None] - y) ** 2).sum(axis=2))
    solved = transport.potentials(x, y, 0.02, 20_000)
    assert solved.distance == pytest.approx(distance, abs=0.15)
    here, there = (transport.calibrated(of) for of in (solved.potential_N, potential_N))
    np.testing.assert_array_equal(np.argsort(here), np.argsort(there))
    np.testing.assert_allclose(here, there, atol=0.2)


def test_the_gradient_is_what_a_little_more_weight_changes():
    """By differences of the regularised distance, weight taken evenly from all others."""
    from ott.geometry import pointcloud
    from ott.solvers import linear

    rng = np.random.default_rng(1)
    x, y = (rng.normal(size=(n, 2)).astype(np.float32) for n in (4, 6))
    gradient = transport.calibrated(transport.potentials(x, y, 0.5, 5000).potential_N)
    cost = jax.jit(
        lambda weights_N: (
            linear.solve(
                pointcloud.PointCloud(x, y, epsilon=0.5), a=weights_N, threshold=1e-5
            ).reg_ot_cost
        )
    )
    for i in range(4):
        step = np.full(4, -0.02 / 3)
        step[i] = 0.02
        costs = [float(cost(0.25 + sign * step)) for sign in (1, -1)]
        # Of the entropy, too: equal weights are where it does not change.
        assert (costs[0] - costs[1]) / 0.04 == pytest.approx(gradient[i], rel=0.03, abs=0.02)


@pytest.mark.parametrize("costs_at_once", slow_but([21, 28, 1 << 20], [1, 21, 28, 1 << 20]))
def test_blocks_change_nothing(costs_at_once):
    from ott.geometry import pointcloud
    from ott.solvers import linear

    rng = np.random.default_rng(2)
    x, y = (rng.normal(size=(n, 3)).astype(np.float32) for n in (11, 7))
    solved = transport.potentials(x, y, 0.3, 2000, costs_at_once)
    whole = linear.solve(pointcloud.PointCloud(x, y, epsilon=0.3))
    assert (solved.distance, solved.iterations) == (
        pytest.approx(float(whole.reg_ot_cost), rel=1e-5),
        int(whole.n_iters),
    )
    np.testing.assert_allclose(
        transport.calibrated(solved.potential_N),
        transport.calibrated(np.asarray(whole.f, np.float64)),
        atol=1e-4,
    )


# --- the selection ----------------------------------------------------------------------------


def test_it_keeps_what_is_like_the_target_and_says_how(clusters, tmp_path, capsys):
    assert run(clusters, tmp_path / "out") == 0
    assert numbers(tmp_path / "out") == [*range(10, 20)]
    written = manifest(tmp_path / "out")
    selection = written["settings"]["selection"]
    assert selection["method"] == "NearTarget" and selection["embedding"]["dimensions"] == 128
    assert len(selection["target"]["sha256"]) == 64
    told = written["transport"]
    assert (told["target_documents"], told["nearer"]) == (30, 10)
    assert 0 < told["distance"] < 2 * told["mean_cost"] and told["marginal_error"] < 1e-3
    assert "transport to 30 target documents" in capsys.readouterr().out
    assert written["counts"]["kept"] == 10 and written["filtered_by"] is None


def test_away_from_a_target_keeps_the_others(clusters, tmp_path):
    assert run(clusters, tmp_path / "out", "--gin.AWAY_FROM_TARGET=True") == 0
    assert numbers(tmp_path / "out") == [*range(10)]


def test_another_content_of_the_target_is_another_output(clusters, tmp_path, capsys):
    assert run(clusters, tmp_path / "out") == 0
    assert run(clusters, tmp_path / "out") == 0
    write(clusters[1], texts_of(SEA, 30, 3))
    assert run(clusters, tmp_path / "out") == 2
    assert "selection" in capsys.readouterr().err


def test_the_scorer_that_chose_the_target_is_named(clusters, tmp_path):
    scored = tmp_path / "scored"
    assert cli.main(["score", f"--gin.INPUT={clusters[1]}", f"--gin.OUTPUT_DIR={scored}"]) == 0
    flags = [f"--gin.INPUT={scored}", f"--gin.OUTPUT_DIR={tmp_path / 'clean'}"]
    assert cli.main(["filter", *flags]) == 0
    assert run((clusters[0], tmp_path / "clean"), tmp_path / "out") == 0
    assert manifest(tmp_path / "out")["filtered_by"]["name"] == "ngram"


def test_in_turn_counts_it(clusters, tmp_path):
    flags = (
        "--gin.SELECTION=@a/filter.InTurn()",
        "--gin.a/filter.InTurn.steps=[@distinct.Distinct(), @transport.NearTarget()]",
    )
    input, target = clusters
    lines = input.read_text()
    input.write_text(lines + lines.splitlines()[15].replace("d15", "copy") + "\n")
    assert run((input, target), tmp_path / "out", *flags) == 0
    steps = manifest(tmp_path / "out")["steps"]
    assert [step["kept"] for step in steps] == [20, 10]
    assert steps[1]["transport"]["target_documents"] == 30


def test_order_of_the_input_changes_nothing_and_equals_go_by_the_hash_of_the_id(tmp_path):
    """Two of four equal texts are kept: the ones whose ids have the lower hashes."""
    target = write(tmp_path / "target.jsonl", texts_of(KITCHEN, 8, 0))
    same, other = texts_of(KITCHEN, 1, 5)[0], texts_of(SEA, 1, 6)[0]
    documents = [records.Document(f"e{i}", same) for i in range(4)]
    documents += [records.Document(f"o{i}", other) for i in range(4)]
    selection = transport.NearTarget(str(target), fraction=0.25)
    expected = sorted((d for d in documents[:4]), key=lambda d: records.stable_hash(d.id))[:2]
    for order in (documents, documents[::-1], documents[3:] + documents[:3]):
        kept = selection.select(order, np.random.default_rng(0))
        assert {d.id for d in kept} == {d.id for d in expected}
        assert kept == [d for d in order if d in kept]


def test_only_so_many_of_the_target_count(clusters, tmp_path):
    assert run(clusters, tmp_path / "out", "--gin.TARGET_DOCUMENTS=5") == 0
    assert manifest(tmp_path / "out")["transport"]["target_documents"] == 5
    assert numbers(tmp_path / "out") == [*range(10, 20)]


def test_costs_are_in_memory_by_the_block(monkeypatch):
    """Of 600 x 50 costs no array of a compiled iteration holds more than a block's."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, 2)).astype(np.float32) for n in (600, 50))
    import jax

    cloud = transport._cloud_in_blocks(20)(x, y, epsilon=0.1)
    f, g = np.zeros(600, np.float32), np.zeros(50, np.float32)
    for axis in (0, 1):
        lowered = jax.jit(lambda f, g, axis=axis: cloud.apply_lse_kernel(f, g, 0.1, axis=axis)[0])
        memory = lowered.lower(f, g).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 600 * 50 * 4 / 2


# --- texts as points --------------------------------------------------------------------------


def test_points_have_length_one_and_equal_texts_are_one_point():
    texts = [*texts_of(SEA, 3, 0), *texts_of(KITCHEN, 3, 1)]
    x, y = text_features.TextFeatures().embed([*texts, "我今天去了商店", texts[0].upper()], texts)
    assert np.linalg.norm(x, axis=1) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(x[:6], y, atol=1e-5)
    np.testing.assert_allclose(x[7], x[0], atol=1e-5)
    assert (x[6] @ y.T).max() < 0.1 and y[0] @ y[1] > y[0] @ y[4] + 0.1


def test_what_has_nothing_in_common_with_the_rest_is_no_point_of_nan():
    x, _ = text_features.TextFeatures(2).embed(["a b c", "\ud800 d"], ["a b c", "a b"])
    assert np.isfinite(x).all() and x.shape[1] <= 2


# --- mistakes ---------------------------------------------------------------------------------


def test_mistakes_are_one_line_and_exit_2(clusters, tmp_path, capsys, monkeypatch):
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"id": "a", "text": " "}\n')
    for flag, said in (
        (f"--gin.TARGET={tmp_path / 'nosuch'}", "nosuch"),
        ("--gin.TARGET=None", "NearTarget needs TARGET"),
        (f"--gin.TARGET={empty}", "empty.jsonl: holds no document with a text"),
        ("--gin.TRANSPORT_ITERATIONS=1", "did not converge in 1 iterations; raise TRANSPORT_REG"),
        ("--gin.TRANSPORT_REGULARIZATION=0", "TRANSPORT_REGULARIZATION: must be above 0"),
        ("--gin.KEEP_FRACTION=0", "KEEP_FRACTION is 0"),
        ("--gin.EMBEDDING=@embedding.ModelStates()", "needs EMBEDDING_MODEL"),
    ):
        assert run(clusters, tmp_path / "out", flag) == 2, flag
        assert said in capsys.readouterr().err
    assert run(clusters, tmp_path / "out", f"--gin.TARGET={tmp_path / 'no'}", "--dry_run") == 2
    assert f"TARGET={tmp_path / 'no'}: no such file" in capsys.readouterr().err
    blank = tmp_path / "blank.jsonl"
    blank.write_text('{"id": "a", "text": " ", "toxicity": 0.1}\n')
    assert run((blank, clusters[1]), tmp_path / "out") == 2
    assert (
        "none of its 1 scored documents has a word; give some with text" in capsys.readouterr().err
    )
    monkeypatch.setattr(transport.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs ott-jax: pip install 'detox-jax\[transport\]'"):
        transport.NearTarget(str(clusters[1]))
    assert isinstance(filters.LeastToxic(), filters.LeastToxic)
