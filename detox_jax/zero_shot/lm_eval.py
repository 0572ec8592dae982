"""Verb `lm_eval`: a checkpoint on the tasks of lm-evaluation-harness.

From Python the checkpoint is a model like any other of the harness:

    from detox_jax.zero_shot.harness_model import harness_model
    lm_eval.simple_evaluate(model=harness_model("my_checkpoint"), tasks=["piqa"])
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from etils import epath
from rich.console import Console
from rich.table import Table

from detox_jax import atomic_files, manifests, output_settings, outputs, preview, terminal
from detox_jax.checkpoints import identity
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError, suggestion
from detox_jax.formats import jsonl
from detox_jax.generation import continuation
from detox_jax.generation.steering import scoring
from detox_jax.generation.steering import steering as steering_lib
from detox_jax.kinds import Count, Draws, Dtype, Period, Positive, Seed
from detox_jax.output_settings import NOT_YET
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel import processes
from detox_jax.preview import Step
from detox_jax.zero_shot import task_files
from detox_jax.zero_shot.harness_model import asked_in, harness_model, import_harness

FIGURES_FILE = "lm_eval.json"
FREE = ("output_dir", "batch_size", "mesh_shape", "check_only")  # see `output_settings`
_KEPT = ("results", "groups", "versions", "n-samples", "n-shot", "higher_is_better")


def lm_eval(
    checkpoint_path: str,
    tasks: str | Sequence[str],
    output_dir: str,
    num_fewshot: Period | None = None,
    limit: Positive | None = None,
    include_path: str | None = None,
    batch_size: Count = 32,
    max_length: Count | None = None,
    max_gen_toks: Count = 256,
    gen_kwargs: str | Mapping[str, Any] | None = None,
    add_bos: bool | None = None,
    apply_chat_template: bool | str = False,
    system_instruction: str | None = None,
    fewshot_as_multiturn: bool = True,
    log_samples: bool = False,
    bootstrap_draws: Draws = 1000,
    random_seed: Seed = 0,
    dtype: Dtype | None = None,
    mesh_shape: Mapping[str, int] | None = None,
    steering: Sequence[Any] = (),
    check_only: bool = False,
) -> list[Step] | None:
    """Writes `lm_eval.json`: every metric of every task, with its standard error.

    Tasks are run one after the other; a rerun, with further tasks too, runs those that are missing.

    Args:
      checkpoint_path: a whole model, or an adaptation (its base is found by itself).
      tasks: names of tasks or groups, a list or separated by commas.
      output_dir: where the figures go.
      num_fewshot: examples before each question; the task's own number where None.
      limit: questions of each task: a number, or a share below 1; all where None.
      include_path: a directory with further tasks (YAML files of the harness).
      batch_size: rows at once; changes speed and memory.
      max_length: tokens that are read at once; all that the model can where None.
      max_gen_toks: new tokens of a generating task that names no limit.
      gen_kwargs: settings over those of generating tasks: `temperature=0.7,do_sample=True`.
      add_bos: whether the start token stands before every text; as the tokenizer says where None.
      apply_chat_template: ask as in a conversation; a name chooses one of several templates.
      system_instruction: what the system says first.
      fewshot_as_multiturn: examples as turns of the conversation, not as one text.
      log_samples: also write `samples-TASK.jsonl`: questions, answers, likelihoods.
      bootstrap_draws: resamples behind standard errors that have no formula.
      random_seed: of few-shot examples, resampling and draws.
      dtype: of activations; the checkpoint's where None.
      mesh_shape: size of the mesh axes; all devices on `data` where None.
      steering: methods that change the distribution that is read and drawn from, in their order;
        those that are no distribution over all tokens are refused.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: if the harness is missing, a task is unknown or cannot be loaded, or the
        checkpoint cannot be used.
    """
    include_path = include_path or None  # '' is no directory, and not the one of the run.
    arguments = locals()
    scoring.require_scored("lm_eval", steering)

    # --- what is asked, and of what model ----------------------------------------------------
    names = _task_names(tasks)
    _check_generation(gen_kwargs)
    if limit is not None and limit > 1 and limit != int(limit):
        raise UserError(f"LIMIT is {limit:g}; give a whole number of questions, or a share below 1")
    preview.checked_output(output_dir)
    checkpoints.resolve(checkpoint_path)  # before the harness, which takes seconds to import
    parts = outputs.Parts("tasks", _part_file)

    def settings(fingerprint: Any, read: Any, own_dtype: Any, steered_by: Any) -> dict[str, Any]:
        """What decides the output; by the model's fingerprint, length, dtype and steering."""
        decided = output_settings.of_verb(
            lm_eval,
            arguments,
            free=FREE,
            instead={
                "checkpoint_path": {"checkpoint": identity.described(checkpoint_path, fingerprint)},
                "tasks": {"tasks": names},
                "include_path": {"include_path": include_path and _describe_tasks(include_path)},
                "max_length": {"max_length": read},
                "steering": steered_by,
                "dtype": {"dtype": own_dtype},
            },
        )
        decided["lm_eval"] = metadata.version("lm_eval")
        around = asked_in(checkpoint_path, add_bos, apply_chat_template)
        return {**decided, **identity.text_rules(checkpoint_path), **around}

    def known() -> dict[str, Any]:
        with _notes_on_stderr():
            import_harness()  # Its version is one of the settings.
        fingerprint, own_dtype = identity.ahead(checkpoint_path, dtype)
        config = checkpoints.read_spec(checkpoints.resolve(checkpoint_path)[0]).config
        read = NOT_YET if steering else max_length or config.max_length
        steered_by = steering_lib.settings_ahead(steering)
        return {**settings(fingerprint, read, own_dtype, steered_by), "end_ids": NOT_YET}

    if check_only:
        outputs.check(output_dir, "lm_eval", known, parts=parts)
        steering_lib.check_files(steering)
        steering_lib.check_mesh(steering, checkpoint_path, meshes.create_mesh(mesh_shape))
        steering_lib.check_fit(steering, checkpoint_path)
        with _notes_on_stderr():
            import_harness()
            _task_manager(names, include_path)
        again = preview.lacks(output_dir, "tasks", names)
        return [Step("lm_eval", output_dir, {"tasks": len(names)}, again=again)]
    with _notes_on_stderr():
        harness = import_harness()
        manager = _task_manager(names, include_path)
        model = harness_model(
            checkpoint_path,
            batch_size=batch_size,
            max_length=max_length,
            max_gen_toks=max_gen_toks,
            add_bos=add_bos,
            chat_template_name=(
                apply_chat_template if isinstance(apply_chat_template, str) else None
            ),
            random_seed=random_seed,
            dtype=dtype,
            mesh_shape=mesh_shape,
            steering=steering,
        )

    # --- what decides the output -------------------------------------------------------------
    own_dtype = model.get_model_info()["model_dtype"]
    steered_by = steering_lib.settings(model.methods)
    decided = settings(model.fingerprint, model.max_length, own_dtype, steered_by)
    if len(model.vocabulary.end_ids) > 1:  # One alone is the vocabulary's own.
        decided["end_ids"] = list(model.vocabulary.end_ids)
    output = outputs.OutputDirectory(output_dir, "lm_eval", decided, parts=parts)

    # --- the harness, task by task -----------------------------------------------------------
    for name in _missing(output, names):
        task = f"task {names.index(name) + 1} of {len(names)}, {name}"
        with terminal.stage(task), _notes_on_stderr():
            answered = _evaluate(
                harness,
                model,
                manager,
                name,
                num_fewshot=num_fewshot,
                limit=limit,
                gen_kwargs=gen_kwargs,
                apply_chat_template=apply_chat_template,
                system_instruction=system_instruction,
                fewshot_as_multiturn=fewshot_as_multiturn,
                log_samples=log_samples,
                bootstrap_iters=bootstrap_draws,
                random_seed=random_seed,
                numpy_random_seed=random_seed,
                torch_random_seed=random_seed,
                fewshot_random_seed=random_seed,
            )
        _write_part(output, name, answered)

    # --- the figures of all tasks ------------------------------------------------------------
    parts = processes.current().first_decides(lambda: {n: _read_part(output, n) for n in names})
    figures = summary(parts)
    if not output.complete:
        atomic_files.write_json(output.path / FIGURES_FILE, figures)
        output.finish(tasks=len(names))
    print_table(figures)
    return None


