"""The command line taken apart, by argparse: the flags of each verb, short flags, completion.

Any gin binding may be given as `--gin.NAME=VALUE`, as T5X has it. A short flag stands for one macro
of its verb: `--input`, `--output` and `--checkpoint` for what a verb reads and writes.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detox_jax import run_files
from detox_jax.errors import UserError, nearest, suggestion

# What the short flags of all verbs mean, and where a verb means something else; None: it has none.
SHORT = {"--input": "INPUT", "--output": "OUTPUT_DIR", "--checkpoint": "CHECKPOINT_PATH"}
_SHORT_OF: Mapping[str, Mapping[str, str | None]] = {
    "train": {"--output": "MODEL_DIR", "--checkpoint": "INITIAL_CHECKPOINT_PATH"},
    "combine": {"--checkpoint": "BASE"},
    "convert": {"--checkpoint": "FROM"},
    "human_results": {"--input": "SHEETS"},
    "report": {"--input": "RESULTS"},
    "sgeat": {"--input": "PROMPTS_INPUT", "--checkpoint": "INITIAL_CHECKPOINT_PATH"},
}
# Flags of one verb, short for its macros: a switch makes its macro True, the others take a value.
_SWITCHES = {
    "evaluate": {"--power": "POWER"},
    "convert": {"--verify": "VERIFY"},
    "plan": {"--search": "SEARCH"},
    "sweep": {"--print_commands": "PRINT_COMMANDS"},
}
_VALUE_FLAGS = {
    "convert": {
        "--from_hf": "FROM_HF",
        "--to": "TO",
        "--from": "FROM",
        "--to_hf": "TO_HF",
        "--from_t5x": "FROM_T5X",
        "--to_t5x": "TO_T5X",
        "--push_to_hub": "PUSH_TO_HUB",
    },
    "lm_eval": {"--tasks": "TASKS"},
    "plan": {"--topology": "TOPOLOGY", "--mesh": "MESH_SHAPE"},
}
# A flag of one verb that stands for another verb.
_OTHER_VERBS = {("score", "--compare"): "compare"}
# Flags of every verb, the first that take a value; `parallel.distributed` has taken its own before.
_WITH_VALUE = ("--gin_file", "--gin_search_paths", "--completion")
_WITHOUT = ("--dry_run", "--help", "--version", "--multihost")
_MACRO_FLAG = "--gin."
SHELLS = ("bash", "zsh", "fish")
_COMMAND = "detox-jax"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line, taken apart."""

    verb: str
    gin_files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    search_paths: tuple[str, ...] = ()
    dry_run: bool = False
    help: bool = False
    version: bool = False
    completion: str | None = None
    # Of a call from Python, no flags: what bindings name and no file imports, and bindings that gin
    # files override.
    imports: tuple[str, ...] = ()
    below: tuple[str, ...] = ()


# --- flags of a verb --------------------------------------------------------------------------


def value_flags(verb: str) -> dict[str, str]:
    """The flags of a verb that take a value, with the macros that they set."""
    macros = run_files.of_verb(verb).macros()
    flags = {**SHORT, **_SHORT_OF.get(verb, {})}
    short = {flag: macro for flag, macro in flags.items() if macro in macros}
    return {**short, **_VALUE_FLAGS.get(verb, {})}


def short_names(verb: str) -> dict[str, str]:
    """The flags that set a macro, by macro: `--input`, or `--from, --checkpoint`."""
    names: dict[str, list[str]] = {}
    for flag, macro in {**value_flags(verb), **_SWITCHES.get(verb, {})}.items():
        names.setdefault(macro, []).append(flag)
    return {macro: ", ".join(flags) for macro, flags in names.items()}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UserError(f"{message}; see {_COMMAND} --help")


class _Bind(argparse.Action):
    """Adds a line of gin, in the order of the command line.

    Of one flag the last counts; of two flags that mean one setting, neither would be seen to.
    """

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        given = str(self.const) if self.nargs == 0 else values
        value = quote_text(given)
        flags = namespace.said.setdefault(self.metavar, {})
        flags[option_string] = given
        if len({*map(quote_text, flags.values())}) > 1:
            both = " and ".join(f"{flag}={said}" for flag, said in flags.items())
            raise UserError(f"{both} are one setting, {self.metavar}; give it once")
        namespace.bindings = [*namespace.bindings, f"{self.metavar} = {value}"]


def _parser(
    verb: str, verbs: Sequence[str] = (), macro_flags: Mapping[str, str] | None = None
) -> _Parser:
    """The parser of a verb.

    Args:
      verb: the empty one has no flags of its own.
      verbs: the names of all, for completion.
      macro_flags: those like `--gin.NAME` that it takes, with what is said of them.
    """
    parser = _Parser(prog=_COMMAND, add_help=False, allow_abbrev=False)
    parser.set_defaults(bindings=[], said={})
    add = parser.add_argument
    _offer(add("verb", nargs="?", default=""), lambda: verbs)
    gin_file = add("--gin_file", action="append", default=[], help="a gin file over the run file")
    _offer(gin_file, lambda: run_files.shipped([os.getcwd(), str(run_files.ROOT)]))
    add("--gin_search_paths", action="append", default=[], help="where to look for gin files")
    add("--dry_run", action="store_true", help="check all, print the plan of steps, and stop")
    add("-h", "--help", action="store_true", help="what the verb takes, with an example")
    add("--version", action="store_true", help="versions of this and of what it computes with")
    _offer(add("--completion", help="a script that completes commands in a shell"), lambda: SHELLS)
    if verb:
        for flag, macro in _SWITCHES.get(verb, {}).items():
            add(flag, action=_Bind, nargs=0, const=True, metavar=macro)
        for flag, macro in value_flags(verb).items():
            add(flag, action=_Bind, metavar=macro, help=f"short for {_MACRO_FLAG}{macro}")
    for flag, said in (macro_flags or {}).items():
        add(flag, action=_Bind, metavar=flag.removeprefix(_MACRO_FLAG), help=said)
    return parser


