"""A verb called from Python: configured by gin as the command line has it, gin left as it was."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
import threading
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detox_jax import cli, configuration, directory_lock, extras, kinds, terminal
from detox_jax.api.gin_lines import GinLines, text_of
from detox_jax.errors import IN_CALL, UserError

# Gin holds one configuration a process.
_ONE_AT_A_TIME = threading.RLock()
_FLAG = re.compile(r"--gin\.([A-Z][A-Z0-9_]*)")
_UNUSED = re.compile(r"nothing uses ([A-Z0-9_, ]+) \(.*?\)(?:; did you mean ([A-Z0-9_]+)\?)?")
_MACRO = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*\b")
_CALLED = re.compile(r"@(?:\w+[/.])*(\w+\()")  # of gin's language, as Python has it
_EXAMPLE = re.compile(r"(?P<before>; for example \w+=)\"(?P<value>.*)\"$")
_SCRATCH = "detox-jax-"
# What `inputs` writes of a list, with the line that is at fault: named by the argument.
_LIST = re.compile(
    rf"(?:\b\w+=)?{re.escape(tempfile.gettempdir())}/{_SCRATCH}\w{{8}}/(?P<name>\w+)\.jsonl"
    r"(?::(?P<line>\d+))?"
)
_FIELD = re.compile(r"name the field (?:with|that holds) the (\w+).*#\w+=(\w+)")
_IN_GIN = re.compile(r"; in a gin file, .*")
_NO_NAMES: Mapping[str, str] = {}
_NO_SETTINGS: Mapping[str, Any] = {}


def call(
    verb: str,
    settings: Mapping[str, Any],
    *,
    gin_files: Sequence[str] = (),
    quiet: bool = False,
    said_as: Mapping[str, str] | None = None,
    below: Mapping[str, Any] = _NO_SETTINGS,
    asked: Iterable[str] = (),
    **given: Any,
) -> dict[str, Any]:
    """Checks and runs a verb, as `detox-jax VERB --gin.NAME=VALUE ...` does.

    Args:
      verb: its name on the command line.
      settings: its macros by their names in lower case, with Python's values.
      gin_files: layers between its run file and the settings; one may stand alone.
      quiet: say nothing on standard output, where nobody named the places that it would name;
        what is to be known of the output is a warning.
      said_as: what errors call a macro or a file that the call has made: `{"num_samples": "k"}`.
      below: settings that gin files override.
      asked: settings whose values are returned.
      **given: arguments that no gin file can hold, such as a loaded model.

    Returns:
      What each of `asked` comes to when all layers are read.

    Raises:
      UserError: as the verb, in the words of Python.
    """
    if isinstance(gin_files, str | os.PathLike):
        gin_files = [os.fspath(gin_files)]
    try:
        lines, lines_below = GinLines(settings), GinLines(below)
        arguments = cli.Arguments(
            verb,
            gin_files=tuple(os.path.expanduser(str(file)) for file in gin_files),
            bindings=tuple(lines.bindings),
            imports=tuple(lines.imports),
            below=tuple(lines_below.bindings),
        )
        muted = contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext()
        with _ONE_AT_A_TIME, configuration.apart(), muted:
            with extras.needed_by(verb), terminal.stage(verb), terminal.noted() as notes:
                configured, _ = cli.prepared(arguments, given)
                answers = {name: configuration.value_of(name.upper()) for name in asked}
                with directory_lock.at_work(), cli.naming_settings():
                    configured()
    except UserError as error:
        raise UserError(in_python(str(error), settings, said_as or {})) from None
    for note in notes if quiet else ():
        line = in_python(_IN_GIN.sub(".", note), settings, said_as or {})
        warnings.warn(line.removeprefix("warning: "), stacklevel=3)  # of who called our caller
    return answers


def in_python(message: str, settings: Iterable[str], said_as: Mapping[str, str] = _NO_NAMES) -> str:
    """A message of the command line as it reads in Python: keywords in place of flags and macros.

    Args:
      message: as the command line says it.
      settings: the keywords of the call.
      said_as: see `call`.

    >>> in_python("required and not set: BATCH_SIZE; pass --gin.BATCH_SIZE=...", [])
    'required and not set: batch_size; pass batch_size=...'
    """
    message = " ".join(message.split(IN_CALL)[0].split())
    flags = {flag.lower() for flag in _FLAG.findall(message)}
    message = _FLAG.sub(lambda flag: flag[1].lower(), message)
    if named := _UNUSED.match(message):
        flags |= {name.lower() for name in _MACRO.findall(" ".join(filter(None, named.groups())))}
    known = {*settings, *flags}

    def keyword(macro: re.Match[str]) -> str:
        name = macro[0].lower()
        return name if name in known else macro[0]

    message = _MACRO.sub(keyword, message)
    listed = _LIST.sub(_item, message)
    if listed != message:  # No `#text=FIELD` stands behind a list.
        message = _FIELD.sub(r"rename its field \2 to \1", listed)
    for made, name in said_as.items():
        message = re.sub(rf"(\binput=)?(?<!\w){re.escape(made)}(?![\w/])", name, message)
    message = _EXAMPLE.sub(_example, message).replace("--gin_file=", "gin_files: ")
    message = _CALLED.sub(r"\1", message)
    return re.sub(r"; see detox-jax (\w+) --help$", r"; `detox-jax \1 --help` lists all", message)


def _example(example: re.Match[str]) -> str:
    """An example without the shell's quotes; none of gin's own language."""
    return "" if "@" in example["value"] else f"{example['before']}{example['value']}"


def _item(line: re.Match[str]) -> str:
    """The place in a list that a line of its file is of, counted as Python counts."""
    return line["name"] + (f"[{int(line['line']) - 1}]" if line["line"] else "")


def said(value: Any) -> str:
    """What an argument is, for errors: a number as it is, anything else by its kind alone.

    The texts that it may hold would be shown unhidden.
    """
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def path_of(given: Any, name: str) -> str:
    """The path that an argument names, with the home directory for `~` as a verb takes it.

    Args:
      given: a text or a path.
      name: of the argument, for errors.

    Raises:
      UserError: for what is neither.
    """
    if not isinstance(given, str | os.PathLike):
        raise UserError(f"{name} is {said(given)}; give a path")
    return os.path.expanduser(given if isinstance(given, str) else text_of(given))


def fitted(given: Any, kind: Any, name: str) -> Any:
    """An argument that no verb checks, as the kind has it.

    Args:
      given: its value.
      kind: an annotation, see `kinds`.
      name: of the argument, for errors.

    Raises:
      UserError: for a value that does not fit.
    """
    try:
        return kinds.fitted(given, kind)
    except kinds.MisfitError as error:
        raise UserError(f"{name}: {error}") from None


class Place:
    """A directory to write to: the caller's, or one that lives as long as what names it.

    Attributes:
      output: where the verb writes.
      is_temporary: whether the caller named none.
      scratch: a directory that goes with this object, for what the call hands the verb.
    """

    def __init__(self, output_dir: str | os.PathLike[str] | None):
        """`output_dir` is the caller's; None makes one."""
        self.scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH))
        weakref.finalize(self, shutil.rmtree, self.scratch, ignore_errors=True)
        self.is_temporary = output_dir is None
        output = self.scratch / "output" if output_dir is None else output_dir
        self.output = path_of(output, "output_dir")
