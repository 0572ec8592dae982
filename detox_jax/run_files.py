"""What gin files say of verbs, read as text: what they import takes seconds to load.

A run file, `gin_configs/runs/VERB.gin`, begins with a line that says what the verb does, then what
it needs, then an example of its command; a comment above macros explains them. Help, completion and
suggestions are made of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gin import config_parser

from detox_jax import extras
from detox_jax.errors import (
    UserError,
    is_of_storage,
    nearest,
    of_environment,
    own_line,
    suggestion,
)

# What gin raises for a line that it cannot read, or a name in it that does not exist: an open
# bracket is the tokenizer's own error, and thousands of brackets are too deep for Python's parser.
_GIN_ERRORS = (
    *(OSError, ValueError, SyntaxError, ImportError, AttributeError, NameError, TypeError),
    *(tokenize.TokenError, RecursionError, MemoryError, IndexError, KeyError),
)
# Where `gin_configs` lies: beside the package, in a checkout as in site-packages.
ROOT = Path(__file__).resolve().parent.parent
_FOLDER = "gin_configs"
REQUIRED = "%gin.REQUIRED"
_EXAMPLE = "Example:"
_ASSIGNMENT = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*) *= *(?P<value>.+)")
_INCLUDE = re.compile(r"include +['\"](?P<file>.+)['\"]")
_REFERENCE = re.compile(r"@(?:[\w/]+/)?(?P<name>\w+\.\w+)")
_MACRO = re.compile(r"%(?P<name>[A-Z][A-Z0-9_]*)")
_Result = TypeVar("_Result")


# --- reading ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Block:
    """Macros that stand together below a comment.

    Attributes:
      comments: the lines above them, without their signs.
      macros: the default of each by its name, as gin reads it; of several lines the first.
    """

    comments: tuple[str, ...]
    macros: dict[str, str]


@dataclasses.dataclass(frozen=True)
class RunFile:
    """A verb's run file.

    Attributes:
      path: where it is.
    """

    path: Path

    @property
    def summary(self) -> str:
        """What the verb does, its first line."""
        return self._head()[0]

    @property
    def needs(self) -> str:
        """Which macros have to be set, in a sentence or two; empty where it says nothing."""
        lines = self._head()[1:]
        end = lines.index(_EXAMPLE) if _EXAMPLE in lines else len(lines)
        return " ".join(lines[:end])

    @property
    def example(self) -> str:
        """A command of the verb, over one line or several; empty where there is none."""
        lines = self._head()
        return "\n".join(lines[lines.index(_EXAMPLE) + 1 :]) if _EXAMPLE in lines else ""

    def _head(self) -> list[str]:
        """The comments before the first line that is none, without their signs."""
        head = []
        for line in self.path.read_text().splitlines():
            if not line.startswith("#"):
                break
            head.append(line.removeprefix("#").removeprefix(" "))
        return head

    def blocks(self) -> list[Block]:
        """The macros of the file and of what it includes, in their order."""
        return macro_blocks(self.path.read_text())

    def macros(self) -> dict[str, tuple[str, ...]]:
        """Comments by macro, in the order of the file; of a block they stand at its first macro."""
        return {
            name: block.comments if number == 0 else ()
            for block in self.blocks()
            for number, name in enumerate(block.macros)
        }


def of_verb(verb: str) -> RunFile:
    """The run file of a verb."""
    return RunFile(ROOT / _FOLDER / "runs" / f"{verb}.gin")


def verbs_with(macro: str) -> list[str]:
    """The verbs whose run files have a macro, in the order of the alphabet."""
    files = sorted((ROOT / _FOLDER / "runs").glob("*.gin"))
    return [file.stem for file in files if macro in of_verb(file.stem).macros()]


def macro_blocks(text: str) -> list[Block]:
    """Comments and the macros below them, in the order of a file's text and of what it includes."""
    blocks: list[Block] = []
    comments: list[str] = []
    new_block = True
    for line in text.splitlines()[1:]:
        if include := _INCLUDE.match(line):
            blocks += macro_blocks((ROOT / include["file"]).read_text())
            comments, new_block = [], True
        elif line.startswith("#"):
            comments.append(line.removeprefix("#").strip())
        elif assignment := _ASSIGNMENT.match(line):
            if comments or new_block:
                blocks.append(Block(tuple(comments), {}))
                comments, new_block = [], False
            blocks[-1].macros[assignment["name"]] = assignment["value"].strip()
        elif not line.strip():
            comments, new_block = [], True
    return blocks


