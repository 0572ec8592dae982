"""What the run files say of verbs and macros, for the pages of the reference."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

from detox_jax import command_line
from detox_jax import run_files as files

REQUIRED = "%gin.REQUIRED"
_ROOT = files.ROOT
_INCLUDE = re.compile(r"include +['\"](?P<file>.+)['\"]")
_MACRO = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*) *= *(?P<value>.+)")


@dataclasses.dataclass(frozen=True)
class Block:
    """Macros that stand together below a comment.

    Attributes:
      comments: the lines above them.
      macros: the default of each by its name, as gin reads it.
    """

    comments: tuple[str, ...]
    macros: dict[str, str]


def summary(verb: str) -> str:
    """The first line of a verb's run file."""
    return (path(verb)).read_text().splitlines()[0].removeprefix("#").strip()


def blocks(verb: str) -> list[Block]:
    """The macros of a verb's run file and of what it includes, in their order."""
    return [block for block in _blocks(path(verb).read_text()) if block.macros]


def flags(verb: str) -> dict[str, str]:
    """The flags of one verb, with the macro that each sets."""
    return {flag: macro for macro, flag in command_line.short_names(verb).items()}


def example(verb: str, macros: list[Block]) -> list[str]:
    """A command line that names what the verb cannot do without."""
    required = [name for block in macros for name, value in block.macros.items()]
    values = {name: value for block in macros for name, value in block.macros.items()}
    words = [f"--gin.{name}=..." for name in required if values[name] == REQUIRED]
    return [shlex.join(["detox-jax", verb]) + "".join(f" {word}" for word in words)]


def path(verb: str) -> Path:
    """Where a verb's run file is."""
    return _ROOT / "gin_configs" / "runs" / f"{verb}.gin"


def _blocks(text: str) -> list[Block]:
    made: list[Block] = []
    comments: list[str] = []
    starts = True
    for line in text.splitlines()[1:]:
        if include := _INCLUDE.match(line):
            made += _blocks((_ROOT / include["file"]).read_text())
            comments, starts = [], True
        elif line.startswith("#"):
            comments.append(line.removeprefix("#").strip())
        elif macro := _MACRO.match(line):
            if comments or starts:
                made.append(Block(tuple(comments), {}))
                comments, starts = [], False
            made[-1].macros[macro["name"]] = macro["value"].strip()
        elif not line.strip():
            comments, starts = [], True
    return made
