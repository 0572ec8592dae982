"""Examples that are longer than a row, in pieces that fit one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf


def cut(dataset: tf.data.Dataset, names: Sequence[str], length: int) -> tf.data.Dataset:
    """Consecutive pieces of each example; no token is lost.

    Args:
      dataset: examples whose features `names` are as long as one another, int32.
      names: of the features that the pieces have; others are dropped.
      length: of a piece; an example's last one may be shorter.
    """

    def pieces(example: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        rows = tf.stack([example[name] for name in names])
        size = tf.shape(rows)[1]
        count = (size + length - 1) // length
        paddings: Any = [[0, 0], [0, count * length - size]]
        padded = tf.pad(rows, paddings)
        sizes = tf.minimum(length, size - length * tf.range(count))
        return tf.transpose(tf.reshape(padded, [len(names), count, length]), [1, 0, 2]), sizes

    def trim(rows: tf.Tensor, size: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: rows[i, :size] for i, name in enumerate(names)}

    return dataset.map(pieces).unbatch().map(trim)
