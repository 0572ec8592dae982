"""What gin configures: read in layers, bound by name, checked, explained.

Layers, each overriding the one before: `gin_configs/runs/VERB.gin`, then every `--gin_file` in
order, then every `--gin.NAME=VALUE`. A macro NAME is bound to the verb's parameter `name` where no
line says otherwise, and so to the fields of the structs that a run file gives the verb
(`generate.generate.decoding = @decoding.Decoding()`). Gin itself accepts a misspelt macro and lets
a later binding kill a REQUIRED without a word, so the bindings are checked before the verb starts:
every binding must be reachable from the verb, and nothing reachable may be left REQUIRED.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import re
import sys
import tokenize
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gin
from gin import config as gin_config
from gin import config_parser

from detox_jax import bound_values, extras, shadowing
from detox_jax.errors import UserError

Bindings = dict[tuple[str, str], dict[str, Any]]
# What gin raises for a line that it cannot read, or a name in it that does not exist: an open
# bracket is the tokenizer's own error, and thousands of brackets are too deep for Python's parser.
_GIN_ERRORS = (
    *(OSError, ValueError, SyntaxError, ImportError, AttributeError, NameError, TypeError),
    *(tokenize.TokenError, RecursionError, MemoryError, IndexError, KeyError),
)
_MACRO = bound_values.MACRO
_DYNAMIC = "from __gin__ import dynamic_registration"
_ASSIGNMENT = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*) *=")
_INCLUDE = re.compile(r"include +['\"](?P<file>.+)['\"]")


# --- reading ----------------------------------------------------------------------------------


def load(
    module: str,
    verb: str,
    run_file: Path,
    gin_files: Sequence[str],
    bindings: Sequence[str],
    roots: Sequence[str],
) -> tuple[Callable[..., Any], Bindings]:
    """Parses the layers.

    Args:
      module: where the verb's function is.
      verb: its name.
      run_file: the first layer, whose bindings are defaults.
      gin_files: the layers over it, as the user named them.
      bindings: single ones over all files; they may refer to what the files import.
      roots: directories to look for gin files, and for modules that they import; the last one
        holds `detox_jax` itself.

    Returns:
      The verb's function, not called, and the run file's own bindings.

    Raises:
      UserError: if a file is missing or gin cannot read a line or a binding.
    """
    gin.clear_config(clear_constants=True)
    # Gin's second reader takes the folder of an include for a Python package, and breaks where it
    # is none; so an include would be found from the directory of gin_configs alone.
    del gin_config._FILE_READERS[1:]
    for root in roots:
        # `tasks` lies beside `gin_configs`, and a user's own modules beside their gin files.
        if root not in sys.path:
            sys.path.append(root)
        gin.add_config_file_search_path(root)
    package_root = Path(roots[-1])
    shadowing.import_tasks(package_root)
    files = [_find_file(name, roots) for name in gin_files]
    texts = [file.read_text(errors="replace") for file in (run_file, *files)]
    shadowing.name_other_tasks(texts, roots, package_root)
    modules, included = _parse_file(run_file)
    function = getattr(importlib.import_module(module), verb)
    _bind_by_name(function)
    defaults = _bindings()
    for file in files:
        if file != run_file:
            more_modules, more_included = _parse_file(file)
            modules, included = modules + more_modules, included + more_included
    shadowing.name_other_gin_files([*gin_files, *included], ["", *roots], package_root)
    for binding in bindings:
        _parse_binding(binding, modules)
    _bind_by_name(function)  # Again: a file over the run file may have brought another struct.
    return function, defaults


def _find_file(name: str, roots: Sequence[str]) -> Path:
    for root in ["", *roots]:
        if (file := Path(root) / name).is_file():
            return file.resolve()
    raise UserError(f"--gin_file={name}: no such file; looked in {', '.join(dict.fromkeys(roots))}")


def _parse_file(file: Path) -> tuple[list[str], list[str]]:
    """Parses a file; returns the modules that it and its includes import, and the includes."""
    parsed = _parse(lambda: gin.parse_config_file(str(file)), str(file))
    return list(_imported(parsed)), list(_included(parsed))


def _imported(parsed: Any) -> Iterator[str]:
    yield from parsed.imports
    for included in parsed.includes:
        yield from _imported(included)


def _included(parsed: Any) -> Iterator[str]:
    for included in parsed.includes:
        yield included.filename
        yield from _included(included)


def _import_lines(modules: Iterable[str]) -> list[str]:
    """Gin's statements that import modules; of two with one name, the later one counts."""
    by_name = {module.rpartition(".")[2]: module for module in modules}
    lines = [_DYNAMIC]
    for module in by_name.values():
        package, _, name = module.rpartition(".")
        if package and package != "__gin__":
            lines.append(f"from {package} import {name}")
    return lines


