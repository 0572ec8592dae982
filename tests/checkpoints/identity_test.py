"""What is known of a model whose parameters are not read."""

import dataclasses
import shutil
import types

import pytest
from etils import epath

from detox_jax import outputs, preview
from detox_jax.checkpoints import identity, streamed
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.models.adaptation import AdapterConfig, BitFitConfig, LoRAConfig, PrefixConfig
from detox_jax.models.config import TransformerConfig
from detox_jax.output_settings import NOT_YET
from detox_jax.parallel import processes
from tests.checkpoints.models_made import write_adaptation, write_model
from tests.conftest import random_params
from tests.parallel.processes_test import on_all, threads_as_processes

KINDS = [AdapterConfig(4), LoRAConfig(2, alpha=6.0), PrefixConfig(2), BitFitConfig()]


@pytest.fixture(params=["float32", "bfloat16"])
def base(request, config, vocabulary, tmp_path):
    config = dataclasses.replace(config, param_dtype=request.param)
    return write_model(tmp_path / "base", config, vocabulary)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_is_told_by_the_records_of_a_model_and_its_base(
    kind, base, config, vocabulary, tmp_path, one_device_mesh
):
    adapted = write_adaptation(tmp_path / "adapted", base, config, vocabulary, kind)
    for path in (base, adapted, f"{base}/checkpoints/0"):
        fingerprint = checkpoints.load_params(path, one_device_mesh)[2]
        assert identity.fingerprint_ahead(path).among == (fingerprint,)
        assert identity.stored_ahead(path) == streamed.Checkpoint.open(path).fingerprint
    assert identity.ahead(base)[1] == config.dtype and identity.ahead(base, "x")[1] == "x"


def test_each_step_is_possible_where_none_is_named(model_dir, config, tmp_path, one_device_mesh):
    path = shutil.copytree(model_dir, tmp_path / "model")
    spec = checkpoints.read_spec(epath.Path(model_dir))
    vocabulary = checkpoints.load_model(model_dir, one_device_mesh).vocabulary
    first = identity.fingerprint_ahead(str(path)).among
    checkpoints.save_model(epath.Path(path), random_params(config, seed=3)[1], spec, vocabulary, 7)
    newest, *others = identity.fingerprint_ahead(str(path)).among or ()
    assert newest == checkpoints.load_params(str(path), one_device_mesh)[2] and (*others,) == first
    assert identity.fingerprint_ahead(f"{path}/checkpoints/7").among == (newest,)


def test_nothing_is_known_of_a_model_to_come_or_of_one_without_hashes(model_dir, tmp_path):
    for place in (preview.Coming(model_dir), preview.StandIn(model_dir)):
        assert identity.ahead(place) == (NOT_YET, NOT_YET)
    path = shutil.copytree(model_dir, tmp_path / "model")
    shutil.rmtree(path / "checkpoints" / "0" / "record")
    assert identity.fingerprint_ahead(str(path)) == NOT_YET
    assert identity.stored_ahead(str(path)) is None


def test_a_model_is_read_by_all_processes_or_by_none(tmp_path, monkeypatch):
    """A manifest that one host alone has does not keep its process from what the others read."""
    for index in range(2):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "model.json").touch()
    (tmp_path / "1" / "manifest.json").touch()

    def opened(_):
        fingerprint = processes.current().first_decides(lambda: "of the parameters")
        return types.SimpleNamespace(fingerprint=fingerprint, step=4)

    def work(run, index):
        return identity.identity(str(tmp_path / str(index))), run.first_decides(lambda: "next")

    monkeypatch.setattr(streamed.Checkpoint, "open", opened)
    for index, told in enumerate(on_all(threads_as_processes(monkeypatch)(work), count=2)):
        model = {"path": str(tmp_path / str(index)), "step": 4, "made_from": "of the parameters"}
        assert told == (model, "next")


@dataclasses.dataclass(frozen=True)
class _Later(TransformerConfig):
    """Of a version that computes more, but not where nothing asks for it."""

    added: float | None = None


def test_settings_tell_models_of_equal_parameters_apart(base, config, vocabulary, tmp_path):
    adapted = write_adaptation(tmp_path / "lora", base, config, vocabulary, LoRAConfig(2, alpha=6))
    spec = checkpoints.read_spec(epath.Path(adapted))
    assert identity.described(adapted, "0") == {
        "path": adapted,
        "fingerprint": "0",
        "spec_sha256": spec.digest,
    }
    assert identity.described(preview.Coming(adapted), "0")["spec_sha256"] == NOT_YET

    def read(**fields):
        return dataclasses.replace(spec, **fields).digest

    others = [
        read(adaptation=LoRAConfig(2, alpha=12.0)),
        read(adaptation=None),
        read(config=dataclasses.replace(spec.config, norm_epsilon=1e-3)),
        read(vocabulary="0" * 16),
    ]
    assert len({spec.digest, *others}) == 5
    fields = dataclasses.asdict(dataclasses.replace(spec.config, attention_kernel="plain"))
    assert read(config=_Later(**fields)) == spec.digest != read(config=_Later(**fields, added=1.0))


def test_an_unfinished_training_is_known_by_its_newest_step(config, vocabulary, tmp_path):
    """It goes on, and the recipe stays; weights are told as far as they are there."""
    path = write_model(tmp_path / "model", config, vocabulary)
    training = outputs.OutputDirectory(path, "train", {"a": "recipe"})
    first = identity.with_weights(path)
    spec = checkpoints.read_spec(epath.Path(path))
    params = random_params(config, seed=3)[1]
    checkpoints.save_model(epath.Path(path), params, spec, vocabulary, step=7)
    second = identity.with_weights(path)
    assert (first["step"], second["step"]) == (0, 7)
    assert first["made_from"] == second["made_from"] and first["weights"] != second["weights"]
    assert identity.identity(f"{path}/checkpoints/0")["step"] == 0
    training.finish(steps=7)
    assert identity.with_weights(path) == second
    coming = identity.with_weights(preview.Coming(path))
    assert coming["weights"] == coming["spec_sha256"] == NOT_YET
