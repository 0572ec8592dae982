"""Checkpoints that cannot be used are refused by name (adapters: see train_test)."""

import dataclasses
import json
import os
import re
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import places
from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.errors import UserError
from detox_jax.models.adaptation import LoRAConfig
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import Vocabulary
from tests.checkpoints.models_made import write_adaptation
from tests.conftest import random_params


@pytest.fixture
def copy(model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "model")
    return tmp_path / "model"


def _load(path):
    return checkpoints.load_model(str(path), meshes.create_mesh())


def test_a_moved_model_loads_the_same_weights(copy, config):
    moved = copy.rename(copy.parent / "elsewhere")
    _, params = random_params(config)
    jax.tree.map(np.testing.assert_array_equal, _load(moved).params, params)


def test_a_step_can_be_named_and_a_missing_one_is_refused(copy):
    assert checkpoints.resolve(str(copy / "checkpoints" / "0"))[1] == 0
    with pytest.raises(UserError, match=r"no such step; it holds steps \[0\]"):
        checkpoints.resolve(str(copy / "checkpoints" / "7"))
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match="training has saved none yet"):
        checkpoints.resolve(str(copy))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_neither_saved_nor_loaded(
    config, vocabulary, tmp_path, monkeypatch, value
):
    _, params = random_params(config)
    kernel = params["layers"]["attention"]["query"]["kernel"]
    params = {**params, "token_embedder": jax.tree.map(np.array, params["token_embedder"])}
    params["token_embedder"]["embedding"][3, 1] = value
    directory = epath.Path(tmp_path / "model")
    directory.mkdir()
    spec = checkpoints.ModelSpec(config, None, None, vocabulary.fingerprint)
    message = "parameter token_embedder/embedding holds numbers that are not finite"
    with pytest.raises(UserError, match=message):
        checkpoints.save_model(directory, params, spec, vocabulary)
    assert checkpoints.saved_steps(directory) == []
    with monkeypatch.context() as patch:  # as an earlier version saved it
        patch.setattr(params_lib, "require_finite", lambda *args: None)
        checkpoints.save_model(directory, params, spec, vocabulary)
    with pytest.raises(UserError, match=f"model, step 0: {message}.*give an earlier"):
        _load(directory)
    checkpoint = Checkpoint.open(str(directory))
    np.testing.assert_array_equal(checkpoint.read("layers/attention/query/kernel"), kernel)
    with pytest.raises(UserError, match=message):
        checkpoint.read("token_embedder/embedding")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"config": {"no_such_field": 1}}'])
def test_a_damaged_model_description(copy, content):
    (copy / "model.json").write_text(content)
    with pytest.raises(UserError, match="not a model description"):
        _load(copy)


