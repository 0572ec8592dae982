"""seqio tasks to batches: packed, deterministic, resumable, each process its own rows.

Every process reads the one stream of packed rows and keeps those of its own devices, so that the
batches, and with them the losses, are the same for any number of processes, and a run may go on
with another number of them. Reading costs little beside a training step (docs/MULTIHOST.md).

Epochs are built one after another, each shuffled with a seed of its own, so that the position in
the data is `(epoch, row)` and a resumed run skips within one epoch at most.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from detox_jax.errors import UserError
from detox_jax.training import cached_tasks, epochs, mixtures, seqio_tasks
from detox_jax.training.seqio_tasks import Row
from detox_jax.vocabulary import Vocabulary

# Whose token it is, in the feature `roles`: packing takes zeros for padding.
GIVEN, WRITTEN = 1, 2
_ROWS_AT_ONCE = 32


def vocabulary_of(task: seqio.Task | seqio.Mixture) -> Vocabulary:
    """The vocabulary of a task's `targets`, or of both sides of its pairs.

    Raises:
      UserError: if it is none of ours, if a mixture has several or a rate that is none, or if the
        task has features that no model would be trained on.
    """
    vocabulary = seqio_tasks.own_vocabulary(task)
    if isinstance(task, seqio.Mixture):
        mixtures.check(task)
    return vocabulary


class _TextConverter(seqio.LMFeatureConverter):
    """Packs `{"targets"}`, the next of each as what is read."""

    # None of its branches is one of TensorFlow's, whose translation takes longer than the rest.
    _convert_example = tf.autograph.experimental.do_not_convert(
        seqio.LMFeatureConverter._convert_example
    )


class _AnswerConverter(seqio.LMFeatureConverter):
    """Packs `{"inputs", "targets", "roles"}`: what is read, the next of each, and whose it is."""

    TASK_FEATURES = {
        name: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)
        for name in ("inputs", "targets", "roles")
    }

    @tf.autograph.experimental.do_not_convert
    def _convert_example(self, features: Any) -> dict[str, tf.Tensor]:
        return {
            "decoder_target_tokens": features["targets"],
            "decoder_input_tokens": features["inputs"],
            "decoder_loss_weights": tf.cast(features["roles"] == WRITTEN, tf.int32),
            "decoder_segment_ids": features["targets_segment_ids"],
            "decoder_positions": features["targets_positions"],
        }


def _rows(
    task: seqio.Task | seqio.Mixture,
    length: int,
    split: str,
    *,
    seed: int | None,
    use_cached: bool = False,
) -> Iterator[Row]:
    """One epoch of packed rows; shuffled where there is a seed."""
    packed = _packed(task, length, split, seed=seed, use_cached=use_cached)
    return cached_tasks.undamaged(packed, task) if use_cached else packed


def _packed(
    task: seqio.Task | seqio.Mixture, length: int, split: str, *, seed: int | None, use_cached: bool
) -> Iterator[Row]:
    kind = _AnswerConverter if seqio_tasks.is_of_answers(task) else _TextConverter
    # `one_epoch` cuts examples to the lengths, which seqio would check twice.
    converter = kind(pack=True, bos_id=vocabulary_of(task).bos_id, apply_length_check=False)
    lengths = dict.fromkeys(kind.TASK_FEATURES, length)
    tags, vocabulary = _ids_of_tags(task), vocabulary_of(task)
    what = f"{seqio_tasks.named(task)}: its 'targets'"
    with seqio_tasks.saying_what_fails(task):
        whole = mixtures.every_part_whole(task)
        packed = converter(seqio_tasks.one_epoch(whole, split, seed, use_cached, lengths), lengths)
        for row in seqio_tasks.handed_over(packed, _ROWS_AT_ONCE):
            vocabulary.require_tokens(row["decoder_target_tokens"], what, padded=True)
            if row["decoder_target_tokens"].any():  # Of texts without a token nothing is learned.
                yield without_tags(row, tags) if tags else row


def _ids_of_tags(task: seqio.Task | seqio.Mixture) -> list[tuple[int, ...]]:
    """The ids of the tags that a task's documents may have in front."""
    vocabulary = vocabulary_of(task)
    return [ids for tags in seqio_tasks.all_tags(task) for ids in tags.ids(vocabulary)]


def without_tags(row: Row, tags: Sequence[Sequence[int]]) -> Row:
    """A packed row in which the tags that its documents begin with weigh nothing.

    A model is told how a text is; it is not to say so itself, and the loss is that of text alone.

    Args:
      row: as the converter packs it.
      tags: ids of each.
    """
    targets_L, weights_L = row["decoder_target_tokens"], row["decoder_loss_weights"].copy()
    for start in np.flatnonzero((row["decoder_positions"] == 0) & (weights_L > 0)):
        for tag in tags:
            if np.array_equal(targets_L[start : start + len(tag)], tag):
                weights_L[start : start + len(tag)] = 0
    return {**row, "decoder_loss_weights": weights_L}


