"""A user's own tasks of lm-evaluation-harness: the YAML files of a directory, read before it does.

The harness passes over a file that it cannot read and says nothing, so that the task is unknown, or
is its own of the same name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from detox_jax.errors import UserError, in_one_line, unread

_IGNORED = {"__pycache__", ".ipynb_checkpoints"}  # as the harness does


class _Loader(yaml.SafeLoader):
    """Of plain values, and of functions by their names."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore


def check(directory: str) -> None:
    """Reads every YAML file, with those that it includes.

    Args:
      directory: INCLUDE_PATH.

    Raises:
      UserError: naming the file, the line and what is wrong there.
    """
    for file in _named(directory, "*.yaml"):
        _read(file, ())


def hint(directory: str) -> str:
    """What to say of files that look like tasks, and are none to the harness; else nothing."""
    if others := list(_named(directory, "*.yml")):
        return f"; {others[0]} is not read, for its name does not end in .yaml"
    for file in _named(directory, "*.yaml"):
        if not isinstance(_parsed(file), dict):
            return f"; {file} holds no settings (NAME: VALUE), and so no task"
    return ""


def _named(directory: str, pattern: str) -> Iterator[Path]:
    files = sorted(Path(directory).glob(f"**/{pattern}"), key=lambda file: file.as_posix())
    yield from (file for file in files if not _IGNORED & {*file.parts} and not file.is_dir())


def _read(file: Path, above: tuple[Path, ...]) -> None:
    """Reads a file and those that it includes."""
    included_by = f" (included by {above[-1]})" if above else ""
    if file.resolve() in [other.resolve() for other in above]:
        raise UserError(f"INCLUDE_PATH: {file}: includes itself{included_by}; take one out")
    settings = _parsed(file, included_by)
    included = settings.get("include", ()) if isinstance(settings, dict) else ()
    for name in included if isinstance(included, list) else (included,):
        if isinstance(name, str):
            _read(file.parent / name, (*above, file))


def _parsed(file: Path, included_by: str = "") -> Any:
    try:
        return yaml.load(file.read_bytes(), Loader=_Loader)  # a safe one
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        wrong = ", ".join(filter(None, (error.context, error.problem)))
        reason = f"{where}{wrong or in_one_line(error)}; mend it, or take the file out"
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        reason = f"{in_one_line(error)}; mend it, or take the file out"
    except OSError as error:
        if (failed := unread(f"INCLUDE_PATH: {file}", error)) is not None:
            raise failed from None
        reason = f"cannot be read: {error.strerror}"
    raise UserError(f"INCLUDE_PATH: {file}: {' '.join(reason.split())}{included_by}") from None
