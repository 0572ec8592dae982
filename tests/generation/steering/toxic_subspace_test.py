"""ProFS: the subspace of pairs by hand, and the edit that takes it out of a model."""

import json

import numpy as np
import pytest

from detox_jax import cli
from detox_jax.checkpoints import projection
from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.errors import UserError
from detox_jax.generation.steering import states, toxic_subspace
from detox_jax.models import edits
from detox_jax.vocabulary import PAD_ID
from tests.checkpoints.models_made import write_model

CLEAN = np.array([(2, 1, 0), (2, 0, 1), (2, 1, 1), (2, 0, 0)], float)
TOXIC = np.array([(2, 2, 0), (2, 1.5, 1), (2, 2, 1.5), (2, 1, 0.5)], float)
DIRECTION = [-0.285167, 0.949922, 0.127783]


def test_the_subspace_of_hand_worked_pairs():
    vectors = toxic_subspace.toxic_subspace(TOXIC, CLEAN, 1)
    np.testing.assert_allclose(vectors, [DIRECTION], atol=1e-6)
    np.testing.assert_allclose(
        np.linalg.svd(CLEAN)[2][0] * np.sign(np.linalg.svd(CLEAN)[2][0, 0]),
        [0.936573, 0.247822, 0.247822],
        atol=1e-6,
    )


def test_a_hand_worked_projection():
    vectors = toxic_subspace.toxic_subspace(TOXIC, CLEAN, 1)
    once = projection.without(np.array([[0.0, 1, 0]]), vectors)
    np.testing.assert_allclose(once, [[0.270886, 0.097648, -0.121383]], atol=1e-6)
    np.testing.assert_allclose(once @ vectors[0], 0, atol=1e-12)
    np.testing.assert_allclose(projection.without(once, vectors), once, atol=1e-12)


def test_pairs_share_their_row():
    """Other partners give another subspace: the published code's default draws them apart."""
    rng = np.random.default_rng(0)
    topic = 3 * rng.normal(size=(6, 8))  # what the two texts of a pair have in common
    toxic, clean = topic + rng.normal(size=8), topic
    paired, other = (toxic_subspace.toxic_subspace(t, clean, 1)[0] for t in (toxic, toxic[::-1]))
    common = np.linalg.svd(clean)[2][0]
    expected = (clean - toxic)[0] - ((clean - toxic)[0] @ common) * common
    assert np.abs(paired @ expected) == pytest.approx(np.linalg.norm(expected))
    assert np.abs(other @ expected) < 0.9 * np.linalg.norm(expected)


def test_too_few_pairs_or_directions_are_refused():
    fit = toxic_subspace.ToxicSubspace(3)
    with pytest.raises(UserError, match="needs at least 3 pairs, there are 2"):
        fit.fit(TOXIC[:2, None], CLEAN[:2, None], 1)
    with pytest.raises(UserError, match="differ in fewer directions"):
        fit.fit(TOXIC[:, None], CLEAN[:, None], 1)  # one direction of three is taken away
    with pytest.raises(UserError, match="rank is 4, but the model's states have 3 directions"):
        toxic_subspace.ToxicSubspace(4).fit(TOXIC[:, None], CLEAN[:, None], 1)
    with pytest.raises(UserError, match="rank is 0"):
        toxic_subspace.ToxicSubspace(0)


def test_neither_the_start_token_nor_padding_is_in_a_mean(model_dir, one_device_mesh):
    from detox_jax.checkpoints import model_dir as checkpoints

    loaded = checkpoints.load_model(model_dir, one_device_mesh)
    text = [1, 20, 31, 40]
    read = toxic_subspace.ToxicSubspace().reading()
    arguments = (read.site, read.last_tokens, 4, None, read.skipped_tokens)
    (mean,) = states.read(loaded, one_device_mesh, [text], *arguments)
    (beside, _) = states.read(loaded, one_device_mesh, [text, [*text, *range(50, 70)]], *arguments)
    np.testing.assert_allclose(beside, mean, atol=1e-5)
    _, variables = loaded.module.apply(
        {"params": loaded.params},
        np.array([[*text, PAD_ID]]),
        enable_dropout=False,
        mutable=[edits.RECORDED],
    )
    by_hand = edits.recorded(variables)[edits.RESIDUAL][:, 0, 1:4].mean(axis=1)
    np.testing.assert_allclose(mean, by_hand, atol=1e-5)