def _offer(action: argparse.Action, choices: Callable[[], Sequence[str]]) -> None:
    """Has argcomplete offer choices that argparse does not insist on."""
    action.completer = lambda **_: choices()  # type: ignore[attr-defined]


# --- parsing ----------------------------------------------------------------------------------


def parse(argv: Sequence[str], verbs: Sequence[str]) -> Arguments:
    """Takes the command line apart; `--flag=value` and `--flag value` both work.

    Args:
      argv: without the program's name.
      verbs: the names of all.

    Raises:
      UserError: for an unknown verb or flag, with the one that may be meant.
    """
    arguments = _joined(argv)
    macros = {a.partition("=")[0]: "" for a in arguments if a.startswith(_MACRO_FLAG)}
    verb = _parser("", macro_flags=macros).parse_known_args(arguments)[0].verb
    for (of_verb, flag), other in _OTHER_VERBS.items():
        if verb == of_verb and flag in arguments:
            arguments.remove(flag)
            arguments[arguments.index(verb)] = verb = other
    if verb and verb not in verbs:
        meant = suggestion(verb, verbs)
        raise UserError(f"unknown verb {verb!r}; one of: {', '.join(verbs)}{meant}")
    given, unknown = _parser(verb, macro_flags=macros).parse_known_args(arguments)
    if unknown:
        raise UserError(_unknown(verb, unknown[0]))
    if not (verb or given.help or given.version or given.completion) and argv:
        raise UserError(f"no verb given; one of: {', '.join(verbs)}")
    if given.completion is not None and given.completion not in SHELLS:
        raise UserError(f"--completion={given.completion}: one of {', '.join(SHELLS)}")
    return Arguments(
        verb=verb,
        gin_files=tuple(map(os.path.expanduser, given.gin_file)),
        bindings=tuple(given.bindings),
        search_paths=tuple(
            os.path.expanduser(path)
            for paths in given.gin_search_paths
            for path in paths.split(",")
            if path
        ),
        dry_run=given.dry_run,
        help=given.help,
        version=given.version,
        completion=given.completion,
    )


def _joined(argv: Sequence[str]) -> list[str]:
    """`--flag value` as `--flag=value`: alone, argparse takes a value like -1e-3 for a flag."""
    take_values = {*SHORT, *_WITH_VALUE}.union(*_VALUE_FLAGS.values())
    joined, waiting = [], list(argv)
    while waiting:
        argument = waiting.pop(0)
        if argument in take_values or (argument.startswith(_MACRO_FLAG) and "=" not in argument):
            if not waiting or waiting[0].startswith("--"):
                raise UserError(f"{argument} needs a value: {argument}=VALUE; see detox-jax --help")
            argument = f"{argument}={waiting.pop(0)}"
        joined.append(argument)
    return joined


def _unknown(verb: str, argument: str) -> str:
    """What is said of an argument that the verb does not take."""
    flag, _, value = argument.partition("=")
    if not argument.startswith("-"):
        meant = f"; did you mean --input={argument}?" if "--input" in value_flags(verb) else ""
        return f"unexpected argument {argument!r} after the verb {verb!r}{meant}"
    if verb and flag in SHORT:
        needs = run_files.of_verb(verb).needs.removeprefix("Needs ").rstrip(".")
        return f"{verb} takes no {flag}; it needs {needs}; see detox-jax {verb} --help"
    return f"unknown flag {flag}{_meant(verb, flag)}; see detox-jax --help"


def _meant(verb: str, flag: str) -> str:
    """Which flag an unknown one may stand for: a macro of the verb without `--gin.`, or a near one.

    >>> _meant("score", "--inputs")
    '; did you mean --input?'
    """
    known = [*_WITH_VALUE, *_WITHOUT]
    if verb:
        known += [f"{_MACRO_FLAG}{macro}" for macro in run_files.of_verb(verb).macros()]
        known += [*value_flags(verb), *_SWITCHES.get(verb, {})]
    by_name = {name.removeprefix(_MACRO_FLAG).strip("-").lower(): name for name in known}
    meant = nearest(flag.strip("-"), by_name)
    return "" if meant is None else f"; did you mean {by_name[meant]}?"


def quote_text(value: str) -> str:
    """A command-line value as gin reads it: literals and references as they are, text quoted."""
    if re.search(r"(^|[\s\[({,:=])[@%]\w", value):
        return value
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return repr(value)
    return value


# --- completion -------------------------------------------------------------------------------


def completion_script(shell: str) -> str:
    """What a shell runs to complete commands: it asks the command itself, through argcomplete.

    Raises:
      UserError: where argcomplete is not installed.
    """
    try:
        import argcomplete
    except ImportError:
        raise UserError("--completion needs argcomplete: pip install argcomplete") from None
    return argcomplete.shellcode([_COMMAND], shell=shell)  # type: ignore[attr-defined]


def complete(verbs: Sequence[str]) -> None:
    """Answers a shell that asks for completions, and ends the process; else does nothing.

    Args:
      verbs: the names of all.
    """
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()[1:]
    verb = next((word for word in words if word in verbs), "")
    macros = run_files.of_verb(verb).macros() if verb else {}
    flags = {
        f"{_MACRO_FLAG}{macro}": " ".join(comments).replace("%", "%%")
        for macro, comments in macros.items()
    }
    parser = _parser(verb, verbs, flags)
    argcomplete.autocomplete(parser, append_space=False)  # type: ignore[attr-defined]