def _parse_binding(binding: str, modules: Iterable[str]) -> None:
    """Parses one line of the command line, which may name what the files import and do not use."""
    try:
        _parse(lambda: gin.parse_config(binding), f"--gin.{binding}")
    except UserError:
        lines = [*_import_lines(modules), binding]
        try:
            gin.parse_config("\n".join(lines))
        except _GIN_ERRORS:
            pass
        else:
            return
        raise


def _parse(parse: Callable[[], Any], where: str) -> Any:
    try:
        return parse()
    except _GIN_ERRORS as error:
        if extras.missing(error, where):
            raise  # The command says which verb needs it.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"{where}: {' '.join(lines)}") from None


# --- binding by name --------------------------------------------------------------------------


def _bind_by_name(verb: Callable[..., Any]) -> None:
    """Binds the verb's parameters, and its structs' fields, to the macros of their names."""
    registered = gin_config._inverse_lookup(verb)
    bound = gin_config._CONFIG.get(("", registered.selector), {}) if registered else {}
    module = verb.__module__.rpartition(".")[2]
    lines = _import_lines([verb.__module__])
    for name in _unbound(inspect.signature(verb).parameters, bound):
        lines.append(f"{module}.{verb.__name__}.{name} = %{name.upper()}")
    gin.parse_config("\n".join(lines))
    selector = _selector(verb)
    for value in list(gin_config._CONFIG.get(("", selector), {}).values()):
        if struct := _struct(value):
            scope, selector = value.config_key
            fields = [field.name for field in dataclasses.fields(struct)]
            bound = {
                name
                for key in (("", selector), (scope, selector))
                for name in gin_config._CONFIG.get(key, {})
            }
            for name in _unbound(fields, bound):
                reference = gin_config.ConfigurableReference(f"{name.upper()}/{_MACRO}", True)
                gin.bind_parameter((scope, selector, name), reference)


def _unbound(names: Iterable[str], bound: Container[str]) -> Iterator[str]:
    """The names that have a macro and no line."""
    for name in names:
        if name not in bound and (name.upper(), _MACRO) in gin_config._CONFIG:
            yield name


def _selector(verb: Callable[..., Any]) -> str:
    configurable = gin_config._inverse_lookup(verb)
    if configurable is None:
        raise UserError(f"the configuration never names the verb {verb.__name__!r}")
    return configurable.selector


def _struct(value: Any) -> Any:
    """The dataclass that a binding calls, `@decoding.Decoding()`, or None."""
    if not isinstance(value, gin_config.ConfigurableReference) or not value.evaluate:
        return None
    called: Any = value.configurable
    return called.wrapped if dataclasses.is_dataclass(called.wrapped) else None


# --- checks -----------------------------------------------------------------------------------


def _bindings() -> Bindings:
    """Every `(scope, selector)` that is bound, with its parameters."""
    return {key: dict(parameters) for key, parameters in gin_config._CONFIG.items()}


