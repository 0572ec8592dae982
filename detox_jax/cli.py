"""The command line: finds the verb, has gin configure it, calls it; nothing else."""

from __future__ import annotations

import ast
import dataclasses
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gin

from detox_jax import compilation_cache, configuration, extras, preview, storage_watch, terminal
from detox_jax.bound_values import suggestion, under_its_setting
from detox_jax.errors import Unavailable, UserError, no_access, storage_trouble, without_role
from detox_jax.parallel import distributed, preemption, processes

VERBS = {
    "train": "detox_jax.training.train",
    "generate": "detox_jax.generation.generate",
    "score": "detox_jax.toxicity.score",
    "filter": "detox_jax.toxicity.filter",
    "pair": "detox_jax.toxicity.pair",
    "steer": "detox_jax.generation.steer",
    "fit_subspace": "detox_jax.generation.fit_subspace",
    "combine": "detox_jax.checkpoints.combine",
    "choices": "detox_jax.zero_shot.choices",
    "panel": "detox_jax.zero_shot.panel",
    "compare": "detox_jax.comparison.compare",
    "evaluate": "detox_jax.evaluation.evaluate",
    "report": "detox_jax.report.report",
    "lm_eval": "detox_jax.zero_shot.lm_eval",
    "convert": "detox_jax.interop.convert",
    "plan": "detox_jax.planning.plan",
    "sgeat": "detox_jax.sgeat",
    "sweep": "detox_jax.sweep",
    "train_linear": "detox_jax.classifiers.train_linear",
    "train_reward": "detox_jax.classifiers.train_reward",
    "train_scorer": "detox_jax.toxicity.train_scorer",
    "train_vocabulary": "detox_jax.vocabulary",
}

# Flags of one verb, short for its macros: a switch makes its macro True, the others take a value.
SWITCHES = {
    "evaluate": {"--power": "POWER"},
    "convert": {"--verify": "VERIFY"},
    "plan": {"--search": "SEARCH"},
    "sweep": {"--print_commands": "PRINT_COMMANDS"},
}
VALUE_FLAGS = {
    "convert": {
        "--from_hf": "FROM_HF",
        "--to": "TO",
        "--from": "FROM",
        "--to_hf": "TO_HF",
        "--from_t5x": "FROM_T5X",
        "--to_t5x": "TO_T5X",
    },
    "lm_eval": {"--checkpoint": "CHECKPOINT_PATH", "--tasks": "TASKS", "--output": "OUTPUT_DIR"},
    "plan": {"--topology": "TOPOLOGY", "--mesh": "MESH_SHAPE"},
}

# A flag of one verb that stands for another verb.
OTHER_VERBS = {("score", "--compare"): "compare"}

# Verbs without a part for other processes: process 0 runs them while the others wait.
HOST_VERBS = ("compare", "filter", "report", "train_scorer", "train_vocabulary")
LONE_VERBS = (
    *("combine", "convert", "fit_subspace", "plan", "sweep", "train_linear", "train_reward"),
)