@pytest.fixture(scope="module")
def place(tmp_path_factory, config, vocabulary):
    """A base with labelled documents and its subspace."""
    root = tmp_path_factory.mktemp("profs")
    write_model(root / "base", config, vocabulary)
    write_model(root / "other", config, vocabulary, seed=3)
    rude, kind = ("You are an idiot", "What a stupid idea"), ("Thanks for the", "The second film")
    rows = [
        {"id": str(i), "text": f"{(rude if i % 2 else kind)[i // 2 % 2]} {i}", "toxicity": i % 2}
        for i in range(12)
    ]
    (root / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = {"CHECKPOINT_PATH": root / "base", "INPUT": root / "documents.jsonl"}
    flags = [f"--gin.{name}={value}" for name, value in run.items()]
    for fit in ("toxic_subspace.ToxicSubspace", "fitting.MeanDifference"):
        output = f"--gin.OUTPUT_DIR={root / fit.rpartition('.')[2]}"
        assert cli.main(["steer", *flags, f"--gin.FIT=@{fit}()", output]) == 0
    return root


def edit(place, output, **named):
    named = {"BASE": "base", "OUTPUT_DIR": output, "SUBSPACE": "ToxicSubspace", **named}
    flags = [f"--gin.{name}={value}" for name, value in named.items()]
    return cli.main(["combine", "--gin_file=gin_configs/edits/profs.gin", *flags])


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def test_a_model_is_edited_in_its_upper_layers_alone(here):
    assert edit(here, "edited") == 0
    base, edited = Checkpoint.open("base"), Checkpoint.open("edited")
    with np.load("ToxicSubspace/vectors.npz") as arrays:
        subspace_NRD = arrays["subspace"]
    assert subspace_NRD.shape == (2, 2, 32)
    for path in base.paths:
        if path != projection.EDITED:
            assert edited.read(path).tobytes() == base.read(path).tobytes()
    before, after = (model.read(projection.EDITED) for model in (base, edited))
    assert edit(here, "both", LAYERS="(0, 1)") == 0
    both = Checkpoint.open("both").read(projection.EDITED)
    np.testing.assert_array_equal(after, both)  # of two layers the upper share is both
    assert np.abs(after @ subspace_NRD.swapaxes(1, 2)).max() < 1e-6
    assert edit(here, "upper", LAYERS="(1, 1)") == 0
    upper = Checkpoint.open("upper").read(projection.EDITED)
    np.testing.assert_array_equal(upper, np.stack([before[0], after[1]]))
    manifest = json.loads((here / "upper" / "manifest.json").read_text())
    assert manifest["settings"]["edit"]["layers"] == [1, 1]
    assert manifest["change"]["blocks"]["layers/0"] == 0 < manifest["change"]["blocks"]["layers/1"]


def test_a_sum_is_edited_behind_it(here, config, vocabulary):
    write_model(here / "model", config, vocabulary, seed=5)
    assert edit(here, "sum", TERMS={"model": 1.0}) == 0
    with np.load("ToxicSubspace/vectors.npz") as arrays:
        rows = arrays["subspace"]
    written = Checkpoint.open("sum").read(projection.EDITED)
    by_hand = [
        projection.without(w.astype(float), v)
        for w, v in zip(Checkpoint.open("model").read(projection.EDITED), rows, strict=True)
    ]
    np.testing.assert_allclose(written, by_hand, atol=1e-6)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"BASE": "other"}, "was fitted on model "),
        ({"SUBSPACE": "MeanDifference"}, "holds no subspace; give an output of `steer`"),
        ({"SUBSPACE": "gone"}, "gone holds no subspace"),
        ({"LAYERS": "(1, 2)"}, "give the first and the last of the layers 0 to 1"),
        ({"LAYERS": "(1, 0)"}, "give the first and the last"),
        ({"TERMS": "{'adapter': 1.0}"}, "adapter: no such checkpoint"),
    ],
)
def test_what_cannot_be_edited_is_refused(here, capsys, named, said):
    assert edit(here, "no", **named) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (here / "no").exists()


@pytest.mark.parametrize("named", [{"SUBSPACE": "gone"}, {"LAYERS": "(1, 2)"}])
def test_a_dry_run_reads_what_the_edit_names(here, capsys, monkeypatch, named):
    def read(*_):
        raise AssertionError("a parameter is read")

    monkeypatch.setattr(Checkpoint, "read", read)
    flags = {"BASE": "base", "OUTPUT_DIR": "no", "SUBSPACE": "ToxicSubspace", **named}
    command = [f"--gin.{name}={value}" for name, value in flags.items()]
    assert (
        cli.main(["combine", "--gin_file=gin_configs/edits/profs.gin", *command, "--dry_run"]) == 2
    )
    error = capsys.readouterr().err
    assert "Projection" in error and error.count("\n") == 1


def test_a_damaged_file_is_refused(here, capsys):
    file = here / "ToxicSubspace" / "vectors.npz"
    content = file.read_bytes()
    try:
        file.write_bytes(content[: len(content) // 2])
        assert edit(here, "no") == 2
    finally:
        file.write_bytes(content)
    assert "vectors.npz: cannot be read" in capsys.readouterr().err
