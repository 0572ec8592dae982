"""A training on labelled texts, which three verbs share: what is trained differs, and its loss."""

from __future__ import annotations

import functools
from typing import Any

from etils import epath

from detox_jax import output_settings
from detox_jax.checkpoints.params import Params
from detox_jax.classifiers.labelled_batches import Labels
from detox_jax.errors import UserError
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel.computation import Computation
from detox_jax.preview import Step
from detox_jax.training.fit import Budget, fit
from detox_jax.training.loop import Periods
from detox_jax.training.optimizer import AdamW
from detox_jax.training.step import TrainState


def described(task: Any) -> dict[str, Any]:
    """What the labelled text of a task is, for settings.

    A registered task's source is told by its data set, so that its labels are said beside it; of a
    mixture those of its tasks, in order.
    """
    from detox_jax.training import seqio_tasks  # tensorflow: not for importing this module

    splits = ("train", "validation")
    found = {split: seqio_tasks.describe_source(task, split) for split in splits}
    parts = seqio_tasks.parts(task)
    labels = [label for part in parts for label in getattr(part.source, "labels", None) or ()]
    return {**found, output_settings.TASK_LABELS: labels} if labels else found


def fit_labels(
    network: Any,
    params: Params,
    frozen: Params,
    objective: Labels,
    task: Any,
    *,
    steps: int,
    optimizer: AdamW,
    batch_size: int,
    length: int,
    computation: Computation,
    periods: Periods,
    seed: int,
    directory: epath.Path,
    strict: bool = False,
) -> TrainState:
    """See `fit`; batches and those of validation are the objective's, of the task.

    Each process has the rows of its own devices.

    Args:
      network: what computes.
      params: that are trained, at their start.
      frozen: those beside them.
      objective: what is minimised.
      task: of labelled texts.
      steps: updates.
      optimizer: its settings.
      batch_size: texts of an update.
      length: at which they are cut, in tokens.
      computation: how it is computed.
      periods: how often to save, validate and log.
      seed: of the order.
      directory: of checkpoints and metrics.
      strict: refuse a damaged newest step.
    """
    rows = meshes.local_rows(computation.create_mesh(), batch_size)
    validation = functools.partial(
        objective.validation_batches,
        task,
        batch_size=batch_size,
        length=length,
        max_batches=periods.eval_steps,
        rows=rows,
    )
    return fit(
        network,
        params,
        frozen,
        objective,
        objective.batches(task, batch_size=batch_size, length=length, seed=seed, rows=rows),
        validation if periods.eval else None,
        steps=steps,
        optimizer=optimizer,
        computation=computation,
        periods=periods,
        seed=seed,
        directory=directory,
        strict=strict,
    )


def require_two_kinds(task: Any, threshold: float | None = None) -> None:
    """Refuses training texts that are all alike, from which nothing is learnt of the others.

    Args:
      task: of labelled texts, whose one label is the toxicity.
      threshold: from which on a text is toxic; where None two different scores are enough.

    Raises:
      UserError: where no text is toxic, none is clean, or all have one score.
    """
    from detox_jax.training import seqio_tasks  # tensorflow: not for importing this module

    seen: set[float] = set()
    for example in seqio_tasks.examples(task, "train"):
        score = example["labels"][0]
        # In the labels' own precision, as the loss compares them: 0.7 is not below 0.7.
        seen.add(float(score if threshold is None else score >= score.dtype.type(threshold)))
        if len(seen) > 1:
            return
    (only,) = seen
    if threshold is None:
        raise UserError(
            f"task {task.name!r}: all of its training texts have the toxicity {only:g}; give clean "
            "and toxic ones"
        )
    side, other = ("at or above", "clean") if only else ("below", "toxic")
    raise UserError(
        f"task {task.name!r}: all of its training texts are {side} THRESHOLD, {threshold:g}; give "
        f"{other} ones too, or move THRESHOLD"
    )


def step(
    verb: str, output_dir: str, parameters: int, copies: int, budget: Budget, texts: int | None
) -> Step:
    """What there is to train, for `--dry_run`.

    Args:
      verb: its name.
      output_dir: where it writes.
      parameters: that are trained.
      copies: of them that it writes, in float32.
      budget: for how long.
      texts: where they are counted.
    """
    counts = {} if texts is None else {"texts": texts}
    counts["parameters trained"] = parameters
    if budget.train_steps is not None:
        counts["updates"] = budget.train_steps
    size, a_step = 4 * copies * parameters, 4 * 3 * parameters
    return Step(verb, output_dir, counts, size, needs=size, needs_a_while=a_step)