def _as_text(parameters: dict[str, Any] | None) -> str:
    return "" if parameters is None else repr(sorted(parameters.items()))


def named_values() -> dict[str, Any]:
    """Every bound value by the name that a user gave it by: MACRO, or scope/module.function.x."""
    named = {}
    for (scope, selector), parameters in gin_config._CONFIG.items():
        for parameter, value in parameters.items():
            bound = "/".join(filter(None, [scope, f"{selector}.{parameter}"]))
            name = scope if selector == _MACRO else bound
            named[name] = value if isinstance(value, str | int | float | None) else repr(value)
    return named


def check(verb: Callable[..., Any], defaults: Bindings, bindings: Sequence[str] = ()) -> None:
    """Fails on a binding out of the verb's reach, a REQUIRED left open, a value of a wrong kind.

    What the verb's run file binds may be out of reach: an override can cut off its defaults.

    Args:
      verb: the function.
      defaults: the run file's own bindings, as `load` returns them.
      bindings: the command line's, as `load` was given them.

    Raises:
      UserError: naming every such binding, or the first value.
    """
    reachable, calls = _reachable(verb)
    unused, required, infinite = [], [], []
    for key, parameters in _bindings().items():
        scope, selector = key
        name = scope if selector == _MACRO else "/".join(filter(None, [scope, selector]))
        if key not in reachable:
            if _as_text(defaults.get(key)) != _as_text(parameters):
                unused.append(name)
        elif any(_is_required(value) for value in gin_config.iterate_references(parameters)):
            required.append(name)
        elif _holds_infinity(list(parameters.values())):
            infinite.append(name)
    # A value of a wrong kind first: it may be what cuts off the others.
    examples = {
        scope: parameters.get("value")
        for (scope, selector), parameters in defaults.items()
        if selector == _MACRO
    }
    if not infinite:
        bound_values.check(calls, _texts(bindings), examples)
    problems = []
    if unused:
        names = ", ".join(sorted(unused))
        known = {scope for scope, selector in reachable if selector == _MACRO}
        meant = bound_values.suggestion(sorted(unused)[0], known)
        problems.append(f"nothing uses {names} (misspelt, or not for this verb?){meant}")
    if required:
        flags = " ".join(f"--gin.{name}=..." for name in sorted(required))
        problems.append(f"required and not set: {', '.join(sorted(required))}; pass {flags}")
    if infinite:
        names = ", ".join(sorted(infinite))
        problems.append(f"not finite: {names}; no file can repeat it: give a number, or None")
    if problems:
        raise UserError("; ".join(problems) + f"; see detox-jax {verb.__name__} --help")
    bound_values.try_out(calls)


def _texts(bindings: Iterable[str]) -> dict[str, str]:
    """What single bindings say of macros, as it is written, the last of each."""
    pairs = (binding.split(" = ", 1) for binding in bindings)
    return {name: text for name, text in pairs}


def _holds_infinity(value: Any) -> bool:
    """Gin leaves infinity out of the configuration that it writes, and JSON has none."""
    if isinstance(value, dict):
        return any(map(_holds_infinity, (*value, *value.values())))
    if isinstance(value, list | tuple):
        return any(map(_holds_infinity, value))
    return isinstance(value, float) and not math.isfinite(value)


def _is_required(value: Any) -> bool:
    return getattr(value, "scoped_selector", "") == "gin.REQUIRED/gin.constant"


