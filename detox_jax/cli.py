"""The command line: finds the verb, has gin configure it, calls it; nothing else."""

from __future__ import annotations

import ast
import contextlib
import functools
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin

from detox_jax import (
    command_line,
    compilation_cache,
    configuration,
    directory_lock,
    extras,
    manifests,
    outputs,
    preview,
    run_files,
    storage_watch,
    terminal,
)
from detox_jax.bound_values import as_set, less_memory, under_its_setting
from detox_jax.command_line import Arguments
from detox_jax.errors import (
    IN_CALL,
    Unavailable,
    UserError,
    has_no_answer,
    in_one_line,
    no_access,
    of_environment,
    out_of_memory,
    peers_are_late,
    storage_trouble,
    without_role,
)
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
    "human_sheets": "detox_jax.human.human_sheets",
    "human_results": "detox_jax.human.human_results",
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

# Verbs without a part for other processes: process 0 runs them while the others wait.
HOST_VERBS = (
    *("compare", "human_results", "human_sheets", "report", "train_scorer", "train_vocabulary"),
)
LONE_VERBS = (
    *("combine", "convert", "fit_subspace", "plan", "sweep", "train_linear", "train_reward"),
)

_WIDTH = 100  # of a line of help
_NOTHING: Mapping[str, Any] = {}
USAGE = """\
usage: detox-jax VERB [--input=FILE] [--output=DIR] [--checkpoint=DIR]
                      [--gin_file=FILE ...] [--gin.NAME=VALUE ...] [--gin_search_paths=DIR,...]
                      [--multihost] [--dry_run] [--help]

verbs:
{verbs}

  --input, --output, --checkpoint
                           what a verb reads, writes and starts from: short for a macro, which
                           detox-jax VERB --help names
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
  --help                   this text; with a verb, what it needs, an example, all of its macros
  --version                versions of this and of what it computes with
  --completion=SHELL       a script that completes commands in bash, zsh or fish:
                           eval "$(detox-jax --completion=bash)"; for fish: ... | source
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status (docs/RELIABILITY.md), or the verb's own.

    A verb that has an answer to give by its exit status returns it; the others return nothing.
    """
    command_line.complete([*VERBS])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow only reads text here: its oneDNN kernels help with nothing, and print an error.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    terminal.drop_echoes()
    try:
        with preemption.handled(), storage_watch.StorageWatch():
            return _main(sys.argv[1:] if argv is None else argv)
    except preemption.Stopped as error:  # The signal came behind the verb's end.
        return _report(error)


def _main(argv: Sequence[str]) -> int:
    try:
        options, rest = distributed.take_flags(argv)
        arguments = parse_arguments(rest)
        if arguments.verb and not arguments.help:
            compilation_cache.enable()  # before anything imports JAX
        if arguments.version:
            print(f"detox-jax {version()}")
        elif arguments.completion:
            print(command_line.completion_script(arguments.completion))
        elif not arguments.verb:
            print(usage())
        elif options is None or arguments.help or arguments.dry_run:
            return _run(arguments)
        else:
            return distributed.run(options, lambda: _run(arguments), _report)
    except (UserError, Unavailable, OSError, KeyboardInterrupt) as error:
        return _report(error)
    except Exception as error:
        if no_access(error):
            return _report(UserError(without_role(error)))
        if preemption.behind(error) is not error:
            return _report(error)
        if of_environment(error) or out_of_memory(error) or has_no_answer(error):
            return _report(error)
        raise
    return 0


def _run(arguments: Arguments) -> int:
    if arguments.help:
        print(verb_help(arguments))
        return 0
    with extras.needed_by(arguments.verb), terminal.stage(arguments.verb):
        configured, steps = prepared(arguments)
        if arguments.dry_run:
            print(f"{outputs.config_text()}\n{preview.lines(steps)}")
            return 0
        # What only the work itself meets is named as the check would have named it.
        with directory_lock.at_work(), naming_settings():
            if arguments.verb in HOST_VERBS:
                processes.current().first_does(configured)
                return 0
            return configured() or 0


