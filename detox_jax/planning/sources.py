"""The files that decide what a module does: its own, and all that it imports."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = __name__.partition(".")[0]


def closure(*modules: str) -> list[Path]:
    """The files of modules and of everything of this package that they import, in order of path.

    Imports are read from the source, those in functions included; nothing is imported.

    Args:
      modules: dotted names, such as `detox_jax.planning.assessment`.
    """
    files: set[Path] = set()
    waiting = [file for module in modules for file in _files(module)]
    while waiting:
        file = waiting.pop()
        if file not in files:
            files.add(file)
            waiting.extend(other for name in _imports(file) for other in _files(name))
    return sorted(files)


@functools.cache  # a process runs what it has read once
def _imports(file: Path) -> list[str]:
    """Dotted names of this package that a file imports; `from a import b` may name a module."""
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [name for name in names if name.partition(".")[0] == _PACKAGE]
    return found


def _files(name: str) -> Iterator[Path]:
    """The module that a name lies in, and the packages around it, which run when it is imported."""
    root = Path(__file__).resolve().parents[1]
    parts = name.split(".")[1:]
    for depth in range(len(parts) + 1):
        place = root.joinpath(*parts[:depth])
        for file in (place.with_suffix(".py") if depth else place, place / "__init__.py"):
            if file.is_file():
                yield file
