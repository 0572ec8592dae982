"""What gin configures: read in layers, bound by name, checked.

Layers, each overriding the one before: `gin_configs/runs/VERB.gin`, then every `--gin_file` in
order, then every `--gin.NAME=VALUE`. A macro NAME is bound to the verb's parameter `name` where no
line says otherwise, and so to the fields of the structs that a run file gives the verb
(`generate.generate.decoding = @decoding.Decoding()`). Gin itself accepts a misspelt macro and lets
a later binding kill a REQUIRED without a word, so the bindings are checked before the verb starts:
every binding must be reachable from the verb, and nothing reachable may be left REQUIRED.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import inspect
import itertools
import math
import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gin
from gin import config as gin_config

from detox_jax import bound_values, run_files, shadowing
from detox_jax.errors import UserError, suggestion

Bindings = dict[tuple[str, str], dict[str, Any]]
_MACRO = bound_values.MACRO
# What gin says of names that nothing has, and where it stood in what is no file.
_UNKNOWN = re.compile(r"No configurable matching reference '@(?:[\w/]+/)?(?P<name>\w+\.\w+)")
_NO_CONFIGURABLE = re.compile(r"No configurable matching '(?:[\w/]+/)?(?P<name>[\w.]+)'")
_NO_PARAMETER = re.compile(
    r"Configurable '(?:[\w/]+/)?(?P<owner>[\w.]+)' doesn't have a parameter named '(?P<name>\w+)'"
)
_IN_A_FLAG = re.compile(r"[.]? In bindings string line \d+ .*$", re.DOTALL)
_DYNAMIC = "from __gin__ import dynamic_registration"


# --- reading ----------------------------------------------------------------------------------


def load(
    module: str,
    verb: str,
    run_file: Path,
    gin_files: Sequence[str],
    bindings: Sequence[str],
    roots: Sequence[str],
    imports: Sequence[str] = (),
    below: Sequence[str] = (),
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
      imports: modules that the bindings name and no file imports.
      below: single ones over the run file and under all others.

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
    files = [run_files.find(name, roots) for name in gin_files]
    texts = [file.read_text(errors="replace") for file in (run_file, *files)]
    shadowing.name_other_tasks(texts, roots, package_root)
    modules, included = _parse_file(run_file)
    for binding in below:
        _parse_binding(binding, modules)
    function = getattr(importlib.import_module(module), verb)
    _bind_by_name(function)
    defaults = _bindings()
    for file in files:
        if file != run_file:
            more_modules, more_included = _parse_file(file)
            modules, included = modules + more_modules, included + more_included
    shadowing.name_other_gin_files([*gin_files, *included], ["", *roots], package_root)
    for binding in bindings:
        _parse_binding(binding, [*modules, *imports])
    bound_values.expand_home()
    _bind_by_name(function)  # Again: a file over the run file may have brought another struct.
    return function, defaults


def value_of(macro: str) -> Any:
    """What a macro comes to when all layers are read; None where none sets it."""
    bound = gin_config._CONFIG.get((macro, _MACRO), {}).get("value")
    return copy.deepcopy(bound)  # which calls what it refers to


def leave_open(names: Iterable[str]) -> None:
    """Has the configuration ask for what no gin file can hold, for whoever runs it again.

    Args:
      names: of the verb's arguments that are given; those that have a macro are meant.
    """
    for name in names:
        if (macro := name.upper(), _MACRO) in gin_config._CONFIG:
            required = gin_config.ConfigurableReference("gin.REQUIRED/gin.constant", True)
            gin.bind_parameter(f"{macro}/{_MACRO}.value", required)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Leaves gin as it was: what a call from Python configures is no business of its caller's.

    Gin has one configuration a process, which a notebook may use for something else, T5X say.
    """
    states = [
        *(gin_config._CONFIG, gin_config._SINGLETONS, gin_config._OPERATIVE_CONFIG),
        *(gin_config._IMPORTS, gin_config._CONSTANTS),
    ]
    lists = [gin_config._FILE_READERS, gin_config._LOCATION_PREFIXES]
    kept = [state.copy() for state in states], [list(of) for of in lists]
    was_locked = gin.config_is_locked()
    try:
        yield
    finally:
        for state, before in zip(states, kept[0], strict=True):
            state.clear()
            if isinstance(state, set):
                state.update(before)
            else:
                for name, value in before.items():
                    state[name] = value
        for of, before in zip(lists, kept[1], strict=True):
            of[:] = before
        gin_config._set_config_is_locked(was_locked)


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
        with contextlib.suppress(UserError):
            run_files.parsed(lambda: gin.parse_config("\n".join(lines)), "")
            return
        raise