def parsed(parse: Callable[[], _Result], where: str) -> _Result:
    """What gin makes of something.

    Args:
      parse: calls gin.
      where: names the file or flag in an error.

    Raises:
      UserError: what gin refuses, as one line; of a module that it imports the line of that.
    """
    try:
        with _without_doubled_keys():
            return parse()
    except Exception as error:  # A module of the user's may raise any.
        if wrong := of_environment(error):
            raise wrong from None
        own = own_line(error)
        if is_of_storage(error) or (own is None and not isinstance(error, _GIN_ERRORS)):
            raise
        if extras.missing(error, where):
            raise  # The command says which verb needs it.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = " ".join(lines or [type(error).__name__])
        raise UserError(": ".join(filter(None, (where, own, said)))) from None


class _Parser(config_parser.ConfigParser):
    """Gin's, which takes the last of two values that a dict has for one name without a word."""

    def __init__(self, *args: Any, **kwargs: Any):
        self._keys: list[set[Any]] = []  # of the containers that are being read
        super().__init__(*args, **kwargs)

    def _maybe_parse_container(self) -> tuple[bool, Any]:
        self._keys.append(set())
        try:
            return super()._maybe_parse_container()
        finally:
            self._keys.pop()

    def _parse_dict_item(self) -> tuple[Any, Any]:
        place = self._current_location()
        key, value = super()._parse_dict_item()
        if key in self._keys[-1]:
            self._raise_syntax_error(f"{key!r} stands twice in a dict; give each name once", place)
        self._keys[-1].add(key)
        return key, value


@contextlib.contextmanager
def _without_doubled_keys() -> Iterator[None]:
    """Has gin refuse a name that stands twice in a dict; another's use of gin is left alone."""
    theirs = config_parser.ConfigParser
    config_parser.ConfigParser = _Parser
    try:
        yield
    finally:
        config_parser.ConfigParser = theirs


# --- finding ----------------------------------------------------------------------------------


def find(name: str, roots: Sequence[str]) -> Path:
    """The gin file of a name, in the working directory or below one of the roots.

    Raises:
      UserError: if there is none; with the one of a like name that may be meant.
    """
    for root in ["", *roots]:
        if (file := Path(root) / name).is_file():
            return file.resolve()
    meant = _like(name, roots)
    raise UserError(
        f"--gin_file={name}: no such file; looked in {', '.join(dict.fromkeys(roots))}{meant}"
    )


def _like(name: str, roots: Iterable[str]) -> str:
    """`; did you mean gin_configs/experiments/demo.gin?`, by the file's name alone."""
    by_name = {Path(path).name: path for path in sorted(shipped(roots), reverse=True)}
    asked = Path(name).name
    folder = Path(name).parent.name
    if folder:  # Of another folder a like name is for something else.
        by_name = {file: path for file, path in by_name.items() if Path(path).parent.name == folder}
    near = nearest(asked if asked.endswith(".gin") else f"{asked}.gin", by_name)
    return "" if near is None else f"; did you mean {by_name[near]}?"


def shipped(roots: Iterable[str]) -> list[str]:
    """The gin files in and below `gin_configs` of the roots, and those that lie in a root."""
    files = []
    for root in map(Path, dict.fromkeys(roots)):
        for file in (*root.glob("*.gin"), *(root / _FOLDER).rglob("*.gin")):
            files.append(str(file.relative_to(root)))
    return list(dict.fromkeys(files))


