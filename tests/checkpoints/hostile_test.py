"""Model directories of this package that are damaged by hand: one line each."""

import json
import shutil

import pytest

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError

DEEP = "[" * 100_000


def model(**fields):
    """Sets fields of model.json, those of its config by `config_NAME`."""

    def spoil(directory):
        value = json.loads((directory / "model.json").read_text())
        for name, item in fields.items():
            inside = value["config"] if name.startswith("config_") else value
            inside[name.removeprefix("config_")] = item
        (directory / "model.json").write_text(json.dumps(value))

    return spoil


def text(name, content):
    return lambda directory: (directory / name).write_text(content)


def step(change):
    """Changes the directory of the only step."""

    def spoil(directory):
        (path,) = (directory / "checkpoints").iterdir()
        change(path)

    return spoil


def _as_file(path):
    shutil.rmtree(path)
    path.write_text("")


def _emptied(path):
    shutil.rmtree(path)
    path.mkdir()


def _pickled(path):
    shutil.rmtree(path / "params")
    (path / "params").mkdir()
    (path / "params" / "params.pkl").write_bytes(b"\x80\x04K\x01.")


LORA = {"kind": "lora", "rank": 4, "alpha": 8.0, "target_modules": ["query"]}
OURS = "model.json: not a model description of this version: "
DIRECTORIES = {
    "no model.json": (lambda d: (d / "model.json").unlink(), "no model.json"),
    "empty": (text("model.json", ""), OURS + "its text: malformed JSON"),
    "cut": (text("model.json", '{"config": {'), OURS + "its text: malformed JSON"),
    "too deep": (text("model.json", DEEP), OURS + "its text: malformed JSON: nested too deeply"),
    "digits": (text("model.json", "9" * 5000), OURS + "its text: malformed JSON"),
    "a list": (text("model.json", "[]"), OURS + "its text: expected a JSON object"),
    "no fields": (text("model.json", "{}"), OURS),
    "config a list": (model(config=[]), OURS),
    "config a text": (model(config="x"), OURS),
    "a strange field": (model(config_strange=1), OURS),
    "adaptation a text": (model(adaptation="lora"), OURS),
    "adaptation a list": (model(adaptation=[["kind", []]]), OURS),
    "adaptation unknown": (model(adaptation={"kind": "x"}), OURS),
    "adaptation of ranks": (model(adaptation={**LORA, "rank": "4"}), OURS),
    "adaptation of numbers": (model(adaptation={**LORA, "target_modules": [1]}), OURS),
    "base a text": (model(base="../base"), OURS),
    "base a list": (model(base=["path"]), OURS),
    "base without a fingerprint": (model(base={"path": "x"}), OURS),
    "base of numbers": (model(base={"path": 5, "fingerprint": 5}), OURS),
    "base that is gone": (
        model(base={"path": "gone", "fingerprint": "0"}),
        "base model gone is gone",
    ),
    "vocabulary a number": (model(vocabulary=5), OURS),
    "no heads": (model(config_num_heads=0), OURS),
    "epsilon a text": (model(config_norm_epsilon="x"), OURS),
    "heads a fraction": (model(config_num_heads=4.0), OURS),
    "tokens 1e12": (model(config_vocab_size=10**12), OURS),
    "layers 1e9": (model(config_num_layers=10**9), OURS),
    "rope a text": (model(config_rope_scaling="x"), OURS),
    "activations a number": (model(config_mlp_activations=5), OURS),
    "activations unknown": (model(config_mlp_activations=["evil"]), OURS),
    "dtype a list": (model(config_dtype=[]), OURS),
    "wider than its arrays": (model(config_emb_dim=64, config_head_dim=16), "step 0 is damaged"),
    "more layers than its arrays": (model(config_num_layers=3), "step 0 is damaged"),
    "no step": (lambda d: shutil.rmtree(d / "checkpoints"), "training has saved none"),
    "checkpoints a file": (
        lambda d: [shutil.rmtree(d / "checkpoints"), (d / "checkpoints").write_text("")],
        "training has saved none",
    ),
    "step a file": (step(_as_file), "training has saved none|step 0 is damaged"),
    "step empty": (step(_emptied), "training has saved none|step 0 is damaged"),
    "no params": (step(lambda p: shutil.rmtree(p / "params")), "step 0 is damaged"),
    "params a file": (
        step(lambda p: [shutil.rmtree(p / "params"), (p / "params").write_text("")]),
        "step 0 is damaged",
    ),
    "params a pickle": (step(_pickled), "step 0 is damaged"),
    "no vocabulary": (lambda d: shutil.rmtree(d / "vocabulary"), "no vocabulary"),
    "vocabulary cut": (text("vocabulary/tokenizer.json", "{"), "not a readable vocabulary"),
}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_damaged_model_directory_is_one_line(name, tmp_path, model_dir, one_device_mesh):
    spoil, message = DIRECTORIES[name]
    directory = tmp_path / "model"
    shutil.copytree(model_dir, directory)
    spoil(directory)
    with pytest.raises(UserError, match=message) as caught:
        checkpoints.load_model(str(directory), one_device_mesh)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
