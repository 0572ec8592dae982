"""Zero-shot accuracies in an evaluation: what `choices` wrote, joined by question, with intervals.

In a row the accuracy of a task is `accuracy_TASK`, and the average over tasks `nine_task_average`
where the tasks are the paper's nine, else `average_accuracy`; so the two never share a column.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath
from rich.console import Console
from rich.table import Table

from detox_jax import outputs, records
from detox_jax.errors import UserError
from detox_jax.evaluation import statistics

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
    "nine_task_average": "nine-task average",
    "average_accuracy": "average",
}
PREFIX = "accuracy_"
NINE_TASK_AVERAGE = "nine_task_average"
AVERAGE = "average_accuracy"
AVERAGES = (NINE_TASK_AVERAGE, AVERAGE)
# Of each task, by question: whether it was right, None where it was too long for the model.
Answers = Mapping[str, Mapping[str, bool | None]]


def average_name(tasks: Iterable[str]) -> str:
    """What the average over these tasks is called."""
    return NINE_TASK_AVERAGE if set(tasks) == set(NINE_TASKS) else AVERAGE


def describe(directory: str | None) -> dict[str, Any] | None:
    """What a manifest says of a method's answers: where they are and the hash of them.

    Raises:
      UserError: if `choices` did not write the directory, or has not finished.
    """
    if directory is None:
        return None
    return {"path": directory, "sha256": outputs.hash_files(_files(directory).values())}


def _files(directory: str) -> dict[str, epath.Path]:
    """The file of each task's answers, in the order of the run."""
    path = epath.Path(directory)
    manifest = outputs.read_manifest(path)
    if manifest.get("verb") != "choices":
        raise UserError(f"{directory}: not written by `choices`; give the directory that it wrote")
    if not manifest["complete"]:
        raise UserError(f"{directory}: unfinished; rerun the `choices` that was writing it")
    names = manifest["settings"]["tasks"]
    return {name: path / outputs.shard_name(name, 0, 1) for name in names}


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


def columns(answers: Answers | None, draws: int, seed: int) -> dict[str, Any]:
    """A row's accuracies with their intervals; nothing for a method that was not asked."""
    if answers is None:
        return {}
    groups = {task: _values(own) for task, own in answers.items()}
    found = {
        PREFIX + task: statistics.bootstrap_average([values_Q], draws, seed)
        for task, values_Q in groups.items()
    }
    found[average_name(groups)] = statistics.bootstrap_average([*groups.values()], draws, seed)
    return {name: dataclasses.asdict(interval) for name, interval in found.items()}


def paired(
    answers: Mapping[str, Answers], baseline: str, splits: Iterable[str], draws: int, seed: int
) -> list[dict[str, Any]]:
    """Differences to the baseline on the same questions; p-values corrected over all of them.

    A split is one of prompts, so the same differences stand in every split.
    """
    if baseline not in answers:
        return []
    reference = answers[baseline]
    compared = {PREFIX + task: [task] for task in reference}
    compared[average_name(reference)] = list(reference)
    differences = {}
    for method in (name for name in answers if name != baseline):
        for metric, tasks in compared.items():
            groups = [_differences(answers[method][task], reference[task]) for task in tasks]
            differences[method, metric] = statistics.average_difference(groups, draws, seed)
    rows = statistics.paired_rows(differences, baseline)
    return [{**row, "split": split} for split in splits for row in rows]


def _values(answers: Mapping[str, bool | None]) -> np.ndarray:
    return np.array([float(right) for right in answers.values() if right is not None])


def _differences(
    answers: Mapping[str, bool | None], reference: Mapping[str, bool | None]
) -> np.ndarray:
    """Of the questions that both could read."""
    pairs = [(answers[key], reference[key]) for key in reference]
    return np.array([float(a) - float(b) for a, b in pairs if a is not None and b is not None])


def print_table(results: Mapping[str, Any]) -> None:
    """The accuracies of all methods as a table on standard output; nothing where there are none."""
    split = results["rows"][0]["split"]
    rows = [row for row in results["rows"] if row["split"] == split]
    names = list(dict.fromkeys(key for row in rows for key in row if is_accuracy(key)))
    if not names:
        return
    table = Table(title="zero-shot accuracy")
    table.add_column("method")
    for name in names:
        table.add_column(display_name(name))
    for row in rows:
        table.add_row(row["method"], *(_cell(row.get(name)) for name in names))
    Console(width=160).print(table)


def display_name(key: str) -> str:
    """How a table heads the column of a row's field."""
    name = key.removeprefix(PREFIX)
    return _DISPLAYED.get(name, name)


def is_accuracy(key: str) -> bool:
    """Whether a row's field is an accuracy or the average of several."""
    return key.startswith(PREFIX) or key in AVERAGES


def _cell(value: Mapping[str, float] | None) -> str:
    if value is None:
        return ""
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
