"""How a checkpoint is named."""

import json

import pytest
from etils import epath

from detox_jax.checkpoints import places
from detox_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "model_dir", "step"),
    [
        ("runs/base", "runs/base", None),
        ("runs/base/checkpoints/78", "runs/base", 78),
        ("gs://bucket/base/checkpoints/0", "gs://bucket/base", 0),
        ("runs/base/checkpoints", "runs/base/checkpoints", None),
        ("runs/base/checkpoints/last", "runs/base/checkpoints/last", None),
        ("runs/steps/78", "runs/steps/78", None),
    ],
)
def test_only_a_number_below_checkpoints_is_a_step(name, model_dir, step):
    assert places.split(name) == (epath.Path(model_dir), step)
    assert places.split(epath.Path(name)) == places.split(name)


def test_an_address_that_is_not_read_is_no_checkpoint():
    with pytest.raises(UserError, match="^s3://b/m/checkpoints/3: such an address is neither read"):
        places.split("s3://b/m/checkpoints/3")
    with pytest.raises(UserError, match="^hf://A/B: a model of the hub; .*--from_hf=A/B --to=DIR$"):
        places.split("hf://A/B")


def _manifest(directory, verb):
    directory.mkdir(parents=True, exist_ok=True)
    manifest = {"verb": verb, "complete": True, "settings": {}}
    (directory / "manifest.json").write_text(json.dumps(manifest))


def _model(directory):
    (directory / "checkpoints" / "3").mkdir(parents=True)
    (directory / "model.json").write_text("{}")


def _said(path):
    with pytest.raises(UserError) as caught:
        places.require(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_error_says_what_lies_there_in_place_of_a_model(tmp_path):
    _manifest(tmp_path / "scored", "score")
    assert _said(tmp_path / "scored").endswith("scored: no model.json; it is an output of `score`")
    _manifest(tmp_path / "half", "train")
    assert "`train` wrote there is unfinished or damaged; run" in _said(tmp_path / "half")
    (tmp_path / "other").mkdir()
    assert _said(tmp_path / "other").endswith("not a model that detox-jax trained or imported")
    (tmp_path / "file.jsonl").write_text("{}\n")
    assert "file.jsonl: a file; a checkpoint is a directory" in _said(tmp_path / "file.jsonl")


def test_an_empty_name_is_no_checkpoint():
    assert _said("") == "the name of a checkpoint is empty; give MODEL_DIR"


def test_a_misspelt_model_is_suggested_of_those_beside_it(tmp_path):
    _model(tmp_path / "models" / "sgeat-whole")
    said = _said(tmp_path / "models" / "sgeat-whol")
    assert said.endswith(f"no such checkpoint; did you mean {tmp_path}/models/sgeat-whole?")
    assert _said(tmp_path / "models" / "other").endswith("no such checkpoint")


def test_an_error_names_the_models_that_are_near(tmp_path):
    run = tmp_path / "run"
    _manifest(run, "sgeat")
    _model(run / "base")
    for i in range(5):
        _model(run / "models" / f"row-{i}")
    shown = ", ".join(str(run / name) for name in ("base", *(f"models/row-{i}" for i in range(4))))
    expected = f"output of `sgeat`; give a model that lies in it: {shown} and 1 more"
    assert _said(run).endswith(expected)
    assert f"lies in it: {run / 'models' / 'row-0'}, " in _said(run / "models")
    for inside in ("checkpoints", "vocabulary"):
        (run / "base" / inside).mkdir(exist_ok=True)
        assert _said(run / "base" / inside).endswith(f"a part of the model {run / 'base'}; give it")
