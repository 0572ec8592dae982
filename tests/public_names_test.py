"""What `import detox_jax` offers."""

import ast
import importlib
import inspect
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import detox_jax
from detox_jax.api import verbs


def test_every_public_name_is_there():
    assert len(detox_jax.__all__) == len(set(detox_jax.__all__)) > 0
    for name in detox_jax.__all__:
        offered = getattr(detox_jax, name)
        assert offered.__name__ == ("detox_jax.sgeat" if name == "sgeat" else name)


def test_dir_lists_them_and_the_version():
    assert dir(detox_jax) == sorted([*detox_jax.__all__, "__version__"])
    assert detox_jax.__version__ == metadata.version("detox-jax")


def test_another_name_is_not():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        detox_jax.Nothing  # noqa: B018


def test_type_checkers_are_told_the_same_names():
    package = Path(detox_jax.__file__).parent
    assert (package / "py.typed").exists()
    told = {}
    for node in ast.parse((package / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            told |= {alias.asname: node.module for alias in node.names}
    assert told.pop("sgeat") == "detox_jax.api.verbs"
    assert told == detox_jax._PUBLIC


def test_sgeat_is_the_module_and_the_call(monkeypatch):
    """Whoever imported it: gin files take the module, a notebook calls it."""
    module = importlib.import_module("detox_jax.sgeat")
    assert detox_jax.sgeat is module and module.Corpus
    monkeypatch.setattr(verbs, "sgeat", lambda *given, **settings: (given, settings))
    assert detox_jax.sgeat(1, x=2) == ((1,), {"x": 2})
    # In a process that has imported neither.
    program = (
        "from detox_jax import sgeat\nimport detox_jax as dj\n"
        "assert dj.sgeat is sgeat and sgeat.Corpus and callable(sgeat)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_calls_say_what_they_take():
    for name in ("load", "score", "evaluate", "sgeat"):
        call = getattr(detox_jax, name)
        assert "Args:" in inspect.getdoc(verbs.sgeat if name == "sgeat" else call)
        assert len(inspect.signature(call).parameters) > 1
