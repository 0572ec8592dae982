"""Verb `choices`: zero-shot accuracy, by which of the answers a model finds likeliest.

    OUTPUT_DIR/TASK-00000-of-00001.jsonl   every question's likelihoods
    OUTPUT_DIR/accuracies.json             accuracy of each task, and their average

Every host reads all questions and builds the same batches, whose rows the mesh splits over the
devices of all hosts; so the answers are those of one device.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from rich.console import Console
from rich.table import Table

from detox_jax import (
    atomic_files,
    manifests,
    output_settings,
    outputs,
    preview,
    records,
    terminal,
)
from detox_jax.checkpoints import identity
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.evaluation import accuracy, perplexity
from detox_jax.formats import jsonl
from detox_jax.generation.steering import scoring
from detox_jax.generation.steering import steering as steering_lib
from detox_jax.kinds import Count, Dtype
from detox_jax.parallel import mesh as meshes
from detox_jax.preview import Step
from detox_jax.vocabulary import Vocabulary
from detox_jax.zero_shot import questions as questions_lib
from detox_jax.zero_shot import steered_likelihood
from detox_jax.zero_shot.harness_model import asked_in, prefix_id
from detox_jax.zero_shot.likelihood import Likelihood, LikelihoodReader
from detox_jax.zero_shot.questions import Question
from detox_jax.zero_shot.steered_likelihood import SteeredReader

ACCURACIES_FILE = "accuracies.json"
FREE = ("output_dir", "batch_size", "mesh_shape", "check_only")  # see `output_settings`


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model answered.

    Attributes:
      id: the question's id, see `questions.parse`.
      question: the question that was asked.
      likelihoods: the likelihood of each choice; none where one is longer than the model's context.
    """

    id: str
    question: Question
    likelihoods: Sequence[Likelihood]

    def to_json(self) -> dict[str, Any]:
        """One line of the output, the question by its id alone."""
        values = [likelihood.log_probability for likelihood in self.likelihoods]
        greedy = [likelihood.is_greedy for likelihood in self.likelihoods]
        answer, lengths = self.question.answer, np.maximum(self.question.lengths, 1)
        if not values:
            correct = correct_norm = None
        elif len(values) == 1:
            correct = correct_norm = greedy[0]
        elif max(values) == -math.inf:  # all of them are banned
            correct = correct_norm = False
        else:
            correct = int(np.argmax(values)) == answer
            correct_norm = int(np.argmax(values / lengths)) == answer
        return {
            "id": self.id,
            "log_likelihoods": atomic_files.finite(values),
            "greedy": greedy,
            "answer": answer,
            "correct": correct,
            "correct_norm": correct_norm,
        }