def _parse(parse: Callable[[], Any], where: str) -> Any:
    """What gin makes of something; of what it does not know, which file or name is meant."""
    try:
        return run_files.parsed(parse, where)
    except UserError as error:
        said = _IN_A_FLAG.sub("", str(error))
        raise UserError(f"{said}{_meant(said)}") from None


def _meant(said: str) -> str:
    """Which file brings a name that gin does not know, or which name may be meant."""
    if unknown := _UNKNOWN.search(said):
        return run_files.who_brings(unknown["name"])
    if unknown := _NO_PARAMETER.search(said):
        owner, name = gin_config._REGISTRY.get_match(unknown["owner"]), unknown["name"]
        own = inspect.signature(owner.wrapped).parameters if owner else ()
        macros = [macro for macro, selector in gin_config._CONFIG if selector == _MACRO]
        return suggestion(name, own) or suggestion(name.upper(), macros)
    if unknown := _NO_CONFIGURABLE.search(said):
        parts = unknown["name"].count(".") + 1
        known = (".".join(name.split(".")[-parts:]) for name, _ in gin_config._REGISTRY.items())
        return suggestion(unknown["name"], known)
    return ""


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

    What the verb's run file binds may be out of reach: an override can cut off its defaults, and
    those that another file has set, such as an adapter's width behind an experiment's other
    adaptation.

    Args:
      verb: the function.
      defaults: the run file's own bindings, as `load` returns them.
      bindings: the command line's, as `load` was given them.

    Raises:
      UserError: naming every such binding, or the first value.
    """
    reachable, calls = _reachable(verb)
    flags = {binding.partition("=")[0].strip() for binding in bindings}
    needed, _ = _reachable(verb, overridden_too=False)
    unused, required, infinite = [], [], []
    for key, parameters in _bindings().items():
        scope, selector = key
        called = "/".join(filter(None, [scope, bound_values.short(selector)]))
        name = scope if selector == _MACRO else called
        if key not in reachable:
            is_cut_off = key in defaults and name not in flags
            if not is_cut_off and _as_text(defaults.get(key)) != _as_text(parameters):
                unused.append(name)
        elif key in needed and any(
            _is_required(value) for value in gin_config.iterate_references(parameters)
        ):
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
        _require_set(calls, verb.__name__)
        bound_values.check(calls, _texts(bindings), examples, run_files.who_sets)
    known = {scope for scope, selector in reachable if selector == _MACRO}
    problems = [*_of_unused(unused, flags, known, calls, verb.__name__)]
    # As of a variable that the shell does not know; a path would be where the verb is started.
    if empty := [scope for scope, value in _macros() if value == "" and scope in _asked(defaults)]:
        problems.append(f"empty: {', '.join(empty)}; give a value")
    if required:
        flags = " ".join(f"--gin.{name}={_likely(name)}" for name in sorted(required))
        problems.append(f"required and not set: {', '.join(sorted(required))}; pass {flags}")
    if infinite:
        names = ", ".join(sorted(infinite))
        problems.append(f"not finite: {names}; no file can repeat it: give a number, or None")
    if problems:
        raise UserError("; ".join(problems) + f"; see detox-jax {verb.__name__} --help")
    bound_values.try_out(calls)


def _of_unused(
    unused: Sequence[str],
    flags: set[str],
    known: set[str],
    calls: Container[tuple[str, str]],
    verb: str,
) -> Iterator[str]:
    """What is said of names that nothing uses.

    Args:
      unused: the names.
      flags: what the command line sets.
      known: the macros that the run uses.
      calls: all that it calls.
      verb: its verb.
    """
    cut_off = sorted({*unused} - flags)
    if cut_off and "METHODS" in flags and {"METHODS", "ONLY"} <= known:
        unused = [name for name in unused if name in flags]
        others = f" and {len(cut_off) - 1} more" if len(cut_off) > 1 else ""
        yield (
            f"METHODS leaves unused what files set for other rows: {cut_off[0]}{others}; to run "
            "some of their rows, name these in place of METHODS: --gin.ONLY=\"['NAME']\""
        )
    if not unused:
        return
    macros = {scope for scope, _ in _macros()}
    # Of this run, else one that another of its choices takes.
    first = sorted(unused)[0]
    meant = suggestion(first, known) or suggestion(first, macros - {*unused})
    owners = _owners(unused, calls)
    why = f"it is for {owners}" if owners else _whose(unused, verb, calls)
    yield f"nothing uses {', '.join(sorted(unused))} ({why}){'' if owners else meant}"


def _macros() -> Iterator[tuple[str, Any]]:
    for (scope, selector), parameters in _bindings().items():
        if selector == _MACRO:
            yield scope, parameters.get("value")


def _asked(defaults: Bindings) -> set[str]:
    """The macros that a run file leaves open."""
    return {
        scope
        for (scope, selector), parameters in defaults.items()
        if selector == _MACRO and _is_required(parameters.get("value"))
    }


def _likely(name: str) -> str:
    """What a setting that is asked for may be."""
    start = dict(_macros()).get("INITIAL_CHECKPOINT_PATH")
    if name != "VOCABULARY_PATH" or not isinstance(start, str):
        return "..."
    return re.sub(r"(/checkpoints/\d+)?/*$", "", start) + "/vocabulary"


def _require_set(calls: Iterable[bound_values.Call], verb: str) -> None:
    """Refuses a gin file that refers to macros of another verb."""
    for called, macros in bound_values.unset(calls).items():
        verbs = set.intersection(*({*run_files.verbs_with(macro)} for macro in macros))
        if verbs:
            raise UserError(
                f"{called}: nothing sets {', '.join(f'%{macro}' for macro in macros)}; the gin "
                f"file that refers to it is for {', '.join(sorted(verbs))}, and not for {verb}"
            )


def _whose(names: Iterable[str], verb: str, calls: Container[tuple[str, str]] = ()) -> str:
    """Whose the names are that a run does not use: of those that tell best, the fewest verbs."""
    of_verbs = {name: run_files.verbs_with(name) for name in sorted(names)}
    # A setting of this verb belongs to another of its choices.
    own = [name for name, of in of_verbs.items() if verb in of]
    others = [of for of in of_verbs.values() if of and verb not in of]
    verbs = min(others, key=len, default=None)
    said = [f"{name} is for {owners}" for name in own if (owners := _owners([name], calls))]
    if verbs is not None:
        theirs = [name for name, of in of_verbs.items() if of == verbs]
        are = "is a setting" if len(theirs) == 1 else "are settings"
        said.append(f"{', '.join(theirs)} {are} of {', '.join(verbs)}, and not of {verb}")
    return "; ".join(said) or "misspelt, or not for this verb?"


def _owners(macros: Iterable[str], calls: Container[tuple[str, str]]) -> str:
    """What takes macros and is no part of the run: `@sampling.TopKSampling()` takes TOP_K.

    Empty unless every macro is for some struct that another choice would call.
    """
    owners = []
    for macro in macros:
        taking = [
            f"@{'.'.join(selector.split('.')[-2:])}()"
            for (scope, selector), parameters in gin_config._CONFIG.items()
            if selector != _MACRO
            and (scope, selector) not in calls
            and any(bound_values.macro_of(value) == macro for value in parameters.values())
            and isinstance(gin_config._REGISTRY[selector].wrapped, type)
        ]
        if not taking:
            return ""
        owners += taking
    return ", ".join(dict.fromkeys(owners))


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
    overridden_too: bool = True,
) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """The `(scope, selector)` keys of gin's configuration that a call of `verb` can look up.

    And the calls that look them up, each a scope and a selector too.

    A configurable called in scope a/b looks up its bindings in '', 'a' and 'a/b'; a reference is
    called in its own scope, or in that of its caller where it has none. Of a parameter that is
    bound in several of them the last one counts; what the others refer to is followed as well where
    `overridden_too`.
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
        keys = [("/".join(parts[:depth]), selector) for depth in range(len(parts) + 1)]
        keys = [key for key in keys if key in config]
        reached.update(keys)
        followed = [config[key] for key in keys]
        if not overridden_too:
            followed = [dict(itertools.chain.from_iterable(of.items() for of in followed))]
        for parameters in followed:
            for reference in gin_config.iterate_references(parameters):
                own_scope, referred = reference.config_key
                queue.append((own_scope or scope, referred))
    return reached, visited
