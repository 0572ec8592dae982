"""Zero-shot accuracies in an evaluation: what `choices` wrote, joined by question, with intervals.

In a row the accuracy of a task is `accuracy_TASK`, and the average over tasks `nine_task_average`
where the tasks are the paper's nine, else `average_accuracy`; so the two never share a column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath
from rich.console import Console
from rich.table import Table

from detox_jax import manifests, output_settings, preview, records
from detox_jax.errors import UserError
from detox_jax.evaluation import statistics
from detox_jax.evaluation.metric_names import (
    AVERAGE_ACCURACY,
    NINE_TASK_AVERAGE,
    Accuracy,
    AverageAccuracy,
    Metric,
    TaskAccuracy,
)
from detox_jax.evaluation.results import Results
from detox_jax.evaluation.rows import Paired, paired_rows
from detox_jax.evaluation.statistics import Difference, Interval

# The nine of Wang et al., 2022.
NINE_TASKS = (
    "anli_r2",
    "boolq",
    "hans",
    "hellaswag",
    "lambada",
    "piqa",
    "race_h",
    "wic",
    "winogrande",
)
_DISPLAYED = {
    "anli_r2": "ANLI R2",
    "boolq": "BoolQ",
    "hans": "HANS",
    "hellaswag": "HellaSwag",
    "lambada": "LAMBADA",
    "piqa": "PIQA",
    "race_h": "RACE-h",
    "wic": "WiC",
    "winogrande": "WinoGrande",
    "arc_easy": "ARC-easy",
    NINE_TASK_AVERAGE: "nine-task average",
    AVERAGE_ACCURACY: "average",
}
# Of each task, by question: whether it was right, None where it was too long for the model.
Answers = Mapping[str, Mapping[str, bool | None]]


def average_name(tasks: Iterable[str]) -> AverageAccuracy:
    """What the average over these tasks is called."""
    return NINE_TASK_AVERAGE if set(tasks) == set(NINE_TASKS) else AVERAGE_ACCURACY


def describe(directory: str | None) -> dict[str, Any] | None:
    """What a manifest says of a method's answers: where they are and the hash of them.

    Raises:
      UserError: if `choices` did not write the directory, or has not finished.
    """
    if directory is None:
        return None
    if isinstance(directory, preview.Coming):
        return {"path": str(directory), "sha256": output_settings.NOT_YET}
    return {"path": directory, "sha256": manifests.hash_files(_files(directory).values())}


def _files(directory: str) -> dict[str, epath.Path]:
    """The file of each task's answers, in the order of the run."""
    path = epath.Path(directory)
    manifest = manifests.read_manifest(path)
    if manifest.get("verb") != "choices":
        raise UserError(f"{directory}: not written by `choices`; give the directory that it wrote")
    if not manifest["complete"]:
        raise UserError(f"{directory}: unfinished; rerun the `choices` that was writing it")
    names = manifest["settings"]["tasks"]
    return {name: path / manifests.shard_name(name, 0, 1) for name in names}


def read(directories: Mapping[str, str | None]) -> dict[str, Answers]:
    """The answers of every method that has any.

    Args:
      directories: that `choices` wrote, by method; None for a method that was not asked.

    Raises:
      UserError: if two methods were asked other questions.
    """
    answers: dict[str, Answers] = {}
    for name, directory in directories.items():
        if directory is not None:
            answers[name] = {task: _correct(file) for task, file in _files(directory).items()}
    if not answers:
        return {}
    first, expected = next(iter(answers.items()))
    for name, own in answers.items():
        if own.keys() != expected.keys():
            raise UserError(
                f"method {name!r} was asked {', '.join(own)}, {first!r} {', '.join(expected)}; "
                "ask all methods the same tasks"
            )
        for task in own:
            if own[task].keys() != expected[task].keys():
                raise UserError(
                    f"method {name!r} was asked other questions of {task!r} than {first!r}; ask "
                    "both from the same file"
                )
    return answers


def _correct(file: epath.Path) -> dict[str, bool | None]:
    return {row["id"]: row["correct"] for _, row in records.read_jsonl(file)}


def columns(answers: Answers | None, draws: int, seed: int) -> dict[Accuracy, Interval]:
    """A row's accuracies with their intervals; nothing for a method that was not asked."""
    if answers is None:
        return {}
    groups = {task: _values(own) for task, own in answers.items()}
    accuracies: dict[Accuracy, Interval] = {
        TaskAccuracy.of(task): statistics.share(values_Q) for task, values_Q in groups.items()
    }
    average = statistics.bootstrap_average([*groups.values()], draws, seed)
    return {**accuracies, average_name(groups): average}


def paired(
    answers: Mapping[str, Answers], baseline: str, splits: Iterable[str], draws: int, seed: int
) -> list[Paired]:
    """Differences to the baseline on the same questions; p-values corrected over all of them.

    A split is one of prompts, so the same differences stand in every split.

    Args:
      answers: by method, by task, by question; see `Answers`.
      baseline: the method that the others are compared with; without its answers there is no row.
      splits: the splits that the rows are written for.
      draws: how often questions are resampled, and signs flipped.
      seed: of the draws.
    """
    if baseline not in answers:
        return []
    reference = answers[baseline]
    compared: dict[Accuracy, list[str]] = {TaskAccuracy.of(task): [task] for task in reference}
    compared[average_name(reference)] = list(reference)
    differences: dict[tuple[str, Metric], Difference] = {}
    for method in (name for name in answers if name != baseline):
        for metric, tasks in compared.items():
            groups = [_differences(answers[method][task], reference[task]) for task in tasks]
            differences[method, metric] = statistics.average_difference(groups, draws, seed)
    return [row for split in splits for row in paired_rows(differences, baseline, split)]


def _values(answers: Mapping[str, bool | None]) -> np.ndarray:
    return np.array([float(right) for right in answers.values() if right is not None])


def _differences(
    answers: Mapping[str, bool | None], reference: Mapping[str, bool | None]
) -> np.ndarray:
    """Of the questions that both could read."""
    pairs = [(answers[key], reference[key]) for key in reference]
    return np.array([float(a) - float(b) for a, b in pairs if a is not None and b is not None])


def print_table(results: Results) -> None:
    """The accuracies of all methods as a table on standard output; nothing where there are none."""
    split = results.rows[0].split
    rows = [row for row in results.rows if row.split == split]
    if not results.accuracies:
        return
    table = Table(title="zero-shot accuracy")
    table.add_column("method")
    for metric in results.accuracies:
        table.add_column(display_name(metric))
    for row in rows:
        estimates = (row.estimate(metric) for metric in results.accuracies)
        table.add_row(row.method, *(estimate.text(absent="") for estimate in estimates))
    Console(width=160, force_jupyter=False).print(table)


def display_name(metric: Accuracy) -> str:
    """How a table heads the column of an accuracy."""
    return named(metric.task if isinstance(metric, TaskAccuracy) else metric)


def named(task: str) -> str:
    """A task, or an average, as tables name it."""
    return _DISPLAYED.get(task, task)