def _reachable(
    verb: Callable[..., Any],
) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """The `(scope, selector)` keys of gin's configuration that a call of `verb` can look up.

    And the calls that look them up, each a scope and a selector too.

    A configurable called in scope a/b looks up its bindings in '', 'a' and 'a/b'; a reference is
    called in its own scope, or in that of its caller where it has none.
    """
    config = gin_config._CONFIG
    reached: set[tuple[str, str]] = set()
    visited: set[tuple[str, str]] = set()
    queue = [("", _selector(verb))]
    while queue:
        scope, selector = queue.pop()
        if (scope, selector) in visited:
            continue
        visited.add((scope, selector))
        parts = scope.split("/") if scope else []
        for depth in range(len(parts) + 1):
            key = ("/".join(parts[:depth]), selector)
            if key not in config:
                continue
            reached.add(key)
            for reference in gin_config.iterate_references(config[key]):
                own_scope, referred = reference.config_key
                queue.append((own_scope or scope, referred))
    return reached, visited


# --- help -------------------------------------------------------------------------------------


def explain(
    run_file: Path, gin_files: Sequence[str], bindings: Sequence[str], roots: Sequence[str]
) -> str:
    """The macros of a run file with the values that the layers give them, under its own comments.

    The files are read as text: what they import takes seconds to load.

    Args:
      run_file: the first layer.
      gin_files: the layers over it, as the user named them.
      bindings: single ones over all files.
      roots: where to look for gin files; the last one for what the run file includes.

    Raises:
      UserError: if a file is missing or gin cannot read a line or a binding.
    """
    values: dict[str, Any] = {}
    for file in [run_file, *(_find_file(name, roots) for name in gin_files)]:
        _parse(lambda file=file: _read_macros(file.read_text(), roots, values), str(file))
    for binding in bindings:
        _parse(lambda text=binding: _read_macros(text, roots, values), f"--gin.{binding}")
    lines: list[str] = []
    blocks = _macro_blocks(run_file, Path(roots[-1]))
    width = max((len(name) for _, names in blocks for name in names), default=0) + 2
    for comments, names in blocks:
        lines += ["", *(f"  # {comment}" for comment in comments)]
        lines += [f"  {name:{width}}{values.pop(name)!r}" for name in names if name in values]
    if values:  # Of the files and bindings over it.
        lines += ["", *(f"  {name:{width}}{value!r}" for name, value in values.items())]
    return "\n".join(lines[1:])


@dataclasses.dataclass(frozen=True)
class _Written:
    """A reference or a macro in a value, as it is written."""

    text: str

    def __repr__(self) -> str:
        return "REQUIRED" if self.text == "%gin.REQUIRED" else self.text


class _AsWritten(config_parser.ParserDelegate):
    """Has gin's parser look nothing up."""

    def configurable_reference(self, scoped_name: str, evaluate: bool) -> _Written:
        return _Written(f"@{scoped_name}" + ("()" if evaluate else ""))

    def macro(self, macro_name: str) -> _Written:
        return _Written(f"%{macro_name}")


def _read_macros(text: str, roots: Sequence[str], values: dict[str, Any]) -> None:
    """Puts what a text and the files that it includes say of macros into `values`."""
    for statement in config_parser.ConfigParser(text, _AsWritten()):
        if isinstance(statement, config_parser.IncludeStatement):
            _read_macros(_find_file(statement.filename, roots).read_text(), roots, values)
        elif isinstance(statement, config_parser.BindingStatement) and not statement.arg_name:
            values["/".join(filter(None, [statement.scope, statement.selector]))] = statement.value


def _macro_blocks(file: Path, root: Path) -> list[tuple[list[str], list[str]]]:
    """Comments and the macros below them, in the order of the file."""
    blocks: list[tuple[list[str], list[str]]] = []
    comments: list[str] = []
    new_block = False
    for line in file.read_text().splitlines()[1:]:
        if include := _INCLUDE.match(line):
            blocks += _macro_blocks(root / include["file"], root)
            comments = []
        elif line.startswith("#"):
            comments.append(line.removeprefix("#").strip())
        elif assignment := _ASSIGNMENT.match(line):
            if comments or new_block or not blocks:
                blocks.append((comments, []))
                comments, new_block = [], False
            blocks[-1][1].append(assignment["name"])
        elif not line.strip():
            comments, new_block = [], True
    return blocks
