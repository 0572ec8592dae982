"""T5X's checkpoints in and out, without T5X: round trips, and every kind of bad input."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from etils import epath
from flax import traverse_util

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import streamed
from detox_jax.errors import UserError
from detox_jax.interop import convert, t5x_checkpoints
from detox_jax.models.adaptation import AdapterConfig
from detox_jax.vocabulary import Vocabulary
from tests.conftest import random_params

ADAPTER = AdapterConfig(bottleneck_dim=3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, model_dir):
    """The base as a T5X checkpoint directory."""
    path = tmp_path_factory.mktemp("t5x") / "base"
    convert.convert(source=model_dir, to_t5x=str(path))
    return path


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, config, model_dir):
    """What T5X writes when it has trained an adapter of the base, and the adapter."""
    path = tmp_path_factory.mktemp("t5x") / "adapted"
    _, params = random_params(config, ADAPTER)
    own, _ = params_lib.partition(params, ADAPTER.trainable_pattern)
    base = streamed.Checkpoint.open(model_dir)
    frozen = streamed.nested({name: base.read(name) for name in base.paths})
    tree = params_lib.combine(own, frozen)
    t5x_checkpoints.write(epath.Path(path), flat(tree))
    return path, flat(own)


def flat(tree):
    return {
        name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()
    }


def refused(message, **settings):
    with pytest.raises(UserError, match=message):
        convert.convert(
            **{name: str(v) if name != "adaptation" else v for name, v in settings.items()}
        )


def test_whole_model_there_and_back(exported, model_dir, tmp_path):
    convert.convert(from_t5x=str(exported), to=str(tmp_path / "back"), base=model_dir)
    ours, back = (streamed.Checkpoint.open(str(p)) for p in (model_dir, tmp_path / "back"))
    assert back.fingerprint == ours.fingerprint and back.spec == ours.spec


def test_another_checkpoint_of_the_same_sizes_and_step_is_another_import(
    exported, config, model_dir, tmp_path, capsys
):
    ends = {"to": str(tmp_path / "back"), "base": model_dir}
    convert.convert(from_t5x=str(exported), **ends)
    _, params = random_params(config, seed=1)
    t5x_checkpoints.write(epath.Path(tmp_path / "other"), flat(params))
    with pytest.raises(UserError, match=r"made with other settings \(source.fingerprint: "):
        convert.convert(from_t5x=str(tmp_path / "other"), **ends)
    capsys.readouterr()
    convert.convert(from_t5x=str(exported), **ends)
    assert "is already there, from the same checkpoint" in capsys.readouterr().out
    file = tmp_path / "back" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["settings"]["source"]["fingerprint"], manifest["settings"]["vocabulary"]
    file.write_text(json.dumps(manifest))
    convert.convert(from_t5x=str(exported), **ends)  # Of a version before.
    assert "did not record of which model" in capsys.readouterr().out


def test_adapter_there_and_back(adapted, model_dir, tmp_path, one_device_mesh):
    path, own = adapted
    to = tmp_path / "adapter"
    convert.convert(from_t5x=str(path), to=str(to), base=model_dir, adaptation=ADAPTER)
    imported = streamed.Checkpoint.open(str(to))
    assert imported.spec.adaptation == ADAPTER and set(imported.paths) == set(own)
    for name, value in own.items():
        np.testing.assert_array_equal(imported.read(name), value)
    checkpoints.load_model(str(to), one_device_mesh)  # Finds its base, and accepts it.
    convert.convert(source=str(to), to_t5x=str(tmp_path / "again"))
    spec = imported.spec
    one, other = (
        t5x_checkpoints.read(t5x_checkpoints.resolve(str(p))[0], spec.config, ADAPTER)
        for p in (path, tmp_path / "again")
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


def test_where_a_base_lies_decides_no_import(adapted, model_dir, tmp_path, capsys):
    """Through a link to it, after it was moved, and as a version before recorded it."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copytree(model_dir, tmp_path / "disk" / "base")
    (run / "base").symlink_to(tmp_path / "disk" / "base")
    to, file = epath.Path(run / "adapter"), run / "adapter" / "manifest.json"

    def imports(base):
        convert.convert(
            from_t5x=str(adapted[0]), to=str(to), base=str(run / base), adaptation=ADAPTER
        )
        return "is already there, from the same checkpoint" in capsys.readouterr().out

    def recorded():
        base = checkpoints.read_spec(to).base
        return base and base["path"]

    assert not imports("base") and recorded() == "../base"
    assert imports("base")
    manifest = json.loads(file.read_text())
    model = manifest["settings"]["model"]
    manifest["settings"]["model"] = model.replace("base={", "base={'path': '../../\"base', ")
    assert manifest["settings"]["model"] != model
    file.write_text(json.dumps(manifest))
    (run / "base").rename(run / "moved")
    assert imports("moved") and recorded() == "../moved"