def _stack(rows: list[Row]) -> Row:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


class BatchIterator(epochs.Resumable):
    """Endless batches of this process's rows; `state` and `restore` make it resumable.

    Yields dicts of int32 arrays `[rows, length]`: `decoder_input_tokens`,
    `decoder_target_tokens`, `decoder_loss_weights`, `decoder_segment_ids`, `decoder_positions`.

    Attributes:
      identity: what decides the batches: task, split, input, sizes, seed.
    """

    def __init__(
        self,
        task: seqio.Task | seqio.Mixture,
        *,
        batch_size: int,
        length: int,
        seed: int,
        split: str = "train",
        rows: Collection[int] | None = None,
        use_cached: bool = False,
    ):
        """Starts at the first row; what it is made of is counted, but for a check.

        Args:
          task: of seqio.
          batch_size: rows of a batch, over all processes.
          length: of a row, in tokens.
          seed: of the order of all epochs.
          split: of the task.
          rows: of each batch that this process gets; all where None.
          use_cached: read what `seqio_cache_tasks` wrote, see `cached_tasks`.

        Raises:
          UserError: if there is no such split, or it is not cached, or with another vocabulary.
        """
        seqio_tasks.check_split(task, split)
        if use_cached:
            cached_tasks.check_cached(task, split)
        self._batch_size = batch_size
        self._rows_here = frozenset(range(batch_size) if rows is None else rows)
        self.identity = {
            "task": task.name,
            "split": split,
            "source": seqio_tasks.describe_source(task, split, use_cached),
            "vocabulary": vocabulary_of(task).fingerprint,
            "batch_size": batch_size,
            "length": length,
            "seed": seed,
            **epochs.order(seed, lambda: seqio_tasks.is_shuffled_whole(task, split, use_cached)),
        }
        if isinstance(task, seqio.Mixture):  # A position is one among rows mixed in this way.
            self.identity["mixing"] = mixtures.rates(task)

        def read_epoch(seed: int) -> Iterator[Row]:
            if not self._stream.is_begun:
                mixtures.check_parts(task, split, use_cached=use_cached)
            return _rows(task, length, split, seed=seed, use_cached=use_cached)

        self._stream = epochs.EpochStream(
            read_epoch,
            seed,
            self.identity,
            if_empty=f"{seqio_tasks.named(task)}: its split {split!r} has no text",
        )

    def __next__(self) -> Row:
        batch = list(itertools.islice(self._stream, self._batch_size))
        return _stack([row for i, row in enumerate(batch) if i in self._rows_here])


def batches_per_epoch(
    task: seqio.Task | seqio.Mixture,
    *,
    batch_size: int,
    length: int,
    split: str = "train",
    use_cached: bool = False,
) -> float:
    """Packed rows of one pass over the data, in batches; reads the data once.

    Args:
      task: of seqio.
      batch_size: rows of a batch, over all processes.
      length: of a row, in tokens.
      split: of the task.
      use_cached: read what `seqio_cache_tasks` wrote.

    Raises:
      UserError: for a mixture, which has no epochs.
    """
    if isinstance(task, seqio.Mixture):
        raise UserError(f"mixture {task.name!r} has no epochs; set TRAIN_STEPS instead of EPOCHS")
    rows = _rows(task, length, split, seed=None, use_cached=use_cached)
    return sum(1 for _ in rows) / batch_size


def validation_batches(
    task: seqio.Task | seqio.Mixture,
    *,
    batch_size: int,
    length: int,
    split: str = "validation",
    max_batches: int | None = None,
    rows: Collection[int] | None = None,
) -> Iterator[Row]:
    """One pass over a split, unshuffled; rows of weight 0 fill the last batch.

    A mixture's is at its rates: tasks that end are read again until the last one was read whole.

    Args:
      task: of seqio.
      batch_size: rows of a batch, over all processes.
      length: of a row, in tokens.
      split: of the task.
      max_batches: how many; all where None.
      rows: of each batch that this process gets; all where None.

    Raises:
      UserError: if there is no such split.
    """
    seqio_tasks.check_split(task, split)
    rows_here = frozenset(range(batch_size) if rows is None else rows)
    stream = iter(_rows(task, length, split, seed=None))
    for _ in itertools.count() if max_batches is None else range(max_batches):
        batch = list(itertools.islice(stream, batch_size))
        if not batch:
            return
        padding = {name: np.zeros_like(row) for name, row in batch[0].items()}
        batch += [padding] * (batch_size - len(batch))
        yield _stack([row for i, row in enumerate(batch) if i in rows_here])