def _task_names(tasks: str | Sequence[str]) -> list[str]:
    listed = tasks.split(",") if isinstance(tasks, str) else tasks
    names = list(dict.fromkeys(name.strip() for name in listed if name.strip()))
    if not names:
        raise UserError("TASKS names no task; give their names, separated by commas")
    if odd := [name for name in names if "/" in name or "*" in name]:
        raise UserError(f"TASKS: {odd[0]!r} is not a task's name; INCLUDE_PATH takes directories")
    return names


def _check_generation(given: str | Mapping[str, Any] | None) -> None:
    """Refuses settings that no generating task would take; others never look at them."""
    parts = given.split(",") if isinstance(given, str) else given or ()
    for part in filter(None, parts):
        name, separator, _ = part.partition("=")
        if isinstance(given, str) and not separator:
            raise UserError(f"GEN_KWARGS: {part!r} is no setting; write NAME=VALUE,NAME=VALUE")
        if name.strip() not in continuation.NAMES:
            meant = suggestion(name.strip(), continuation.NAMES)
            raise UserError(f"GEN_KWARGS: {name!r} is not supported{meant or '; leave it out'}")


def _describe_tasks(directory: str) -> dict[str, str]:
    """A directory of tasks, by what its files say."""
    # Python compiles a task's functions into this one as the harness loads them.
    files = sorted(
        epath.Path(path)
        for path in Path(directory).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    return {"path": directory, "sha256": manifests.hash_files(files)}


@contextlib.contextmanager
def _notes_on_stderr() -> Iterator[None]:
    """The harness prints notes and bars; standard output is kept for the figures."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _task_manager(names: Sequence[str], include_path: str | None) -> Any:
    """The harness's index of tasks; its own thousands are read only where one is asked for."""
    if include_path is not None:
        if not epath.Path(include_path).is_dir():
            raise UserError(f"INCLUDE_PATH {include_path}: no such directory")
        task_files.check(include_path)
    unknown = list(names)
    for defaults in (False, True):
        if unknown and (defaults or include_path is not None):
            manager = importlib.import_module("lm_eval.tasks").TaskManager(
                include_path=include_path, include_defaults=defaults
            )
            unknown = sorted(set(names) - set(manager.all_tasks))
    if unknown:
        raise UserError(
            f"TASKS: lm-evaluation-harness has no task {unknown[0]!r}"
            f"{suggestion(unknown[0], manager.all_tasks)}; `lm_eval ls tasks` lists them, and "
            "INCLUDE_PATH adds a directory of your own"
            f"{task_files.hint(include_path) if include_path else ''}"
        )
    return manager


def _evaluate(harness: Any, model: Any, manager: Any, name: str, **options: Any) -> dict[str, Any]:
    """The harness's results for one task or group, and its samples where they are logged."""
    try:
        manager.load([name])
    except (
        Exception
    ) as error:  # Whatever reads its data may raise; the task is what the user chose.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"task {name}: cannot be loaded: {reason}") from None
    results = harness.simple_evaluate(
        model=model, tasks=[name], task_manager=manager, verbosity=None, **options
    )
    kept = {key: results[key] for key in (*_KEPT, "samples") if results.get(key)}
    return json.loads(json.dumps(kept, default=str))


# --- files ------------------------------------------------------------------------------------


def _part_file(name: str) -> str:
    return f"task-{name}.json"


def _missing(output: outputs.OutputDirectory, names: Sequence[str]) -> list[str]:
    """The tasks without figures, as process 0 finds them: others may not see its files yet."""
    return processes.current().first_decides(
        lambda: [name for name in names if not (output.path / _part_file(name)).exists()]
    )


def _read_part(output: outputs.OutputDirectory, name: str) -> dict[str, Any]:
    file = output.path / _part_file(name)
    return jsonl.json_object(file.read_bytes(), str(file))


def _write_part(output: outputs.OutputDirectory, name: str, found: Mapping[str, Any]) -> None:
    """The samples first: the task is done once its figures are there."""
    figures = dict(found)
    for task, samples in figures.pop("samples", {}).items():
        lines = [json.dumps(atomic_files.finite(s), ensure_ascii=False) + "\n" for s in samples]
        atomic_files.write_bytes(output.path / f"samples-{task}.jsonl", "".join(lines).encode())
    atomic_files.write_json(output.path / _part_file(name), atomic_files.finite(figures))


# --- figures ----------------------------------------------------------------------------------


def summary(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `lm_eval.json` holds.

    Args:
      found: the harness's results by the name of the task or group that was asked for.

    Returns:
      `rows`, one for each task, metric and filter: `{"task", "metric", "filter", "value",
      "standard_error", "num_samples", "num_fewshot", "version"}`; `accuracy`, by task, where the
      harness gives `acc`: `{"value", "standard_error"}`; and `average_accuracy`, the mean over the
      tasks and groups that were asked for and have one, else None.
    """
    rows = []
    for results in found.values():
        for task, metrics in {**results["results"], **results.get("groups", {})}.items():
            rows += _rows(task, metrics, results)
    accuracy = {
        row["task"]: {"value": row["value"], "standard_error": row["standard_error"]}
        for row in rows
        if row["metric"] == "acc"
    }
    of_named = [accuracy[name]["value"] for name in found if name in accuracy]
    average = sum(of_named) / len(of_named) if of_named else None
    return {"rows": rows, "accuracy": accuracy, "average_accuracy": average}


def _rows(
    task: str, metrics: Mapping[str, Any], results: Mapping[str, Any]
) -> list[dict[str, Any]]:
    rows = []
    for key, value in metrics.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        error = metrics.get(f"{metric}_stderr,{filter_name}")
        rows.append(
            {
                "task": task,
                "metric": metric,
                "filter": filter_name,
                "value": value,
                "standard_error": error if isinstance(error, int | float) else None,
                "num_samples": results.get("n-samples", {}).get(task, {}).get("effective"),
                "num_fewshot": results.get("n-shot", {}).get(task),
                "version": results.get("versions", {}).get(task),
            }
        )
    return rows


def print_table(figures: Mapping[str, Any]) -> None:
    """The figures as a table on standard output."""
    table = Table(title="lm-evaluation-harness")
    for column in ("task", "metric", "filter", "value", "standard error", "questions", "few-shot"):
        table.add_column(column)
    for row in figures["rows"]:
        cells = (row["value"], row["standard_error"])
        table.add_row(
            row["task"],
            row["metric"],
            row["filter"],
            *(f"{cell:.4f}" if isinstance(cell, int | float) else "" for cell in cells),
            *(
                "" if row[name] is None else str(row[name])
                for name in ("num_samples", "num_fewshot")
            ),
        )
    Console().print(table)
    if figures["average_accuracy"] is not None:
        print(f"average accuracy {figures['average_accuracy']:.4f}")
