"""The harness makes our model by its name, from the package's entry point and by our command."""

import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from detox_jax.errors import UserError
from detox_jax.zero_shot.harness_model import HarnessModel

pytestmark = pytest.mark.interop
GROUP = "lm_eval.models"


@pytest.fixture(scope="module")
def registry():
    return pytest.importorskip("lm_eval.api.registry").model_registry


def declared():
    """What pyproject.toml says, which is what an installation declares."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"][GROUP].items()
    return metadata.EntryPoint(name, value, GROUP)


def test_the_entry_point_is_a_model_of_the_harness(registry, model_dir):
    """Registered by the entry point itself, as the harness does from behind 0.4.13 on."""
    point = declared()
    assert point.name == "detox_jax"
    registry.register("by_entry_point", target=point)
    kind = registry.get("by_entry_point")
    options = {"batch_size": "auto:4", "max_batch_size": None, "device": "cpu"}
    model = kind.create_from_arg_string(f"pretrained={model_dir},max_length=32", options)
    assert isinstance(model, HarnessModel) and (model.batch_size, model.max_length) == (32, 32)
    plain = kind(checkpoint_path=model_dir, batch_size="2")
    assert plain.batch_size == 2 and plain.fingerprint == model.fingerprint
    with pytest.raises(UserError, match="needs --model_args pretrained=DIR"):
        kind.create_from_arg_string("", options)


def test_our_command_is_the_harness_own(registry, monkeypatch, capsys):
    from detox_jax.zero_shot import harness_plugin

    monkeypatch.setattr(sys, "argv", ["lm_eval", "run", "--help"])
    with pytest.raises(SystemExit) as ended:
        harness_plugin.main()
    assert ended.value.code == 0 and "--model_args" in capsys.readouterr().out
    assert registry.get("detox_jax").__name__ == "DetoxJax"
