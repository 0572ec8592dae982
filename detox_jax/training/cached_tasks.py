"""What seqio's `seqio_cache_tasks` wrote of a task: looked for, and checked before it is read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence

import seqio
import tensorflow as tf

from detox_jax.errors import UserError
from detox_jax.training import seqio_tasks

_WITHOUT = "CACHE_DIR=None (under T5X, USE_CACHED_TASKS=False)"


def add_cache_dir(directory: str) -> None:
    """Adds a directory that `seqio_cache_tasks` wrote to those where cached tasks are looked for.

    Raises:
      UserError: if there is no such directory.
    """
    if not tf.io.gfile.isdir(directory):
        raise UserError(f"CACHE_DIR {directory}: no such directory; seqio_cache_tasks makes it")
    seqio.add_global_cache_dirs([directory])


def check_cached(task: seqio.Task | seqio.Mixture, split: str) -> None:
    """Refuses a task that is not cached whole with its vocabulary, or a mixture of such a one.

    A cache of a user's own task need not say its vocabulary; a line then says that.

    Raises:
      UserError: naming the task, or the file that is missing or damaged.
    """
    for part in seqio_tasks.parts(task):
        if not part.supports_caching:
            raw = "CHAT_TEMPLATE=False, which trains on raw text, or "
            raise UserError(
                f"task {part.name!r} has no CacheDatasetPlaceholder among its preprocessors, so "
                "that seqio would read its source and not a cache; set "
                f"{raw if seqio_tasks.is_of_answers(part) else ''}{_WITHOUT}"
            )
        if part.cache_dir is None:
            raise UserError(
                f"task {part.name!r} is not cached in {seqio.get_global_cache_dirs()}; run "
                f"seqio_cache_tasks --tasks={part.name}, or set {_WITHOUT}"
            )
        if not _has_split(part, split):
            raise UserError(
                f"{part.cache_dir}: holds no split {split!r}; cache the task again, or set "
                f"{_WITHOUT}"
            )
        ours = seqio_tasks.own_vocabulary(part).fingerprint
        with saying_damage(part):
            theirs = _cached_vocabulary(_cached_files(part.cache_dir, split))
        if theirs is None:
            print(
                f"{part.cache_dir}: does not say with which vocabulary it was encoded; it is read "
                f"as one of the task's own, {ours}"
            )
        elif theirs != ours:
            raise UserError(
                f"{part.cache_dir}: encoded with vocabulary {theirs}, the task uses {ours}; cache "
                "the task again, or give it that vocabulary"
            )


def is_cached(task: seqio.Task | seqio.Mixture, split: str) -> bool:
    """Whether a split lies in the caches of a task, or of each task of a mixture that has it."""
    found = [part for part in seqio_tasks.parts(task) if split in part.splits]
    return all(part.supports_caching and _has_split(part, split) for part in found)


def _has_split(task: seqio.Task, split: str) -> bool:
    directory = task.cache_dir
    return directory is not None and tf.io.gfile.exists(
        seqio.get_cached_info_path(directory, split)
    )


def _cached_files(directory: str, split: str) -> list[str]:
    """The files of a cached split, all of which are there: seqio reads those that are."""
    with tf.io.gfile.GFile(seqio.get_cached_info_path(directory, split)) as file:
        count = json.load(file)["num_shards"]
    prefix = seqio.get_cached_tfrecord_prefix(directory, split)
    there = set(tf.io.gfile.glob(f"{prefix}-*-of-{count:05}"))
    files = [f"{prefix}-{shard:05}-of-{count:05}" for shard in range(count)]
    for path in files:
        if path not in there:
            raise UserError(f"{path}: missing, one of {count} files; cache the task again")
    return files


def _cached_vocabulary(files: Sequence[str]) -> str | None:
    """The fingerprint beside the first cached example."""
    for record in tf.data.TFRecordDataset(files).take(1):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        if values := features["vocabulary"].bytes_list.value:
            return values[0].decode()
    return None


@contextlib.contextmanager
def saying_damage(task: seqio.Task | seqio.Mixture) -> Iterator[None]:
    """Says in one line that a file of a task's cache, which is read inside, is damaged.

    Raises:
      UserError: naming the directory.
    """
    try:
        yield
    except tf.errors.DataLossError as error:
        directories = ", ".join(str(part.cache_dir) for part in seqio_tasks.parts(task))
        found = str(error.message).partition("}} ")[2] or error.message
        raise UserError(
            f"{directories}: a file of the cache is damaged: {found}; cache the task again"
        ) from error


def undamaged(
    rows: Iterator[seqio_tasks.Row], task: seqio.Task | seqio.Mixture
) -> Iterator[seqio_tasks.Row]:
    """Rows that are read from a task's cache, with `saying_damage`."""
    with saying_damage(task):
        yield from rows