def who_brings(reference: str) -> str:
    """What to do for a reference that no file has imported.

    Args:
      reference: like `classifier.ClassifierScorer`.

    Returns:
      `; --gin_file=gin_configs/scorers/classifier.gin brings it`, or which name may be meant; empty
      where nothing is known.
    """
    module = reference.split(".")[0]
    brought: dict[str, list[str]] = {}
    for path in sorted((ROOT / _FOLDER).rglob("*.gin")):
        text = path.read_text()
        for name in dict.fromkeys(match["name"] for match in _REFERENCE.finditer(text)):
            brought.setdefault(name, []).append(str(path.relative_to(ROOT)))
    files = [
        file
        for file in brought.get(reference, [])
        if "/runs/" not in file and re.search(rf"import {module}$", (ROOT / file).read_text(), re.M)
    ]
    if files:
        # What a directory is for comes before experiments, which use it.
        file = min(files, key=lambda file: ("/experiments/" in file, file))
        return f"; --gin_file={file} brings it"
    return suggestion(reference, brought, "@")


def who_sets(macro: str, value: str) -> tuple[str, str]:
    """What to do for a name in place of what a setting takes, where gin files set it to one.

    Args:
      macro: like `STEERING`.
      value: what was given.

    Returns:
      `; --gin_file=gin_configs/steering/words.gin sets it` for `words`, empty where no file has
      that name; and where the files lie, empty where none is for it or several folders hold them.
    """
    sets = re.compile(rf"^{re.escape(macro)} *= *\[?@", re.M)
    found = [
        path.relative_to(ROOT)
        for path in sorted((ROOT / _FOLDER).rglob("*.gin"))
        if path.parent.name not in ("runs", "t5x") and "experiments" not in path.parts
        if sets.search(path.read_text())
    ]
    so_named = [f"; --gin_file={file} sets it" for file in found if file.stem == value.lower()]
    named = so_named[0] if so_named else ""
    if len(folders := {file.parent for file in found}) != 1:
        return named, ""
    all_in = f"{folders.pop()}/*.gin" if len(found) > 1 else found[0]
    return named, f"; {all_in} sets it, for --gin_file"


# --- macros and their values ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Written:
    """A reference or a macro in a value, as it is written."""

    text: str

    def __repr__(self) -> str:
        return "REQUIRED" if self.text == REQUIRED else self.text


class _AsWritten(config_parser.ParserDelegate):
    """Has gin's parser look nothing up."""

    def configurable_reference(self, scoped_name: str, evaluate: bool) -> _Written:
        return _Written(f"@{scoped_name}" + ("()" if evaluate else ""))

    def macro(self, macro_name: str) -> _Written:
        return _Written(f"%{macro_name}")


