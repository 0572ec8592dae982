"""The objective `Labels`: every text a row of its own, and the loss of its labels.

A task gives examples `{"text", "labels", "weight"}`: a string, numbers from 0 to 1 (the share of
raters who gave each label), and by how much the text counts.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.parallel import mesh as meshes
from detox_jax.training import epochs, losses
from detox_jax.training.objective import Objective
from detox_jax.training.step import Batch, Loss
from detox_jax.vocabulary import ID_SHIFT

Encode = Callable[[Sequence[str]], list[list[int]]]


@dataclasses.dataclass(frozen=True)
class LabelLoss:
    """Cross-entropy of every label on its own, as a `step.Loss`.

    Attributes:
      positive_weight: by how much a label that is true counts more than one that is not; above 1
        for rare labels, at the price of scores that are too high.
    """

    positive_weight: float = 1.0

    def __post_init__(self):
        if self.positive_weight <= 0:
            raise UserError(
                f"LabelLoss.positive_weight is {self.positive_weight}; must be positive"
            )

    def __call__(
        self, model: Any, params: params_lib.Params, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Summed loss in nats, and the weights of texts and labels."""
        logits_BC: Any = model.apply(
            {"params": params},
            batch["tokens"],
            enable_dropout=dropout_key is not None,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )
        return losses.binary_cross_entropy(
            logits_BC, batch["labels"], batch["weights"], self.positive_weight
        )