def test_no_model_at_all(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        _load(tmp_path / "none")
    with pytest.raises(UserError, match="no model.json"):
        _load(tmp_path)


def test_the_vocabulary_of_another_checkpoint(copy, vocabulary):
    shutil.rmtree(copy / "vocabulary")
    Vocabulary.train(["zzz yyy xxx"], vocabulary.vocab_size).save(str(copy / "vocabulary"))
    with pytest.raises(UserError, match="put back the vocabulary"):
        _load(copy)


def test_merges_that_are_read_otherwise_than_before(copy):
    """As GPT-2's, whatever their class; which a checkpoint that was trained here can say."""
    spec, files = checkpoints.read_spec(epath.Path(copy)), copy / "vocabulary"
    (files / "tokenizer.json").unlink()
    pieces = ["h", "i", "hi", "<|endoftext|>"]
    (files / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (files / "merges.txt").write_text("h i\n")
    before = dataclasses.replace(spec, vocabulary=Vocabulary.load(str(files)).fingerprint)
    config = files / "tokenizer_config.json"
    for name, told in (("Qwen2Tokenizer", True), ("GPT2Tokenizer", False)):
        config.write_text(json.dumps({"tokenizer_class": name}))
        vocabulary = Vocabulary.load(str(files))
        if not told:
            checkpoints.check_vocabulary(str(copy), before, vocabulary)
        with pytest.raises(UserError) as error:
            checkpoints.check_vocabulary(str(copy), before if told else spec, vocabulary)
        assert "put back the vocabulary that it was trained with, or" in str(error.value)
        assert "import the model again, its earlier import removed" in str(error.value)
        assert ('"tokenizer_class": "GPT2Tokenizer" into' in str(error.value)) == told


def test_a_base_that_is_gone(copy):
    base = {"path": "../gone", "fingerprint": "0"}
    directory = epath.Path(copy)
    spec = checkpoints.ModelSpec(checkpoints.read_spec(directory).config, None, base, "v")
    place = re.escape(str(directory.parent / "gone"))
    with pytest.raises(UserError, match=f"base model ../gone is gone: looked for at {place}; put"):
        checkpoints.load_base(spec, directory, meshes.create_mesh())


def test_a_base_is_looked_for_beside_its_adaptation_first(copy, tmp_path, monkeypatch):
    """`../../base` also names a directory from where the command happens to run."""
    elsewhere = tmp_path / "base"
    shutil.copytree(copy, elsewhere)
    adaptation = epath.Path(tmp_path / "run" / "models" / "adapter")
    adaptation.mkdir(parents=True)
    shutil.copytree(copy, tmp_path / "run" / "base")
    (tmp_path / "x" / "y").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "x" / "y")
    found = checkpoints.find_base("../../base", adaptation)
    assert epath.Path(found).resolve() == epath.Path(tmp_path / "run" / "base")
    shutil.rmtree(tmp_path / "run" / "base")
    (tmp_path / "run" / "base").mkdir()  # no model: not a base
    assert checkpoints.find_base("../../base", adaptation) == "../../base"
    steps = elsewhere / "checkpoints" / "0"
    assert checkpoints.find_base(str(steps), adaptation) == str(steps)


def test_a_model_trained_on_from_an_import_keeps_its_origin(model_dir, tmp_path):
    imported, trained = tmp_path / "imported", epath.Path(tmp_path / "trained")
    shutil.copytree(model_dir, imported)
    trained.mkdir()
    checkpoints.keep_origin(str(imported), trained)
    assert not (trained / places.ORIGIN_FILE).exists()
    (imported / places.ORIGIN_FILE).write_text('{"source": {"path": "hf"}}')
    step = checkpoints.saved_steps(epath.Path(imported))[-1]
    checkpoints.keep_origin(str(imported / places.CHECKPOINTS_DIR / str(step)), trained)
    assert (trained / places.ORIGIN_FILE).read_text() == '{"source": {"path": "hf"}}'


@pytest.mark.parametrize(
    ("base", "adaptation", "recorded"),
    [
        ("gs://bkt/run/base", "gs://bkt/run/models/adapter", "../../base"),
        ("gs://other/base", "gs://bkt/run/models/adapter", "gs://other/base"),
        ("gs://bkt/base", "/disk/models/adapter", "gs://bkt/base"),
        ("/disk/base", "gs://bkt/adapter", "/disk/base"),
        ("/disk/base", "/disk/models/adapter", "../../base"),
    ],
)
def test_a_base_is_recorded_so_that_both_may_be_moved(base, adaptation, recorded):
    assert checkpoints.base_reference(base, epath.Path(adaptation)) == recorded


def _beside_a_link(copy, tmp_path):
    """A model, and the place of its adaptation behind a link: `run` leads to `disk/a/run`."""
    run = tmp_path / "disk" / "a" / "run"
    (run / "models" / "adapter").mkdir(parents=True)
    (tmp_path / "run").symlink_to(run)
    return copy, epath.Path(tmp_path / "run" / "models" / "adapter")


def test_a_base_is_found_from_behind_a_link(copy, tmp_path):
    base, adapter = _beside_a_link(copy, tmp_path)
    recorded = checkpoints.base_reference(str(base), adapter)
    assert recorded == "../../../../../model"
    for place in (adapter, epath.Path(os.path.realpath(adapter))):
        assert os.path.samefile(checkpoints.find_base(recorded, place), base)
    # As a version before wrote it, which did not look where the link leads.
    assert checkpoints.find_base("../../../model", adapter) == str(base)
    # Without a link on the way it stays the shortest one, through a link to the base itself too.
    (tmp_path / "disk" / "a" / "run" / "base").symlink_to(base)
    inside = epath.Path(tmp_path / "disk" / "a" / "run" / "models" / "adapter")
    linked = str(tmp_path / "disk" / "a" / "run" / "base")
    assert checkpoints.base_reference(linked, inside) == "../../base"
    assert checkpoints.base_reference(linked, inside.parent / "to_come") == "../../base"


def test_the_place_of_a_base_that_was_moved_is_recorded_anew(copy, config, vocabulary, tmp_path):
    adapted = write_adaptation(tmp_path / "adapted", copy, config, vocabulary, LoRAConfig(2, 4.0))
    directory = epath.Path(adapted)
    before = (directory / "model.json").read_bytes()
    checkpoints.renew_base(directory, str(copy))
    assert (directory / "model.json").read_bytes() == before
    moved = copy.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="base model ../model is gone"):
        _load(adapted)
    checkpoints.renew_base(directory, str(moved))
    spec = checkpoints.read_spec(directory)
    assert spec.base is not None and spec.base["path"] == "../elsewhere"
    assert json.loads(before)["base"]["fingerprint"] == spec.base["fingerprint"]
    _load(adapted)
    checkpoints.renew_base(epath.Path(moved), "nowhere")  # A whole model has none.
