"""Of make test-lock alone: the environment that is tested is that of requirements.lock."""

from __future__ import annotations

import json

import pytest
from packaging.utils import canonicalize_name

from tests.bucket.conftest import LOCK_PYTHON, start, succeed
from tests.tpu_scripts.requirements_test import pinned

PROGRAM = """
import json
from importlib import metadata
print(json.dumps({each.metadata["Name"]: each.version for each in metadata.distributions()}))
"""


@pytest.mark.skipif(not LOCK_PYTHON, reason="make test-lock")
def test_the_environment_holds_what_the_lock_pins_and_nothing_else(storage):
    installed = json.loads(succeed(start(storage, "-c", PROGRAM)))
    installed = {canonicalize_name(name): version for name, version in installed.items()}
    assert {"pip", "detox-jax"} <= installed.keys()
    assert {name: installed[name] for name in installed.keys() - {"pip", "detox-jax"}} == pinned()