@dataclasses.dataclass(frozen=True)
class LabelledTask:
    """A task of labelled texts, and how its texts become ids.

    Attributes:
      task: of seqio.
      labels: names of the labels, in order.
      encode: texts to ids, special tokens included, cut.
      vocab_size: ids that the model knows, padding included.
      length: of the rows, in tokens.
      batch_size: texts a batch.
    """

    task: Any
    labels: tuple[str, ...]
    encode: Encode
    vocab_size: int
    length: int
    batch_size: int

    def batch(self, examples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        """A batch; rows of weight 0 fill it.

        Returns:
          `tokens` int32 `[B, L]`, padded with 0 on the right, `labels` float32 `[B, C]`, `weights`
          float32 `[B]`.
        """
        size = self.batch_size
        tokens_BL = np.zeros((size, self.length), np.int32)
        labels_BC = np.zeros((size, len(self.labels)), np.float32)
        weights_B = np.zeros(size, np.float32)
        ids = self.encode([text_of(example) for example in examples])
        for row, (example, tokens) in enumerate(zip(examples, ids, strict=True)):
            tokens_BL[row, : len(tokens)] = self._checked(tokens, example)
            labels_BC[row] = self.labels_of(example)
            weights_B[row] = example["weight"]
        return {"tokens": tokens_BL, "labels": labels_BC, "weights": weights_B}

    def _checked(self, tokens: list[int], example: dict[str, Any]) -> np.ndarray:
        """The ids of a text, shifted; XLA reads another row in place of one that is not there."""
        ids_S = np.asarray(tokens, np.int32) + ID_SHIFT
        wrong = ids_S[(ids_S < ID_SHIFT) | (ids_S >= self.vocab_size)]
        if wrong.size:
            raise UserError(
                f"task {self.task.name!r}: {text_of(example)[:40]!r} has the id "
                f"{wrong[0] - ID_SHIFT} of its tokenizer, but the model knows those from 0 to "
                f"{self.vocab_size - ID_SHIFT - 1}; the two belong to different models"
            )
        return ids_S

    def labels_of(self, example: dict[str, Any]) -> np.ndarray:
        """The labels of an example, checked.

        Raises:
          UserError: if there are too few or too many, or one is no share.
        """
        labels = np.asarray(example["labels"], np.float32)
        where = f"task {self.task.name!r}: {text_of(example)[:40]!r}"
        if labels.shape != (len(self.labels),):
            raise UserError(
                f"{where} has {labels.size} labels; LABELS names {len(self.labels)}: "
                f"{', '.join(self.labels)}"
            )
        if not ((labels >= 0) & (labels <= 1)).all():
            raise UserError(f"{where} has the labels {labels.tolist()}; they are from 0 to 1")
        return labels

    def training_examples(self, seed: int) -> Iterator[dict[str, Any]]:
        """One epoch of the training split, in the order of a seed."""
        from detox_jax.training import seqio_tasks  # tensorflow: not for importing this module

        return seqio_tasks.examples(self.task, "train", seed)

    def validation_batches(self, max_batches: int | None) -> Iterator[dict[str, np.ndarray]]:
        """The first batches of the validation split, all of them where None."""
        from detox_jax.training import seqio_tasks  # tensorflow: not for importing this module

        examples = iter(seqio_tasks.examples(self.task, "validation", seed=0))
        for _ in itertools.count() if max_batches is None else range(max_batches):
            batch = list(itertools.islice(examples, self.batch_size))
            if not batch:
                return
            yield self.batch(batch)


def text_of(example: dict[str, Any]) -> str:
    """The text of an example."""
    return example["text"].decode("utf-8", "replace")


class LabelledBatches(epochs.Resumable):
    """Endless batches of a task's training texts; `state` and `restore` make it resumable.

    Epochs are shuffled with seeds of their own, and a batch may reach into the next epoch.

    Attributes:
      identity: what decides the batches.
    """

    def __init__(
        self,
        source: LabelledTask,
        seed: int,
        identity: Mapping[str, Any],
        rows: Collection[int] | None = None,
    ):
        """Starts at the first text.

        Args:
          source: where the batches come from.
          seed: of the order.
          identity: what else decides them: data, tokenizer.
          rows: of each batch that are given; all where None.
        """
        from detox_jax.training import seqio_tasks  # tensorflow: not for importing this module

        self._source = source
        self._rows = rows
        sizes = {"batch_size": source.batch_size, "length": source.length, "seed": seed}
        order = epochs.order(seed, lambda: seqio_tasks.is_shuffled_whole(source.task, "train"))
        self.identity = {"task": source.task.name, **sizes, **order, **identity}
        self._stream = epochs.EpochStream(
            source.training_examples,
            seed,
            self.identity,
            if_empty=f"task {source.task.name!r}: its training split has no text",
        )

    def __next__(self) -> dict[str, np.ndarray]:
        batch = self._source.batch(list(itertools.islice(self._stream, self._source.batch_size)))
        return meshes.rows_of(batch, self._rows)


@dataclasses.dataclass(frozen=True)
class Labels(Objective):
    """Every label of a text on its own: what an encoder that judges is trained for.

    Attributes:
      names: of the labels, in order.
      encode: texts to ids, special tokens included, cut.
      vocab_size: ids that the model knows, padding included.
      label_loss: of a batch, such as `LabelLoss`.
      identity: what decides the batches beside task, sizes and seed: data, tokenizer.
    """

    names: tuple[str, ...]
    encode: Encode
    vocab_size: int
    label_loss: Loss
    identity: Mapping[str, Any]

    def source(self, task: Any, batch_size: int, length: int) -> LabelledTask:
        """The task, its texts as ids."""
        return LabelledTask(task, self.names, self.encode, self.vocab_size, length, batch_size)

    def batches(
        self,
        task: Any,
        *,
        batch_size: int,
        length: int,
        seed: int,
        rows: Collection[int] | None = None,
    ) -> LabelledBatches:
        """See `Objective`, and `LabelledTask.batch` for what is in a batch."""
        return LabelledBatches(self.source(task, batch_size, length), seed, self.identity, rows)

    def validation_batches(
        self,
        task: Any,
        *,
        batch_size: int,
        length: int,
        max_batches: int | None = None,
        rows: Collection[int] | None = None,
    ) -> Iterator[Batch]:
        """See `Objective`."""
        for batch in self.source(task, batch_size, length).validation_batches(max_batches):
            yield meshes.rows_of(batch, rows)

    def batches_per_epoch(self, task: Any, *, batch_size: int, length: int) -> float:
        """See `Objective`."""
        source = self.source(task, batch_size, length)
        return sum(1 for _ in source.training_examples(0)) / batch_size

    def loss(
        self, model: Any, params: params_lib.Params, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """See `label_loss`."""
        return self.label_loss(model, params, batch, dropout_key)