USAGE = """\
usage: detox-jax VERB [--gin_file=FILE ...] [--gin.NAME=VALUE ...]
                      [--gin_search_paths=DIR,...] [--multihost] [--dry_run] [--help]

verbs:
{verbs}

  --gin_file=FILE          a gin file; repeatable, later files override earlier ones, and all of
                           them override gin_configs/runs/VERB.gin, which is always read first
  --gin.NAME=VALUE         one binding, over all files; text needs no quotes
  --gin_search_paths=DIRS  where else to look for gin files, comma-separated
  --multihost              one of several processes that work together, one a host: where they meet
                           is found on Cloud TPU, GKE, Slurm and Open MPI, or given by
                           --coordinator_address=HOST:PORT --process_count=N --process_index=I;
                           DETOX_JAX_MULTIHOST=1 is the same (docs/MULTIHOST.md)
  --dry_run                check all that a run checks before its work, print the configuration
                           and the plan of steps, and stop
  --help                   this text; with a verb, its macros and their defaults
"""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line, taken apart."""

    verb: str
    gin_files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    search_paths: tuple[str, ...] = ()
    dry_run: bool = False
    help: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status (docs/RELIABILITY.md), or the verb's own.

    A verb that has an answer to give by its exit status returns it; the others return nothing.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    terminal.drop_echoes()
    with preemption.handled(), storage_watch.StorageWatch():
        return _main(sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    try:
        options, rest = distributed.take_flags(argv)
        arguments = parse_arguments(rest)
        if arguments.verb and not arguments.help:
            compilation_cache.enable()  # before anything imports JAX
        if not arguments.verb:
            print(usage())
        elif options is None or arguments.help or arguments.dry_run:
            return _run(arguments)
        else:
            distributed.run(options, lambda: _run(arguments), _report)
    except (UserError, Unavailable, OSError, KeyboardInterrupt) as error:
        return _report(error)
    except Exception as error:
        if not no_access(error):
            raise
        return _report(UserError(without_role(error)))
    return 0


def _run(arguments: Arguments) -> int:
    if arguments.help:
        print(verb_help(arguments))
        return 0
    with extras.needed_by(arguments.verb):
        return _run_configured(arguments)


def _run_configured(arguments: Arguments) -> int:
    with terminal.without_notes():
        verb, defaults = load_config(arguments)
    configuration.check(verb, defaults, arguments.bindings)
    if arguments.verb in LONE_VERBS and processes.current().several:
        raise UserError(f"{arguments.verb} works in one process: run it on one host alone")
    distributed.check_agreement(arguments.verb, configuration.named_values())
    configured = gin.get_configurable(verb)
    steps: list[preview.Step] = []
    check = functools.partial(_check, configured, steps)
    with terminal.without_notes():  # A path in a bucket imports TensorFlow.
        if arguments.verb in HOST_VERBS:
            processes.current().first_does(check)
        else:
            check()
    if arguments.dry_run:
        print(f"{gin.config_str()}\n{preview.lines(steps)}")
        return 0
    if arguments.verb in HOST_VERBS:
        processes.current().first_does(configured)
        return 0
    return configured() or 0


def _check(configured: Callable[..., Any], steps: list[preview.Step]) -> None:
    """Checks what the verb is going to do, and adds its steps."""
    try:
        steps += configured(check_only=True)
        preview.check_room(steps)
    except UserError as error:
        raise UserError(under_its_setting(str(error))) from None


def _report(error: BaseException) -> int:
    """Prints what ended a verb; returns the exit status."""
    preemption.ending()
    if (trouble := storage_trouble(error)) is not None and isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        error = Unavailable(f"{place}{trouble}; mend it, then run the same command again")
    if isinstance(error, UserError | Unavailable):
        # Gin appends the configurables that were being called; the first part is ours.
        message = " ".join(str(error).split("\n  In call to configurable")[0].splitlines())
        print(f"detox-jax: error: {message}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    if isinstance(error, preemption.Stopped):
        print(f"detox-jax: stopped: {error}; rerun the same command to go on", file=sys.stderr)
        return error.status
    if isinstance(error, KeyboardInterrupt):
        print("detox-jax: interrupted; rerun the same command to go on", file=sys.stderr)
        return preemption.INTERRUPTED
    if not isinstance(error, BrokenPipeError):
        traceback.print_exception(error)
    return 1


def usage() -> str:
    """The general help text."""
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {verb:{width}}{_summary(verb)}" for verb in VERBS)
    return USAGE.format(verbs=verbs)


def _summary(verb: str) -> str:
    """The first line of the verb's run file, a comment that says what the verb does."""
    first = _run_file(verb).read_text().splitlines()[0]
    return first.removeprefix("#").strip()


def _run_file(verb: str) -> Path:
    return _package_root() / "gin_configs" / "runs" / f"{verb}.gin"


