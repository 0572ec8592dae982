"""The verb `steer` on the command line, and `generate` with what it fits."""

import json

import numpy as np
import pytest

from detox_jax import cli
from tests.marks import slow_but


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    path = tmp_path_factory.mktemp("scored") / "scored.jsonl"
    kind, rude = ["Thanks for the recipe", "a second film"], ["You idiot", "What a stupid idea"]
    rows = [
        {
            "id": f"p{i}",
            "prompt": {"text": f"The bus {i}"},
            "generations": [
                {"text": kind[i % 2], "toxicity": 0.1},
                {"text": rude[i // 2 % 2], "toxicity": 0.9},
            ],
        }
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _flags(model_dir, scored, output, *extra):
    named = {"CHECKPOINT_PATH": model_dir, "INPUT": scored, "OUTPUT_DIR": output}
    return ["steer", *(f"--gin.{name}={value}" for name, value in named.items()), *extra]


FITS = {
    "@fitting.MeanDifference()": ("mean_difference", {"direction": (2, 32)}),
    "@fitting.InContextVectors()": ("in_context", {"direction": (2, 32)}),
    "@fitting.HeadDirections()": ("heads", {"direction": (2, 4, 8), "weight": (2, 4)}),
    "@fitting.AffineMap()": (
        "affine",
        {"toxic_mean": (32,), "clean_mean": (32,), "probe_weight": (32,), "probe_least": ()},
    ),
}


@pytest.mark.parametrize("fit", slow_but([*FITS][:2], FITS))
def test_it_fits_saves_and_steers(model_dir, scored, tmp_path, fit):
    rule, shapes = FITS[fit]
    vectors = tmp_path / "vectors"
    flags = _flags(model_dir, scored, vectors, f"--gin.FIT={fit}")
    assert cli.main(flags) == 0
    manifest = json.loads((vectors / "manifest.json").read_text())
    assert (manifest["rule"], manifest["pairs"]) == (rule, 12)
    assert manifest["settings"]["margin"] == 0.3 and "batch_size" not in manifest["settings"]
    with np.load(vectors / "vectors.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays.files} == shapes
    # The same command again makes the same bytes, whatever the batch.
    first = (vectors / "vectors.npz").read_bytes()
    assert cli.main([*flags, "--gin.BATCH_SIZE=64"]) == 0
    other = _flags(model_dir, scored, tmp_path / "again", f"--gin.FIT={fit}")
    assert cli.main(other) == 0
    assert (tmp_path / "again" / "vectors.npz").read_bytes() == first
    # And text that differs from the model's own.
    file = "affine" if rule == "affine" else "activations"
    decode = [
        "generate",
        f"--gin.CHECKPOINT_PATH={model_dir}",
        f"--gin.INPUT={scored}",
        "--gin.NUM_SAMPLES=2",
        "--gin.MAX_NEW_TOKENS=8",
    ]
    steering = [f"--gin_file=gin_configs/steering/{file}.gin", f"--gin.VECTORS={vectors}"]
    if file == "affine":
        steering.append("--gin.EVERYWHERE=True")
    assert cli.main([*decode, f"--gin.OUTPUT_DIR={tmp_path / 'plain'}"]) == 0
    strong = [*decode, *steering, "--gin.STRENGTH=3.0"]
    assert cli.main([*strong, f"--gin.OUTPUT_DIR={tmp_path / 'steered'}"]) == 0
    plain, steered = (
        b"".join(file.read_bytes() for file in (tmp_path / name).glob("*.jsonl"))
        for name in ("plain", "steered")
    )
    assert plain != steered
    settings = json.loads((tmp_path / "steered" / "manifest.json").read_text())["settings"]
    assert settings["steering"][0]["strength"] == 3.0


def test_other_settings_are_another_output(model_dir, scored, tmp_path, capsys):
    flags = _flags(model_dir, scored, tmp_path / "vectors")
    assert cli.main(flags) == 0
    assert cli.main([*flags, "--gin.MARGIN=0.5"]) == 2
    assert "margin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--gin.MARGIN=0.0", "MARGIN: must be above 0"),
        ("--gin.MARGIN=nan", "MARGIN: expected a number"),
        ("--gin.MOST_PAIRS=0", "MOST_PAIRS: must be at least 1"),
        ("--gin.MARGIN=0.95", "none of its 12 records makes a pair"),
        (
            "--gin.FIT=@fitting.MeanDifference",
            "FIT: expected a Fit, got @fitting.MeanDifference: write",
        ),
        ("--gin.fitting.AffineMap.ridge=-1.0", "AffineMap.ridge is -1.0; must not be negative"),
    ],
)
def test_what_is_refused_in_one_line(model_dir, scored, tmp_path, capsys, flag, message):
    extra = [flag, "--gin.FIT=@fitting.AffineMap()"] if "Affine" in flag else [flag]
    assert cli.main(_flags(model_dir, scored, tmp_path / "vectors", *extra)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "Traceback" not in error


def test_vectors_of_another_model_are_refused(model_dir, scored, tmp_path, capsys):
    vectors = tmp_path / "vectors"
    assert cli.main(_flags(model_dir, scored, vectors)) == 0
    manifest = json.loads((vectors / "manifest.json").read_text())
    manifest["settings"]["checkpoint"]["fingerprint"] = "0" * 16
    (vectors / "manifest.json").write_text(json.dumps(manifest))
    decode = [
        "generate",
        f"--gin.CHECKPOINT_PATH={model_dir}",
        f"--gin.INPUT={scored}",
        f"--gin.OUTPUT_DIR={tmp_path / 'out'}",
        "--gin_file=gin_configs/steering/activations.gin",
        f"--gin.VECTORS={vectors}",
    ]
    capsys.readouterr()
    assert cli.main(decode) == 2
    error = capsys.readouterr().err
    assert "was fitted on model 0000000000000000, but the model is" in error
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()
