"""What seqio_cache_tasks wrote of a text, in the order in which it was read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from detox_jax.errors import UserError
from tasks.memory_source import InOrder, MemorySource


class CachedText(MemorySource):
    """What `seqio_cache_tasks` wrote of a TextSource, in the source's order.

    Beam deals examples to files at random, another way each time. In order, and dealt to hosts as
    a TextSource deals them, they give the batches that training without the cache sees.
    """

    def __init__(self, cached: seqio.DataSource):
        super().__init__(splits=cached.splits)
        self._cached = cached

    def list_shards(self, split: str) -> Sequence[str]:
        """The files of a split."""
        return self._cached.list_shards(split)

    def all_examples(self, split: str, in_order: InOrder = list) -> tf.data.Dataset:
        """Examples `{"targets"}`; the ids of all documents are held in memory.

        Raises:
          UserError: if there are not as many as were cached, for TensorFlow reads a file that was
            cut in front of a record as a whole one.
        """
        rows = list(self._cached.get_dataset(split, shuffle=False).as_numpy_iterator())
        if len(rows) != (count := self._cached.num_input_examples(split)):
            raise UserError(
                f"{self.list_shards(split)[0]}: this file, or one beside it, is not whole: "
                f"{len(rows)} of {count} documents; cache the task again"
            )
        rows = in_order(sorted(rows, key=lambda row: row["position"]))
        targets = tf.RaggedTensor.from_row_lengths(  # type: ignore  # No stub has it.
            np.concatenate([row["targets"] for row in rows]),
            np.array([len(row["targets"]) for row in rows], np.int64),
        )
        columns: Any = {"targets": targets}
        return tf.data.Dataset.from_tensor_slices(columns)


class TextTask(seqio.Task):
    """A task of a TextSource, whose cache is read in the source's order."""

    def _get_cached_source(self, split: str, *arguments: Any, **options: Any) -> Any:
        return CachedText(super()._get_cached_source(split, *arguments, **options))

    def replace(self, **changes: Any) -> seqio.Task:
        """As seqio's, which makes a plain Task of any."""
        replaced = super().replace(**changes)
        replaced.__class__ = TextTask  # Which has no fields of its own.
        return replaced
