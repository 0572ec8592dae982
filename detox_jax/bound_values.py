"""The values that gin has bound, checked before anything is opened, under the names that users set.

gin calls a verb's configurables when their turn comes, in `sgeat` after hours; so each value is
compared with the annotation of its parameter here, and each struct that a value belongs to is made
once, for what its `__post_init__` refuses. A mistake is named by the macro that the user set,
`DOCUMENT_MAX_NEW_TOKENS`, not by the parameter that it ends in.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import os
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import gin
from gin import config as gin_config

from detox_jax import kinds
from detox_jax.errors import IN_CALL, UserError, shortened, suggestion

Call = tuple[str, str]  # the scope in which something is called, and its selector
MACRO = "gin.macro"
# A percent sign, a fraction, a decimal comma: how people write a share.
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")
# What errors about a place to write to say, and the macros that name one.
_OF_WRITING = re.compile(
    r": is a file; give a directory to write to|: cannot be written: |[;,] (or )?choose another\b"
)
_WRITTEN = re.compile(r"(OUTPUT_DIR|MODEL_DIR|SHEETS_DIR|TO|TO_HF|TO_T5X)=")
_MACRO_LABEL = re.compile(r"[A-Z][A-Z0-9_]*=")
# What gin appends to an error: the calls that it arose in, the innermost first.
_CALLED = re.compile(rf"{re.escape(IN_CALL)} '([\w.]+)' \(.*?\)(?: in scope '([\w/]+)')?")
# A setting's name in an error: no part of a path, of a file's name or of a word.
_NAME = re.compile(r"""(?<![\w./'"=-])[A-Z][A-Z0-9_]{3,}(?![\w/'"-]|\.\w)""")
_QUOTED = r"""(?<!\w)(?:'.*?'|".*?")(?!\w)"""
_EXAMPLES = {
    "task_feature_lengths": "{'targets': 128}",
    "mesh_shape": "{'fsdp': 4, 'model': 2}",
    "methods": "{'base': 'DIR', 'mine': 'DIR'}",
    "sgeat.methods": "{'mine': {'corpus': 'standard'}}",
    "judges": "{'ngram': @ngram/score.score}",
    "scores": "{'ngram': 'DIR', 'lexicon': 'DIR'}",
    "terms": "{'DIR': -0.5}",
    "groups": "{'identities': 'DIR', 'rest': 'DIR'}",
    "prompts": "@prompts.Standard()",
    "decoding": "{'sampling': @sampling.Greedy()}",
}
_EXAMPLES_OF_KINDS = {bool: "True", int: "100", float: "0.5", str: "TEXT"}


@dataclasses.dataclass(frozen=True)
class _Bound:
    """A parameter that is bound.

    Attributes:
      call: scope and selector of what is called.
      parameter: its name.
      value: as gin holds it, macros followed.
      name: the macro that holds the value, or `scope/module.function.parameter` without one.
    """

    call: Call
    parameter: str
    value: Any
    name: str


def check(
    calls: Iterable[Call],
    texts: Mapping[str, str],
    examples: Mapping[str, Any],
    who_sets: Callable[[str, str], tuple[str, str]],
) -> None:
    """Refuses values of the wrong kind; puts a whole number for one like `1e3`, text for `2024`.

    Args:
      calls: all that the verb calls, itself included.
      texts: what the command line says of macros, as it is written.
      examples: values of macros that fit, of the run file.
      who_sets: which gin file of that name sets a macro, and where others lie that do, for a name
        in place of what it takes.

    Raises:
      UserError: naming the setting, what it takes and an example.
    """
    for bound in _bound(sorted(calls)):
        _require_two_slashes(bound)
        kind = _kinds(bound.call).get(bound.parameter, Any)
        try:
            fitting = _fitted(bound, kind, texts)
        except kinds.MisfitError as misfit:
            value, says_it = bound.value, kinds.WRITE in str(misfit)
            named, others = who_sets(bound.name, value) if isinstance(value, str) else ("", "")
            example = "" if says_it else _example(bound, kind, examples)
            raise UserError(f"{bound.name}: {misfit}{named or example or others}") from None
        if fitting is not bound.value:
            _rebind(bound, fitting)


def expand_home() -> None:
    """Puts the home directory for `~` in every value, as a shell does where no `=` stands before.

    Of lists and dicts too, keys included. What is recorded of a run is the path that was meant, so
    that either spelling goes on with one output.
    """
    for parameters in gin_config._CONFIG.values():
        for name, value in parameters.items():
            parameters[name] = _in_home(value)


def _in_home(value: Any) -> Any:
    if isinstance(value, str):
        return os.path.expanduser(value) if value == "~" or value.startswith("~/") else value
    if isinstance(value, Mapping):
        return {_in_home(key): _in_home(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_in_home, value))
    return value


def unset(calls: Iterable[Call]) -> dict[str, list[str]]:
    """The macros that nothing sets, by what refers to them: `preferences.pairs_task`."""
    found: dict[str, list[str]] = {}
    for call in sorted(calls):
        for value in _bindings(call).values():
            macro = macro_of(value)
            if macro is not None and (macro, MACRO) not in gin_config._CONFIG:
                found.setdefault(short(call[1]), []).append(macro)
    return found


def _require_two_slashes(bound: _Bound) -> None:
    """Refuses `gs:/bucket`, which would be a directory of that name here."""
    values = bound.value.values() if isinstance(bound.value, Mapping) else [bound.value]
    for value in values:
        if isinstance(value, str) and (place := re.fullmatch(r"(gs|s3|hf|tfds):/([^/].*)", value)):
            raise UserError(
                f"{bound.name}={value}: one slash is missing; write {place[1]}://{place[2]}"
            )


def under_its_setting(message: str) -> str:
    """An error that begins with a file or directory, with the setting that names it before it.

    >>> under_its_setting("typo.jsonl: no such file")  # doctest: +SKIP
    'HELDOUT=typo.jsonl: no such file'
    >>> under_its_setting("typo: no such checkpoint")  # doctest: +SKIP
    "METHODS: 'mine': typo: no such checkpoint"
    """
    labels = [
        label
        for place, label in _texts_by_setting()
        if place and message.startswith(f"{place}: ") and not message.startswith(label)
    ]
    writes = bool(_OF_WRITING.search(message))
    labels.sort(key=lambda label: _rank(label, writes))
    if not labels:
        return f"{_of_a_directory(message)}{message}"
    first = [label for label in labels if _rank(label, writes) == _rank(labels[0], writes)]
    # Settings that by mistake name one place: which of them is meant only the verb knows.
    alike = [label[:-1] for label in dict.fromkeys(first) if _MACRO_LABEL.fullmatch(label)]
    return f"{', '.join(alike)}={message}" if len(alike) > 1 else f"{labels[0]}{message}"


def as_set(message: str) -> str:
    """An error with the settings of the call that it arose in by the names that a user sets.

    In `sgeat` a training of an adaptation knows a LEARNING_RATE, which is ADAPTER_LEARNING_RATE.
    What is quoted, or in a text that is bound, is the user's own, such as a directory called EVAL.

    Args:
      message: as it was raised, behind it the calls that gin appends.
    """
    said, *_ = message.split(IN_CALL)
    calls = _calls(message)
    if not calls:
        return message

    def named(found: re.Match[str]) -> str:
        name = found["name"]
        if name is None:
            return found[0]
        setting = _setting(calls, name.lower(), unbound=_is_number) or name
        # What is bound to no macro may be made by a call that the macro of this name goes to.
        is_macro = "." not in setting or (name, MACRO) not in gin_config._CONFIG
        return setting if is_macro else name

    bound = {text for text, _ in _texts_by_setting() if text and text in said}
    own = [rf"(?<!\w){re.escape(text)}(?!\w)" for text in sorted(bound, key=len, reverse=True)]
    pattern = "|".join([_QUOTED, *own, f"(?P<name>{_NAME.pattern})"])
    return re.sub(pattern, named, said) + message[len(said) :]


def less_memory(message: str) -> str | None:
    """What lowers the memory of the call that an error arose in; None where gin called nothing.

    Args:
      message: as it was raised, behind it the calls that gin appends.
    """
    calls = _calls(message)
    # `sgeat` calls other verbs: the innermost one's memory it is.
    verb = next((call for call in calls if not isinstance(_called(call), type)), None)
    if verb is None:
        return None
    batch = (
        _setting(calls, "batch_size", unbound=lambda _: True)
        if _takes(verb, "batch_size")
        else None
    )
    if batch is None:
        return "it needs a machine or a device with more of it"
    parts = _setting([verb], "accumulation_steps", unbound=lambda _: True)
    return f"lower {batch}" + (f", or raise {parts}" if parts else "")


def _calls(message: str) -> list[Call]:
    """The calls that an error arose in, the innermost first."""
    found = []
    for name, scope in _CALLED.findall(message):
        selectors = gin_config._REGISTRY.matching_selectors(name)
        found += [(scope, selector) for selector in selectors if selector != MACRO]
    return found


def _is_number(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is a number by default: who calls gives places and structs."""
    return isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool)


def _setting(
    calls: Iterable[Call], parameter: str, unbound: Callable[[inspect.Parameter], bool]
) -> str | None:
    """How a user sets a parameter of the first call that has it, or whose structs have it.

    Args:
      calls: the innermost first.
      parameter: its name.
      unbound: whether it is named by `module.function.parameter` where nothing binds it: the one
        that called may have given it.

    Returns:
      The macro, else `scope/module.function.parameter`; None where no call has it.
    """
    for call in calls:
        for owner in dict.fromkeys([*_with_structs(call), *_with_structs(call, made_later=True)]):
            bound = [b for b in _bound([owner]) if b.parameter == parameter]
            if bound:
                return bound[0].name
            own = inspect.signature(_called(owner)).parameters.get(parameter)
            if own is not None:
                return f"{short(owner[1])}.{parameter}" if unbound(own) else None
    return None


def _called(call: Call) -> Any:
    called: Any = gin_config._REGISTRY[call[1]]
    return called.wrapped


def _takes(call: Call, parameter: str) -> bool:
    """Whether a call has a parameter, or a struct that it is given has it."""
    given = {kind for of in _kinds(call).values() for kind in _options(of)}
    owners = [*map(_called, _with_structs(call)), *filter(dataclasses.is_dataclass, given)]
    return any(parameter in inspect.signature(owner).parameters for owner in owners)


def _with_structs(call: Call, made_later: bool = False) -> Iterator[Call]:
    """A call, and the structs that are made for it; also those that it makes, where asked for."""
    yield call
    for value in _bindings(call).values():
        for reference in gin_config.iterate_references(value):
            scope, selector = reference.config_key
            if macro_of(reference) is not None:
                yield from list(_with_structs((scope, selector), made_later))[1:]
            elif (reference.evaluate or made_later) and dataclasses.is_dataclass(
                _called((scope, selector))
            ):
                yield from _with_structs((scope or call[0], selector), made_later)


def _of_a_directory(message: str) -> str:
    """The setting that names the directory in which the file lies that an error begins with.

    What lies in an output the verb has put there: nobody named it.
    """
    inside = [
        (len(place), label)
        for place, label in _texts_by_setting()
        if place.strip("./")
        and message.startswith(f"{place.rstrip('/')}/")
        and not _WRITTEN.match(re.sub("[:=] ?$", "=", label))
    ]
    return re.sub("=$", ": ", max(inside)[1]) if inside else ""


def _rank(label: str, writes: bool) -> tuple[bool, bool]:
    """How well a setting fits an error, the lowest best."""
    # Within a dict a text is a place; alone, or in a list, it may be a name: BASELINE, ONLY. Of one
    # place that is read and written the error says which it is about.
    return bool(_WRITTEN.match(label)) != writes, not label.endswith("': ")


def _texts_by_setting() -> Iterator[tuple[str, str]]:
    """Every text that is bound, and how an error begins that is about it; macros first."""
    config = sorted(gin_config._CONFIG.items(), key=lambda bound: bound[0][1] != MACRO)
    for (scope, selector), parameters in config:
        called = "/".join(filter(None, [scope, short(selector)]))
        for parameter, value in parameters.items():
            name = scope if selector == MACRO else f"{called}.{parameter}"
            if isinstance(value, str):
                yield value, f"{name}="
            else:
                yield from _texts_within(value, f"{name}: ")


def _texts_within(value: Any, label: str) -> Iterator[tuple[str, str]]:
    """The texts of lists and dicts; where values are numbers the keys: `{'toxic': -0.5}`."""
    if isinstance(value, str):
        yield value, label
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str) and isinstance(item, int | float):
                yield key, label
            yield from _texts_within(item, f"{label}{key!r}: ")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts_within(item, label)


def short(selector: str) -> str:
    """What is configured, as users and gin files write it: its module's name and its own."""
    return ".".join(selector.split(".")[-2:])


def try_out(calls: Iterable[Call]) -> None:
    """Makes the structs of all calls once, for what their `__post_init__` refuses.

    Scorers, which load files, are left to their verb.

    Args:
      calls: all that the verb calls, itself included; nothing of it may be required and open.

    Raises:
      UserError: what a struct raises, under the names of its macros.
    """
    for call in sorted(calls):
        _try_structs(call)


def _try_structs(call: Call) -> None:
    """Makes the structs of one call, those that a struct holds before itself."""
    for value in _bindings(call).values():
        for reference in gin_config.iterate_references(value):
            scope, selector = reference.config_key
            if macro_of(reference) is not None:
                _try_structs((scope, selector))
            elif _is_struct(reference):
                own_call = scope or call[0], selector
                _try_structs(own_call)
                _make(*own_call, reference)


def _bound(calls: Iterable[Call]) -> Iterator[_Bound]:
    for call in calls:
        if call[1] == MACRO:
            continue
        for parameter, value in _bindings(call).items():
            scope = _bound_in(call, parameter)
            name = "/".join(filter(None, [scope, f"{short(call[1])}.{parameter}"]))
            while (macro := macro_of(value)) is not None:
                name, value = macro, _value_of(macro, name)
            if not _is_constant(value):
                yield _Bound(call, parameter, value, name)


def _bindings(call: Call) -> dict[str, Any]:
    """What a call looks up: in scope a/b what is bound in '', 'a' and 'a/b', the longest last."""
    scope, selector = call
    parts = scope.split("/") if scope else []
    found: dict[str, Any] = {}
    for depth in range(len(parts) + 1):
        found |= gin_config._CONFIG.get(("/".join(parts[:depth]), selector), {})
    return found


def _bound_in(call: Call, parameter: str) -> str:
    """The scope in which a parameter of a call is bound: of a/b or a or '' the longest."""
    scope, selector = call
    while parameter not in gin_config._CONFIG.get((scope, selector), {}):
        scope = scope.rpartition("/")[0]
    return scope


def macro_of(value: Any) -> str | None:
    """The name of the macro that a value refers to, None where it is no macro."""
    if isinstance(value, gin_config.ConfigurableReference):
        scope, selector = value.config_key
        return scope if selector == MACRO else None
    return None


def _is_constant(value: Any) -> bool:
    """Whether it is a name of gin's own, such as `%gin.REQUIRED`."""
    return getattr(value, "scoped_selector", "").endswith("/gin.constant")


def _value_of(macro: str, user: str) -> Any:
    bound = gin_config._CONFIG.get((macro, MACRO))
    if bound is None:
        macros = [scope for scope, selector in gin_config._CONFIG if selector == MACRO]
        raise UserError(f"{user}: %{macro} is not set anywhere{suggestion(macro, macros)}")
    return bound["value"]


def _kinds(call: Call) -> dict[str, Any]:
    """The annotations of what is called, by parameter; empty where they cannot be read."""
    called: Any = gin_config._REGISTRY[call[1]].wrapped
    if isinstance(called, type) and not dataclasses.is_dataclass(called):
        called = called.__init__
    try:
        return kinds.annotations_of(called)
    except (NameError, TypeError, AttributeError):
        return {}


def _fitted(bound: _Bound, kind: Any, texts: Mapping[str, str]) -> Any:
    value = _described(bound.value)
    try:
        fitting = kinds.fitted(value, kind)
    except kinds.MisfitError:
        # `OUTPUT_DIR=2024` is a directory, whatever Python takes it for.
        text = texts.get(bound.name, str(bound.value))
        if not isinstance(bound.value, int | float) or isinstance(bound.value, bool):
            raise
        try:
            return kinds.fitted(text, kind)
        except kinds.MisfitError:
            pass
        raise
    return bound.value if _same(fitting, value) else fitting


def _same(fitting: Any, value: Any) -> bool:
    return repr(fitting) == repr(value)


def _described(value: Any) -> Any:
    """A value with `kinds.Made` in place of gin's references."""
    if isinstance(value, gin_config.ConfigurableReference):
        if (macro := macro_of(value)) is not None:
            return _described(_value_of(macro, "a value"))
        called: Any = value.configurable
        return kinds.Made(called.wrapped, value.evaluate, repr(value))
    if isinstance(value, Mapping):
        return {_described(key): _described(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_described(item) for item in value)
    return value


def _rebind(bound: _Bound, value: Any) -> None:
    """Puts a fitting value where the wrong one is; one with references in it stays as it is."""
    if any(True for _ in gin_config.iterate_references(bound.value)):
        return
    if (bound.name, MACRO) in gin_config._CONFIG:
        gin_config._CONFIG[bound.name, MACRO]["value"] = value
        return
    scope = _bound_in(bound.call, bound.parameter)
    gin_config._CONFIG[scope, bound.call[1]][bound.parameter] = value


def _example(bound: _Bound, kind: Any, examples: Mapping[str, Any]) -> str:
    """`; for example --gin.KEEP_FRACTION=0.5`."""
    if isinstance(bound.value, str) and (percent := _PERCENT.fullmatch(bound.value)):
        share = f"{float(percent[1]) / 100:g}"
        try:
            kinds.fitted(float(share), kind)
            return f"; for example --gin.{bound.name}={share}"
        except kinds.MisfitError:
            pass
    own_name = f"{bound.call[1].split('.')[-1]}.{bound.parameter}"
    text = _EXAMPLES.get(own_name, _EXAMPLES.get(bound.parameter))
    given = examples.get(bound.name)
    if given not in (None, (), []) and macro_of(given) is None and not _is_constant(given):
        try:
            kinds.fitted(_described(given), kind)
            text = str(given) if isinstance(given, str | int | float) else repr(given)
        except kinds.MisfitError:
            pass
    if text is None:
        text = next((t for k, t in _EXAMPLES_OF_KINDS.items() if k in _options(kind)), None)
    if text is None:
        return ""
    quoted = f'"{text}"' if re.search(r"[\s{\[('@]", text) else text
    return f"; for example --gin.{bound.name}={quoted}"


def _options(kind: Any) -> set[Any]:
    """The plain kinds that an annotation allows."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Annotated:
        bounds = arguments[1:]
        return set() if any(isinstance(b, kinds.OneOf) for b in bounds) else _options(arguments[0])
    if isinstance(kind, type) or not arguments:
        return {kind}
    unions = (typing.Union, type(int | str))
    return set().union(*map(_options, arguments)) if typing.get_origin(kind) in unions else set()


# --- structs, made once for what they refuse ----------------------------------------------------


def _is_struct(reference: Any) -> bool:
    called = reference.configurable.wrapped
    return (
        reference.evaluate
        and dataclasses.is_dataclass(called)
        and called.__module__.startswith("detox_jax.")
        and not hasattr(called, "score")
    )


def _make(scope: str, selector: str, reference: Any) -> None:
    try:
        with gin.config_scope(scope or None):
            copy.deepcopy(reference)
    except UserError as error:
        message = str(error).split("\n")[0]
        raise UserError(_under_its_macros(message, scope, selector)) from None
    except TypeError as error:
        if "missing" not in str(error):
            raise
        message = shortened(str(error).split("\n")[0].split("() ")[-1], 200)
        parameter = re.search(r"argument: '(\w+)'$", message)
        flag = ""
        if parameter:
            given = "FILE" if parameter[1] == "path" else "..."
            flag = f", or pass --gin.{short(selector)}.{parameter[1]}={given}"
        raise UserError(f"{reference!r}: {message}; set it in a gin file{flag}") from None


def _under_its_macros(message: str, scope: str, selector: str) -> str:
    """A struct's own error, with the macros of its parameters in place of their names."""
    called: Any = gin_config._REGISTRY[selector].wrapped
    bound, names = _bindings((scope, selector)), {}
    for parameter in inspect.signature(called).parameters:
        if (macro := macro_of(bound.get(parameter))) is not None:
            names |= dict.fromkeys((f"{called.__name__}.{parameter}", parameter.upper()), macro)
            names[parameter] = macro
    if not names:
        return message
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    start = rf"(?<![\w.])(?:{pattern})(?= is\b| and\b|, and\b)"
    return re.sub(start, lambda match: names[match.group()], message)