@dataclasses.dataclass
class _Layers:
    """What the layers say, later ones over earlier ones.

    Attributes:
      verb: whose layers they are.
      macros: values by name.
      parameters: values by what is configured and its parameter: `("prompts.Standard", "words")`.
    """

    verb: str
    macros: dict[str, Any] = dataclasses.field(default_factory=dict)
    parameters: dict[tuple[str, str], Any] = dataclasses.field(default_factory=dict)

    def read(self, text: str, roots: Sequence[str]) -> None:
        """Adds what a text and the files that it includes say."""
        for statement in config_parser.ConfigParser(text, _AsWritten()):
            if isinstance(statement, config_parser.IncludeStatement):
                self.read(find(statement.filename, roots).read_text(), roots)
            elif not isinstance(statement, config_parser.BindingStatement):
                continue
            elif statement.arg_name:
                self.parameters[_last_two(statement.selector), statement.arg_name] = statement.value
            else:
                name = "/".join(filter(None, [statement.scope, statement.selector]))
                self.macros[name] = statement.value

    def shown(self, name: str) -> str:
        """A macro's value; of one that is required, for which of the choices where not for all."""
        value = self.macros[name]
        owners = self._owners(name) if repr(value) == "REQUIRED" else []
        if not owners or not self._called().isdisjoint(owners):
            return repr(value)
        return f"for {', '.join(f'@{owner}()' for owner in owners)}"

    def _called(self) -> set[str]:
        """What the choices of macros call, and what is called with: all that a run makes."""
        called = {name for value in self.macros.values() for name in _references(value)}
        while True:
            more = {
                name
                for (owner, _), value in self.parameters.items()
                if owner in called or self._is_the_verb(owner)
                for name in _references(value)
            }
            if more <= called:
                return called
            called |= more

    def _owners(self, name: str) -> list[str]:
        """What is configured with a macro; empty where it is the verb's own or nothing says so."""
        owners = [
            owner
            for (owner, _), value in self.parameters.items()
            if name in {macro["name"] for macro in _MACRO.finditer(repr(value))}
        ]
        # A function in between, such as `sources.with_fields`, is a part of what is given by it.
        callers = [
            caller for of in owners for caller in ([of] if _is_a_choice(of) else self._callers(of))
        ]
        if any(self._is_the_verb(owner) for owner in callers):
            return []
        return list(dict.fromkeys(callers))

    def _callers(self, called: str) -> list[str]:
        """What is configured with a call."""
        return [
            owner for (owner, _), value in self.parameters.items() if called in _references(value)
        ]

    def _is_the_verb(self, owner: str) -> bool:
        return owner.endswith(f".{self.verb}")


def _references(value: Any) -> set[str]:
    return {reference["name"] for reference in _REFERENCE.finditer(repr(value))}


def _is_a_choice(name: str) -> bool:
    """Whether a name is a class's, of which a macro chooses one."""
    return name.rpartition(".")[2][:1].isupper()


def _last_two(selector: str) -> str:
    return ".".join(selector.split(".")[-2:])


def explain(
    run_file: RunFile,
    gin_files: Sequence[str],
    bindings: Sequence[str],
    roots: Sequence[str],
    notes: Mapping[str, str],
) -> str:
    """The macros of a run file with the values that the layers give them, under its own comments.

    Args:
      run_file: the first layer.
      gin_files: the layers over it, as the user named them.
      bindings: single ones over all files.
      roots: where to look for gin files.
      notes: what else to say of macros, by name.

    Raises:
      UserError: if a file is missing or gin cannot read a line or a binding.
    """
    layers = _Layers(run_file.path.stem)
    for file in [run_file.path, *(find(name, roots) for name in gin_files)]:
        parsed(lambda file=file: layers.read(file.read_text(), roots), str(file))
    for binding in bindings:
        parsed(lambda text=binding: layers.read(text, roots), f"--gin.{binding}")
    return "\n".join(_lines(run_file, layers, notes))


def _lines(run_file: RunFile, layers: _Layers, notes: Mapping[str, str]) -> Iterator[str]:
    names = [*run_file.macros()]
    width = max(map(len, [*names, ""])) + 2

    def line(name: str) -> str:
        said = layers.shown(name)
        if said == "None" and re.search(rf"\b{name}\b", run_file.needs):
            said += ", but see above"
        note = f"  ({notes[name]})" if name in notes else ""
        return f"  {name:{width}}{said}{note}"

    first = True
    for block in run_file.blocks():
        if not first:
            yield ""
        first = False
        yield from (f"  # {comment}" for comment in block.comments)
        yield from (line(name) for name in block.macros if name in layers.macros)
    others = [name for name in layers.macros if name not in names]
    if others:  # Of the files and bindings over it.
        yield ""
        yield from (f"  {name:{width}}{layers.macros[name]!r}" for name in others)
