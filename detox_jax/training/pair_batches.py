"""Preference pairs as batches: a row for each side, the prompt and the padding without weight.

A task (`tasks.preferences`) gives examples of ids `prompt`, `chosen` and `rejected`, an end-of-text
among the latter where there is one, and what a reference model made of the sides.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from detox_jax.errors import UserError
from detox_jax.parallel import mesh as meshes
from detox_jax.training import epochs
from detox_jax.training.step import Batch

SIDES = ("chosen", "rejected")


@dataclasses.dataclass(frozen=True)
class PairTask:
    """A task of pairs, and the rows that are made of it.

    Attributes:
      task: of seqio.
      length: of a row, in tokens.
      batch_size: pairs a batch.
    """

    task: Any
    length: int
    batch_size: int

    def examples(self, split: str, seed: int | None) -> Iterator[Mapping[str, Any]]:
        """One pass over a split, in the order of a seed; the task's own where None."""
        from detox_jax.training import seqio_tasks  # tensorflow: not for importing this module

        return seqio_tasks.ragged_examples(self.task, split, seed)

    def batch(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """A batch; pairs of no weight fill it.

        Returns:
          `pair_weights` float32 `[B]`, and of each side SIDE, padded on the right: `SIDE_inputs`
          and `SIDE_targets` int32 `[B, L]`, `SIDE_weights` float32 `[B, L]`, 1 for each token of
          the side alone, `SIDE_reference` float32 `[B]`, its log-likelihood under the reference
          model, `SIDE_toxicity` float32 `[B]`.
        """
        B, L = self.batch_size, self.length
        batch: dict[str, np.ndarray] = {"pair_weights": np.zeros(B, np.float32)}
        batch["pair_weights"][: len(examples)] = 1
        for side in SIDES:
            inputs_BL, targets_BL = np.zeros((2, B, L), np.int32)
            weights_BL = np.zeros((B, L), np.float32)
            reference_B, toxicity_B = np.zeros((2, B), np.float32)
            for row, example in enumerate(examples):
                before = [self._start, *example["prompt"].tolist()]
                ids = [*before, *example[side].tolist()]
                inputs_BL[row, : len(ids) - 1] = ids[:-1]
                targets_BL[row, : len(ids) - 1] = ids[1:]
                weights_BL[row, len(before) - 1 : len(ids) - 1] = 1
                reference_B[row] = example[f"{side}_reference"]
                toxicity_B[row] = example[f"{side}_toxicity"]
            batch[f"{side}_inputs"], batch[f"{side}_targets"] = inputs_BL, targets_BL
            batch[f"{side}_weights"] = weights_BL
            # NaN says that there is none; `check` has refused it where it is needed.
            batch[f"{side}_reference"] = np.nan_to_num(reference_B)
            batch[f"{side}_toxicity"] = np.nan_to_num(toxicity_B)
        return batch

    @property
    def _start(self) -> int:
        """The token that starts every training document."""
        return self._vocabulary.bos_id

    @property
    def _vocabulary(self) -> Any:
        from detox_jax.training import data  # tensorflow: not for importing this module

        return data.vocabulary_of(self.task)

    def check(
        self,
        split: str,
        *,
        base: Collection[str] | None,
        needs_reference: bool,
        needs_toxicity: bool,
    ) -> int:
        """Reads a split once and refuses pairs that cannot be trained on.

        Args:
          split: of the task.
          base: what the fingerprint of the model that training starts from can be; None where
            nothing is known of it.
          needs_reference: whether every pair needs likelihoods, those of `base`.
          needs_toxicity: whether every side needs a score.

        Returns:
          The number of pairs.

        Raises:
          UserError: naming the first such pair, of those that are too long the longest.
        """
        if {"prompt", *SIDES} - set(self.task.output_features):
            raise UserError(
                f"task {self.task.name!r} has no pairs, which OBJECTIVE needs; give "
                "MIXTURE_OR_TASK_NAME=@preferences.pairs_task(), as the files of "
                "gin_configs/training do"
            )
        count, vocabulary, longest = 0, self._vocabulary, (0, "")
        for example in self.examples(split, None):
            count += 1
            where = f"task {self.task.name!r}: pair {example['id'].decode()!r}"
            for name in ("prompt", *SIDES):
                vocabulary.require_tokens(example[name], f"{where}: the ids of its {name!r}")
            for side in SIDES:
                if not len(example[side]):
                    raise UserError(f"{where}: its side {side!r} has no token")
                size = len(example["prompt"]) + len(example[side])  # The last token is not read.
                longest = max(longest, (size, where))
                if needs_toxicity and np.isnan(example[f"{side}_toxicity"]):
                    raise UserError(
                        f"{where} has no toxicity of its side {side!r}; mine pairs of scored text"
                    )
                if needs_reference:
                    _check_reference(example, side, base, where)
        size, where = longest
        if size > self.length:
            raise UserError(
                f"{where} has {size} tokens, more than TASK_FEATURE_LENGTHS: a cut one would have "
                f"another likelihood; set TASK_FEATURE_LENGTHS to {{'targets': {size}}} or more, "
                "or leave the pair out"
            )
        return count


def _check_reference(
    example: Mapping[str, Any], side: str, base: Collection[str] | None, where: str
) -> None:
    model = example["reference_model"].decode()
    if not model:
        raise UserError(
            f"{where} has no likelihoods of a reference model; run `pair` with CHECKPOINT_PATH, "
            "or set REFERENCE_FREE=True"
        )
    if base is not None and model not in base:
        raise UserError(
            f"{where} has likelihoods of the model {model}, but training starts from "
            f"{' or '.join(base)}; run `pair` with CHECKPOINT_PATH=INITIAL_CHECKPOINT_PATH"
        )
    if (tokens := int(example[f"{side}_reference_tokens"])) != len(example[side]):
        raise UserError(
            f"{where}: its reference read {tokens} tokens of the side {side!r}, which has "
            f"{len(example[side])} here; was it written with another vocabulary? Run `pair` again"
        )


class PairBatches(epochs.Resumable):
    """Endless batches of a task's training pairs; `state` and `restore` make it resumable.

    Epochs are shuffled with seeds of their own, and a batch may reach into the next epoch.

    Attributes:
      identity: what decides the batches.
    """

    def __init__(self, source: PairTask, seed: int, rows: Collection[int] | None = None):
        """Starts at the first pair.

        Args:
          source: where the batches come from.
          seed: of the order.
          rows: of each batch that this process gets; all where None.
        """
        # tensorflow: not for importing this module
        from detox_jax.training import data, seqio_tasks

        self._source, self._rows = source, rows
        self.identity = {
            "task": source.task.name,
            "split": "train",
            "source": seqio_tasks.describe_source(source.task, "train"),
            "vocabulary": data.vocabulary_of(source.task).fingerprint,
            "batch_size": source.batch_size,
            "length": source.length,
            "seed": seed,
            **epochs.order(seed, lambda: seqio_tasks.is_shuffled_whole(source.task, "train")),
        }
        self._stream = epochs.EpochStream(
            lambda seed: source.examples("train", seed),
            seed,
            self.identity,
            if_empty=f"task {source.task.name!r}: its training split has no pair",
        )

    def __next__(self) -> dict[str, np.ndarray]:
        pairs = list(itertools.islice(self._stream, self._source.batch_size))
        return meshes.rows_of(self._source.batch(pairs), self._rows)


def validation_batches(
    source: PairTask, max_batches: int | None, rows: Collection[int] | None
) -> Iterator[Batch]:
    """The first batches of the validation split, in one order; all of them where None.

    Not in the task's own: `pair` writes the pairs of the widest margins first.
    """
    examples = source.examples("validation", seed=0)
    for _ in itertools.count() if max_batches is None else range(max_batches):
        batch = list(itertools.islice(examples, source.batch_size))
        if not batch:
            return
        yield meshes.rows_of(source.batch(batch), rows)