def choices(
    checkpoint_path: str,
    output_dir: str,
    tasks: Sequence[Any],
    batch_size: Count = 32,
    start_with_bos: bool | None = None,
    dtype: Dtype | None = None,
    mesh_shape: Mapping[str, int] | None = None,
    steering: Sequence[Any] = (),
    check_only: bool = False,
) -> list[Step] | None:
    """Asks a model the questions of every task and writes what it answered, and how often rightly.

    The answer is the choice of the highest log-likelihood; of a question with one choice, right or
    wrong is whether the model would write it by itself. `correct_norm` divides the log-likelihood
    by the choice's characters first, as the harness' `acc_norm` does.

    Args:
      checkpoint_path: the model.
      output_dir: where answers and accuracies go; a rerun, with further tasks too, asks those that
        are missing.
      tasks: seqio tasks of choices (`tasks.downstream`), or names of registered ones.
      batch_size: texts at once; changes speed and memory alone.
      start_with_bos: whether the start token stands before every question; as the tokenizer's own
        files say where None.
      dtype: of activations; None takes the checkpoint's.
      mesh_shape: size of the mesh axes; all devices on `data` where None.
      steering: methods that change the distribution under which choices are likely, in their order;
        those that are no distribution over all tokens are refused.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: for a checkpoint or a task that cannot be used.
    """
    arguments = locals()
    scoring.require_scored("choices", steering)
    from detox_jax.training import seqio_tasks  # loads TensorFlow: only where it is used

    if batch_size < 1:
        raise UserError(f"BATCH_SIZE is {batch_size}; must be at least 1")

    # --- what is asked, and of what model ----------------------------------------------------
    mesh = meshes.create_mesh(mesh_shape)
    by_name = {task.name: task for task in map(seqio_tasks.get_task, _listed(tasks))}
    split_of = {name: next(iter(task.splits)) for name, task in by_name.items()}

    def settings(fingerprint: Any, steered_by: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the answers; by the model's fingerprint, and what steers it."""
        described = {
            name: seqio_tasks.describe_source(task, split_of[name])
            for name, task in by_name.items()
        }
        decided = output_settings.of_verb(
            choices,
            arguments,
            free=FREE,
            instead={
                "checkpoint_path": {"checkpoint": identity.described(checkpoint_path, fingerprint)},
                "tasks": {"tasks": described},
                "steering": steered_by,
            },
        )
        around = asked_in(checkpoint_path, start_with_bos)
        return {**decided, **identity.text_rules(checkpoint_path), **around}

    def known() -> dict[str, Any]:
        """The same before the model is loaded, as far as it is known."""
        steered_by = steering_lib.settings_ahead(steering)
        return settings(identity.fingerprint_ahead(checkpoint_path), steered_by)

    parts = outputs.Parts("tasks", lambda name: manifests.shard_name(name, 0, 1))
    if check_only:
        preview.checked_output(output_dir)
        outputs.check(output_dir, "choices", known, parts=parts)
        steering_lib.check_files(steering)
        steering_lib.check_mesh(steering, checkpoint_path, mesh)
        if not isinstance(checkpoint_path, preview.Coming):
            checkpoints.resolve(checkpoint_path)
            steering_lib.check_fit(steering, checkpoint_path)
        for task in by_name.values():
            seqio_tasks.describe_source(task, next(iter(task.splits)))
        again = preview.lacks(output_dir, "tasks", by_name)
        return [Step("choices", output_dir, {"tasks": len(by_name)}, again=again)]
    if outputs.is_finished(output_dir, "choices", known):
        _print(_read(output_dir), output_dir)
        return None
    loaded = checkpoints.load_model(checkpoint_path, mesh, dtype)
    methods = steering_lib.load(steering, loaded, mesh)
    decided = settings(loaded.fingerprint, steering_lib.settings(methods))
    before, _, _ = decided[output_settings.AROUND]
    output = outputs.OutputDirectory(output_dir, "choices", decided, parts=parts)

    # --- the answers, task by task -----------------------------------------------------------
    if output.complete:
        accuracies = _read(output_dir)
    else:
        length = loaded.module.config.max_length
        read = steered_likelihood.reader(loaded, methods, mesh, batch_size, length)
        steered = isinstance(read, SteeredReader)
        figures = {}
        for name, task in by_name.items():
            shard = output.path / manifests.shard_name(name, 0, 1)
            if output.has_shard(name, 0, 1):
                rows = [row for _, row in records.read_jsonl(shard)]
            else:
                examples = seqio_tasks.ragged_examples(task, split_of[name])
                questions = questions_lib.parse(examples, name)
                try:
                    with terminal.stage(name):
                        answers = answer(questions, read, loaded.vocabulary, bool(before))
                except UserError as error:
                    raise UserError(f"task {name!r}: {error}; leave the task out") from None
                _check(answers, f"{checkpoint_path} on {name}", may_be_impossible=steered)
                output.write_shard(name, 0, 1, answers)  # type: ignore
                rows = [answered.to_json() for answered in answers]
            figures[name] = _figures(rows)

        # --- how many of them are right -----------------------------------------------------
        average = float(np.mean([task["accuracy"]["value"] for task in figures.values()]))
        accuracies = {
            "tasks": figures,
            "average": {"name": accuracy.average_name(by_name), "value": average},
        }
        atomic_files.write_json(output.path / ACCURACIES_FILE, atomic_files.finite(accuracies))
        output.finish(questions=sum(task["questions"] for task in figures.values()))
    _print(accuracies, output_dir)
    return None


def _read(output_dir: str) -> dict[str, Any]:
    """The accuracies of a finished output."""
    file = epath.Path(output_dir) / ACCURACIES_FILE
    return jsonl.json_object(file.read_bytes(), str(file))


def _check(answers: Sequence[Answer], what: str, *, may_be_impossible: bool) -> None:
    """Refuses likelihoods that are no numbers; what a method bans is at minus infinity."""
    values = np.array([x.log_probability for answered in answers for x in answered.likelihoods])
    if not (np.isfinite(values) | (may_be_impossible & (values == -np.inf))).all():
        raise UserError(f"{what}: a likelihood is not finite; a broken checkpoint")


def _listed(tasks: Any) -> list[Any]:
    if isinstance(tasks, str) or not isinstance(tasks, Sequence):
        raise UserError(f"TASKS is {tasks!r}; give a list: ['piqa', 'lambada']")
    if not tasks:
        raise UserError("TASKS is empty; give at least one: --gin.TASKS=\"['piqa']\"")
    return list(dict.fromkeys(tasks))  # A task that is named twice is asked, and counted, once.


def encode(
    vocabulary: Vocabulary, pairs: Sequence[tuple[str, str]], start_with_bos: bool | None
) -> list[tuple[list[int], list[int]]]:
    """The tokens of inputs and of targets behind them, as lm-evaluation-harness makes them.

    White space that ends an input belongs to its target; both are tokenised as one, and the tokens
    behind those of the input alone are the target's.

    Args:
      vocabulary: the model's.
      pairs: inputs and targets.
      start_with_bos: whether the start token comes first; see `choices`.

    Raises:
      UserError: for a target without a token of its own.
    """
    contexts = [context.rstrip() for context, _ in pairs]
    context_ids = vocabulary.encode_batch(contexts)
    both_ids = vocabulary.encode_batch([context + target for context, target in pairs])
    prefix = prefix_id(vocabulary)
    encoded = []
    for before, both, (_, target) in zip(context_ids, both_ids, pairs, strict=True):
        if len(both) <= len(before):
            raise UserError(f"the choice {target!r} has no token of its own behind its question")
        # A model predicts nothing from nothing: a token stands for an empty context.
        start = [vocabulary.bos_id] if start_with_bos else []
        start = start if before else [prefix]
        encoded.append(([*start, *both[: len(before)]], both[len(before) :]))
    return encoded


def answer(
    questions: Mapping[str, Question],
    read: LikelihoodReader | SteeredReader,
    vocabulary: Vocabulary,
    start_with_bos: bool | None,
) -> list[Answer]:
    """What the model says of the choices; nothing of those of a question that it cannot read.

    Args:
      questions: by id.
      read: the model, as what reads continuations under it.
      vocabulary: the model's.
      start_with_bos: whether the start token stands before every question; see `choices`.

    Raises:
      UserError: if no question can be read, or a choice has no token of its own.
    """
    texts = [
        pair
        for question in questions.values()
        for pair in zip(question.inputs, question.targets, strict=True)
    ]
    tokens = iter(encode(vocabulary, texts, start_with_bos))
    pairs_of = {key: [next(tokens) for _ in asked.targets] for key, asked in questions.items()}
    fitting = {
        key: pairs
        for key, pairs in pairs_of.items()
        if all(len(target) <= read.max_length for _, target in pairs)
    }
    if not fitting:
        raise UserError(f"every question has a choice beyond the context of {read.max_length}")
    # All at once: the reader sorts what it reads by length.
    likelihoods = iter(read(list(itertools.chain.from_iterable(fitting.values()))))
    return [
        Answer(key, asked, [next(likelihoods) for _ in asked.targets] if key in fitting else [])
        for key, asked in questions.items()
    ]


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A task's figures, from the lines of its answers."""
    answers = [row for row in rows if row["correct"] is not None]
    figures: dict[str, Any] = {
        "questions": len(answers),
        "left_out_too_long": len(rows) - len(answers),
        "accuracy": _mean([row["correct"] for row in answers]),
        "accuracy_norm": _mean([row["correct_norm"] for row in answers]),
        "chance": float(np.mean([_chance(len(row["greedy"])) for row in answers])),
    }
    if all(len(row["greedy"]) == 1 for row in answers):
        # What a method bans is null.
        values = [row["log_likelihoods"][0] for row in answers]
        total = sum(-math.inf if value is None else value for value in values)
        # A hopeless model's is beyond what a number holds, and null in the file.
        figures["perplexity"] = perplexity.exp(-total / len(answers))
    return figures


def _chance(num_choices: int) -> float:
    return 1 / num_choices if num_choices > 1 else 0.0


def _mean(values: Sequence[bool]) -> dict[str, float | None]:
    """The share of True with its standard error (of the sample, as the harness has it)."""
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
    return {
        "value": float(np.mean(values)),
        "standard_error": None if error is None else float(error),
    }


def _print(accuracies: Mapping[str, Any], output_dir: str) -> None:
    table = Table(title=f"zero-shot accuracy: {output_dir}")
    for column in ("task", "questions", "accuracy", "standard error", "normalised", "chance"):
        table.add_column(column)
    for name, task in accuracies["tasks"].items():
        error = task["accuracy"]["standard_error"]
        left_out = task["left_out_too_long"]
        table.add_row(
            name,
            f"{task['questions']:,}" + (f" ({left_out} too long)" if left_out else ""),
            f"{task['accuracy']['value']:.4f}",
            "" if error is None else f"{error:.4f}",
            f"{task['accuracy_norm']['value']:.4f}",
            f"{task['chance']:.4f}",
        )
    average = accuracies["average"]
    Console(width=100).print(table)
    print(f"{average['name']}: {average['value']:.4f}")
