"""Every file that decides what a module does is found."""

import json
import subprocess
import sys
from pathlib import Path

import detox_jax
from detox_jax.planning import plan, sources

ROOT = Path(detox_jax.__file__).parent


def test_all_that_is_loaded_is_in_the_closure():
    program = (
        "import importlib, json, sys\n"
        f"for name in {plan._COMPILED}: importlib.import_module(name)\n"
        "own = [m for name, m in sys.modules.items() if name.startswith('detox_jax')]\n"
        "print(json.dumps([module.__file__ for module in own]))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = {Path(file) for file in json.loads(result.stdout)}
    closure = set(sources.closure(*plan._COMPILED))
    assert len(loaded) > 30 and loaded <= closure


def test_what_the_programs_are_made_of_and_what_they_are_not():
    names = {str(path.relative_to(ROOT)) for path in sources.closure(*plan._COMPILED)}
    assert {"training/step.py", "training/optimizer.py", "generation/sampling.py"} <= names
    assert {"models/layers.py", "planning/hlo.py", "__init__.py"} <= names
    assert not any(name.startswith(("toxicity/", "report/", "interop/")) for name in names)