def prepared(
    arguments: Arguments, given: Mapping[str, Any] = _NOTHING
) -> tuple[Callable[..., Any], list[preview.Step]]:
    """The verb as gin has configured it, and the steps that it is going to do, checked.

    Args:
      arguments: the command line, or what Python makes of a call.
      given: arguments of the verb that no gin file can hold, such as a loaded model.

    Raises:
      UserError: for a file, a binding or an input that a run would refuse.
    """
    with terminal.stage("read the configuration"), terminal.without_notes():
        verb, defaults = load_config(arguments)
    configuration.check(verb, defaults, arguments.bindings)
    if arguments.verb in LONE_VERBS and processes.current().several:
        raise UserError(f"{arguments.verb} works in one process: run it on one host alone")
    distributed.check_agreement(arguments.verb, configuration.named_values())
    configuration.leave_open(given)
    configured = functools.partial(gin.get_configurable(verb), **given)
    steps: list[preview.Step] = []
    check = functools.partial(_check, configured, steps)
    # A path in a bucket imports TensorFlow.
    with terminal.stage("check"), terminal.without_notes():
        if arguments.verb in HOST_VERBS:
            processes.current().first_does(check)
        else:
            check()
    return configured, steps


def _check(configured: Callable[..., Any], steps: list[preview.Step]) -> None:
    """Checks what the verb is going to do, and adds its steps."""
    with naming_settings():
        steps += configured(check_only=True)
        preview.check_room(steps)


@contextlib.contextmanager
def naming_settings() -> Iterator[None]:
    """Puts before a mistake in a file or directory the setting that names it."""
    try:
        yield
    except UserError as error:
        raise UserError(under_its_setting(as_set(str(error)))) from None


def _report(error: BaseException) -> int:
    """Prints what ended a verb; returns the exit status."""
    preemption.ending()
    error = preemption.behind(error)
    less = less_memory(str(error)) if out_of_memory(error) else None
    error = of_environment(error) or out_of_memory(error, less) or error
    is_of_files = isinstance(error, OSError) or has_no_answer(error)
    if (trouble := storage_trouble(error)) is not None and is_of_files:
        file = getattr(error, "filename", None)
        place = f"{file}: " if file else ""
        error = Unavailable(f"{place}{trouble}; mend it, then run the same command again")
    if peers_are_late(error):
        error = Unavailable(
            "the processes did not find each other in time, as on hosts that do too much else; "
            f"run the same command again ({in_one_line(error)})"
        )
    if isinstance(error, UserError | Unavailable):
        # Gin appends the configurables that were being called; the first part is ours.
        message = " ".join(str(error).split(IN_CALL)[0].splitlines())
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


def version() -> str:
    """The package's version, and those that decide what is written: `0.1.0 (jax 0.10.2, ...)`."""
    versions = manifests.versions()
    others = ", ".join(f"{name} {number}" for name, number in [*versions.items()][1:])
    return f"{versions['detox-jax']} ({others})"


def usage() -> str:
    """The general help text."""
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {verb:{width}}{run_files.of_verb(verb).summary}" for verb in VERBS)
    return USAGE.format(verbs=verbs)


def _run_file(verb: str) -> Path:
    return run_files.of_verb(verb).path


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Takes the command line apart; `--flag=value` and `--flag value` both work.

    Raises:
      UserError: for an unknown verb or flag.
    """
    return command_line.parse(argv, [*VERBS])


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
        arguments.imports,
        arguments.below,
    )


def _roots(arguments: Arguments) -> list[str]:
    """Where gin files and what they import are looked for."""
    return [*arguments.search_paths, os.getcwd(), str(run_files.ROOT)]


def verb_help(arguments: Arguments) -> str:
    """The verb's summary, what it needs, an example, its macros, and its function's docstring.

    All are read as text: what the verb imports takes seconds, and what a gin file imports more.

    Raises:
      UserError: if a file is missing or gin cannot read a line or a binding.
    """
    verb, run_file = arguments.verb, run_files.of_verb(arguments.verb)
    macros = run_files.explain(
        run_file,
        arguments.gin_files,
        arguments.bindings,
        _roots(arguments),
        command_line.short_names(verb),
    )
    needs = "\n".join(textwrap.wrap(run_file.needs, _WIDTH))
    return (
        f"detox-jax {verb}: {run_file.summary}\n\n{needs}\n\nexample:\n{run_file.example}\n\n"
        "macros, with their values (set with --gin.NAME=VALUE, or with the flag behind):\n"
        f"{macros}\n\nin Python, {VERBS[verb]}.{verb}:\n\n"
        f"{_documentation(verb)}\n\nsettings behind the macros: {run_file.path}"
    )


def _documentation(verb: str) -> str:
    """The docstring of the verb's function."""
    file = run_files.ROOT.joinpath(*VERBS[verb].split(".")).with_suffix(".py")
    functions = {
        node.name: node
        for node in ast.parse(file.read_bytes()).body
        if isinstance(node, ast.FunctionDef)
    }
    return ast.get_docstring(functions[verb]) or ""


if __name__ == "__main__":
    sys.exit(main())
