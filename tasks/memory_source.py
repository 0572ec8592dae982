"""What the sources share that read all their examples into memory."""

from __future__ import annotations

import abc
import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import seqio
import tensorflow as tf

_Source = TypeVar("_Source", bound="MemorySource")
_Read = TypeVar("_Read")


def read_once(read: Callable[[_Source, str], _Read]) -> Callable[[_Source, str], _Read]:
    """A source's method that reads a split once; what it has read goes when the source does."""
    kept: weakref.WeakKeyDictionary[_Source, dict[str, _Read]] = weakref.WeakKeyDictionary()

    @functools.wraps(read)
    def once(source: _Source, split: str) -> _Read:
        of_source = kept.setdefault(source, {})
        if split not in of_source:
            of_source[split] = read(source, split)
        return of_source[split]

    return once


class MemorySource(seqio.DataSource, abc.ABC):
    """Examples that are read whole, in an order of their own; any number of hosts share them."""

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Examples are dealt to shards one by one."""
        return True

    @abc.abstractmethod
    def all_examples(self, split: str) -> tf.data.Dataset:
        """The examples of a split, in the source's order."""

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """Those of a shard; `shuffle` is left to the task, which shuffles all of them."""
        del shuffle, seed, unused
        dataset = self.all_examples(split)
        if shard_info is not None and shard_info.num_shards > 1:
            dataset = dataset.shard(shard_info.num_shards, shard_info.index)
        return dataset