def test_the_step_of_a_base_is_recorded(adapted, config, model_dir, tmp_path, one_device_mesh):
    base, to = shutil.copytree(model_dir, tmp_path / "base"), tmp_path / "adapter"
    step = checkpoints.saved_steps(epath.Path(base))[-1]
    spec = checkpoints.read_spec(epath.Path(base))
    vocabulary = Vocabulary.load(str(base / "vocabulary"))
    later = random_params(config, seed=5)[1]
    checkpoints.save_model(epath.Path(base), later, spec, vocabulary, step + 1)
    of_step = f"{base}/checkpoints/{step}"
    convert.convert(from_t5x=str(adapted[0]), to=str(to), base=of_step, adaptation=ADAPTER)
    checkpoints.load_model(str(to), one_device_mesh)  # Finds its base, and accepts it.


def test_what_t5x_trained_beside_a_bfloat16_base_keeps_its_bits(
    config, vocabulary, tmp_path, one_device_mesh
):
    """T5X reads a bfloat16 base into float32, and has every parameter in that."""
    half, base = dataclasses.replace(config, param_dtype="bfloat16"), epath.Path(tmp_path / "base")
    base.mkdir()
    spec = checkpoints.ModelSpec(half, None, None, vocabulary.fingerprint)
    checkpoints.save_model(base, random_params(half)[1], spec, vocabulary)
    ours = streamed.Checkpoint.open(str(base))
    own, _ = params_lib.partition(random_params(config, ADAPTER)[1], ADAPTER.trainable_pattern)
    whole, own = flat(random_params(config, seed=1)[1]), flat(own)
    frozen = {name: ours.read(name).astype(np.float32) for name in ours.paths}
    written = {"whole": (whole, None), "adapted": ({**frozen, **own}, ADAPTER)}
    for name, (arrays, adaptation) in written.items():
        path, to = tmp_path / f"t5x-{name}", str(tmp_path / name)
        t5x_checkpoints.write(epath.Path(path), arrays)
        convert.convert(from_t5x=str(path), to=to, base=str(base), adaptation=adaptation)
        imported = streamed.Checkpoint.open(to)
        assert imported.spec.config.param_dtype == "float32"
        assert imported.paths.keys() == (whole if adaptation is None else own).keys()
        for parameter in imported.paths:
            np.testing.assert_array_equal(imported.read(parameter), arrays[parameter], strict=True)
        checkpoints.load_model(to, one_device_mesh)
    convert.convert(source=str(base), to_t5x=str(tmp_path / "there"))
    convert.convert(
        from_t5x=str(tmp_path / "there"), to=str(tmp_path / "back"), base=str(base)
    )  # What is bfloat16 there stays so.
    back = streamed.Checkpoint.open(str(tmp_path / "back"))
    assert back.fingerprint == ours.fingerprint and back.spec == ours.spec


def test_what_is_missing_is_said(exported, adapted, model_dir, tmp_path):
    to = tmp_path / "to"
    refused("set BASE, or MODEL", from_t5x=exported, to=to)
    refused("set BASE to the model", from_t5x=adapted[0], to=to, adaptation=ADAPTER)
    refused("no such T5X checkpoint", from_t5x=tmp_path / "none", to=to, base=model_dir)
    refused("no checkpoint_STEP of T5X", from_t5x=model_dir, to=to, base=model_dir)
    refused("attention_adapter", from_t5x=adapted[0], to=to, base=model_dir)
    refused("attention_adapter", from_t5x=exported, to=to, base=model_dir, adaptation=ADAPTER)
    (tmp_path / "checkpoint_7").mkdir()
    refused("has no state/", from_t5x=tmp_path / "checkpoint_7", to=to, base=model_dir)
    refused("convert goes one way", from_t5x=exported, to_t5x=to)
    refused("are for --from_t5x alone", source=model_dir, to_t5x=to, base=model_dir)
    refused("--verify is for Hugging Face", source=model_dir, to_t5x=to, verify=True)
    assert not to.exists()


def test_another_base_is_refused(adapted, config, vocabulary, tmp_path):
    _, params = random_params(config, seed=1)
    other = epath.Path(tmp_path / "other")
    spec = checkpoints.ModelSpec(config, None, None, vocabulary.fingerprint)
    other.mkdir()
    checkpoints.save_model(other, params, spec, vocabulary)
    refused(
        "trained on another base",
        from_t5x=adapted[0],
        to=tmp_path / "to",
        base=other,
        adaptation=ADAPTER,
    )