def _package_root() -> Path:
    """Where `gin_configs` lies: beside the package, in a checkout as in site-packages."""
    return Path(__file__).resolve().parent.parent


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Takes the command line apart; `--flag=value` and `--flag value` both work.

    Raises:
      UserError: for an unknown verb or flag.
    """
    verb, gin_files, bindings, search_paths = "", [], [], []
    dry_run = want_help = False
    arguments = list(argv)
    while arguments:
        argument = arguments.pop(0)
        flag, equals, value = argument.partition("=")
        if argument in ("--help", "-h"):
            want_help = True
        elif argument == "--dry_run":
            dry_run = True
        elif (verb, argument) in OTHER_VERBS:
            verb = OTHER_VERBS[verb, argument]
        elif argument in SWITCHES.get(verb, {}):
            bindings.append(f"{SWITCHES[verb][argument]} = True")
        elif not flag.startswith("-"):
            if verb:
                raise UserError(f"unexpected argument {argument!r} after the verb {verb!r}")
            verb = argument
        else:
            if not equals:
                if not arguments or arguments[0].startswith("--"):
                    raise UserError(f"{flag} needs a value: {flag}=VALUE; see detox-jax --help")
                value = arguments.pop(0)
            if flag == "--gin_file":
                gin_files.append(value)
            elif flag == "--gin_search_paths":
                search_paths.extend(path for path in value.split(",") if path)
            elif flag.startswith("--gin."):
                bindings.append(f"{flag.removeprefix('--gin.')} = {quote_text(value)}")
            elif flag in VALUE_FLAGS.get(verb, {}):
                bindings.append(f"{VALUE_FLAGS[verb][flag]} = {quote_text(value)}")
            else:
                raise UserError(f"unknown flag {flag}{_meant(verb, flag)}; see detox-jax --help")
    if verb and verb not in VERBS:
        meant = suggestion(verb, VERBS)
        raise UserError(f"unknown verb {verb!r}; one of: {', '.join(VERBS)}{meant}")
    if not verb and argv and not want_help:
        raise UserError(f"no verb given; one of: {', '.join(VERBS)}")
    return Arguments(
        verb, tuple(gin_files), tuple(bindings), tuple(search_paths), dry_run, want_help
    )


def _meant(verb: str, flag: str) -> str:
    """Which flag an unknown one may stand for: a macro of the verb without `--gin.`, or a near one.

    >>> _meant("score", "--input")
    '; did you mean --gin.INPUT?'
    """
    known = ["--gin_file", "--gin_search_paths", "--multihost", "--dry_run", "--help"]
    if verb in VERBS:
        text = _run_file(verb).read_text()
        known += [f"--gin.{macro}" for macro in re.findall(r"^([A-Z][A-Z0-9_]*) =", text, re.M)]
    known += [*VALUE_FLAGS.get(verb, {}), *SWITCHES.get(verb, {})]
    by_name = {name.removeprefix("--gin.").strip("-").lower(): name for name in known}
    meant = suggestion(flag.strip("-"), by_name)
    name = meant.removeprefix("; did you mean ").removesuffix("?")
    return f"; did you mean {by_name[name]}?" if meant else ""


def quote_text(value: str) -> str:
    """A command-line value as gin reads it: literals and references as they are, text quoted."""
    if re.search(r"(^|[\s\[({,:=])[@%]\w", value):
        return value
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return repr(value)
    return value


def load_config(arguments: Arguments) -> tuple[Callable[..., Any], configuration.Bindings]:
    """The verb's function, configured and not called, and the run file's own bindings.

    Raises:
      UserError: if a file is missing or gin cannot read a line or a binding.
    """
    return configuration.load(
        VERBS[arguments.verb],
        arguments.verb,
        _run_file(arguments.verb),
        arguments.gin_files,
        arguments.bindings,
        _roots(arguments),
    )


def _roots(arguments: Arguments) -> list[str]:
    """Where gin files and what they import are looked for."""
    return [*arguments.search_paths, os.getcwd(), str(_package_root())]


def verb_help(arguments: Arguments) -> str:
    """The verb's summary, its macros with what its run file says of them, and its docstring.

    All are read as text: what the verb imports takes seconds, and what a gin file imports more.

    Raises:
      UserError: if a file is missing or gin cannot read a line or a binding.
    """
    name, run_file = arguments.verb, _run_file(arguments.verb)
    macros = configuration.explain(
        run_file, arguments.gin_files, arguments.bindings, _roots(arguments)
    )
    return (
        f"detox-jax {name}: {_summary(name)}\n\nmacros (set with --gin.NAME=VALUE):\n{macros}\n\n"
        f"{_documentation(name)}\n\nsettings behind the macros: {run_file}"
    )


def _documentation(verb: str) -> str:
    """The docstring of the verb's function."""
    file = _package_root().joinpath(*VERBS[verb].split(".")).with_suffix(".py")
    functions = {
        node.name: node
        for node in ast.parse(file.read_bytes()).body
        if isinstance(node, ast.FunctionDef)
    }
    return ast.get_docstring(functions[verb]) or ""
