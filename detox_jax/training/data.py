"""seqio tasks to batches: packed, deterministic, resumable, each process its own rows.

Every process reads the one stream of packed rows and keeps those of its own devices, so that the
batches, and with them the losses, are the same for any number of processes, and a run may go on
with another number of them. Reading costs little beside a training step (docs/MULTIHOST.md).

Epochs are built one after another, each shuffled with a seed of its own, so that the position in
the data is `(epoch, row)` and a resumed run skips within one epoch at most.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import itertools
import json
import traceback
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from detox_jax import terminal
from detox_jax.errors import UserError
from detox_jax.tags import Tags
from detox_jax.training import epochs
from detox_jax.vocabulary import Vocabulary

# Accelerators are JAX's; TensorFlow reads and packs on the host.
_HIDDEN_DEVICES = ("GPU", "TPU")
Row = dict[str, np.ndarray]
# Whose token it is, in the feature `roles`: packing takes zeros for padding.
GIVEN, WRITTEN = 1, 2
_EXAMPLES_AT_ONCE = 512


def get_task(mixture_or_task: str | seqio.Task | seqio.Mixture) -> seqio.Task | seqio.Mixture:
    """A task or mixture by name, or itself.

    Raises:
      UserError: if the name is not registered, with names near it.
    """
    with terminal.without_notes():
        for device in _HIDDEN_DEVICES:
            tf.config.set_visible_devices([], device)
    if not isinstance(mixture_or_task, str):
        return mixture_or_task
    names = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    if mixture_or_task not in names:
        near = difflib.get_close_matches(mixture_or_task, names) or sorted(names)
        raise UserError(
            f"MIXTURE_OR_TASK_NAME: no task {mixture_or_task!r}; did you mean {', '.join(near)}? "
            "A task of your own must be imported by a gin file"
        )
    return seqio.get_mixture_or_task(mixture_or_task)


def vocabulary_of(task: seqio.Task | seqio.Mixture) -> Vocabulary:
    """The vocabulary of a task's `targets`, or of both sides of its pairs.

    Raises:
      UserError: if it is none of ours, if a mixture has several or a rate that is none, or if the
        task has features that no model would be trained on.
    """
    features = task.output_features
    name = "targets" if "targets" in features else "chosen"
    if name not in features:
        raise UserError(
            f"task {task.name!r}: its features are {', '.join(features)}, and none of them is "
            "'targets', which is what a model is trained on (docs/TRAINING.md)"
        )
    if list(features) != ["targets"] and name == "targets" and not is_of_answers(task):
        unread = [feature for feature in features if feature != "targets"]
        raise UserError(
            f"task {task.name!r}: its feature {unread[0]!r} would not be read, since a model is "
            "trained on 'targets' alone; join them in a preprocessor (docs/TRAINING.md)"
        )
    vocabulary = getattr(getattr(features[name], "vocabulary", None), "bpe", None)
    if not isinstance(vocabulary, Vocabulary):
        raise UserError(
            f"task {task.name!r}: its feature {name!r} needs a vocabulary of tasks.vocabularies"
        )
    if isinstance(task, seqio.Mixture):
        _check_mixture(task)
    return vocabulary


def _check_mixture(mixture: seqio.Mixture) -> None:
    vocabularies = {part.name: vocabulary_of(part).fingerprint for part in _parts(mixture)}
    if len(set(vocabularies.values())) > 1:
        raise UserError(
            f"mixture {mixture.name!r}: its tasks have several vocabularies, "
            f"{', '.join(f'{name} {found}' for name, found in vocabularies.items())}; "
            "give all of them one"
        )
    for part in _parts(mixture):
        try:
            rate = mixture.get_rate(part)
        except (TypeError, ValueError, AssertionError) as error:
            raise UserError(
                f"mixture {mixture.name!r}: the rate of {part.name!r} cannot be computed "
                f"({error}); give it as a number, or the source its num_input_examples"
            ) from error
        if not rate > 0:
            raise UserError(
                f"mixture {mixture.name!r}: the rate of {part.name!r} is {rate}; a rate is above "
                "0, and a task that is not to be read is left out"
            )


def has_split(task: seqio.Task | seqio.Mixture, split: str) -> bool:
    """Whether a task has a split of that name."""
    return split in task.splits


def without_split(task: seqio.Task | seqio.Mixture, split: str) -> list[str]:
    """The names of a mixture's tasks that have no split of that name, which seqio leaves out."""
    return [part.name for part in _parts(task) if split not in part.splits]


def is_of_answers(task: seqio.Task | seqio.Mixture) -> bool:
    """Whether a task's examples are questions and answers, of which only answers have a loss."""
    return "roles" in task.output_features


class _AnswerConverter(seqio.LMFeatureConverter):
    """Packs `{"inputs", "targets", "roles"}`: what is read, the next of each, and whose it is."""

    TASK_FEATURES = {
        name: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)
        for name in ("inputs", "targets", "roles")
    }

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
    return _whole(packed, task) if use_cached else packed


def _packed(
    task: seqio.Task | seqio.Mixture, length: int, split: str, *, seed: int | None, use_cached: bool
) -> Iterator[Row]:
    if is_of_answers(task):
        converter, names = _AnswerConverter(pack=True), list(_AnswerConverter.TASK_FEATURES)
    else:
        converter = seqio.LMFeatureConverter(pack=True, bos_id=vocabulary_of(task).bos_id)
        names = ["targets"]
    lengths = dict.fromkeys(names, length)
    with _saying_what_seqio_refuses(task):
        dataset = _every_part_whole(task).get_dataset(
            sequence_length=lengths,
            split=split,
            use_cached=use_cached,
            shuffle=seed is not None,
            seed=seed,
            num_epochs=1,
            try_in_mem_cache=False,  # Needs to know the source's size, which TFDS may not.
        )
        packed = converter(dataset, lengths)
    options = tf.data.Options()
    options.deterministic = True
    rows = packed.with_options(options).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
    tags = _ids_of_tags(task)
    yield from (without_tags(row, tags) for row in rows) if tags else rows


def tags_of(task: seqio.Task | seqio.Mixture) -> Tags | None:
    """The tags that a task's documents may have in front, the first part's of a mixture."""
    return next(iter(_all_tags(task)), None)


def _all_tags(task: seqio.Task | seqio.Mixture) -> list[Tags]:
    tags = [getattr(part.source, "tags", None) for part in _parts(task)]
    return [one for one in tags if isinstance(one, Tags)]


def _ids_of_tags(task: seqio.Task | seqio.Mixture) -> list[tuple[int, ...]]:
    """The ids of the tags that a task's documents may have in front."""
    vocabulary = vocabulary_of(task)
    return [ids for tags in _all_tags(task) for ids in tags.ids(vocabulary)]


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


def check_parts(
    task: seqio.Task | seqio.Mixture,
    split: str,
    but: Collection[str] = (),
    use_cached: bool = False,
) -> None:
    """Refuses a mixture of which a task has no example, for seqio then ends at its first turn.

    Args:
      task: of seqio.
      split: of each of its tasks.
      but: names of tasks that are not looked at.
      use_cached: look into what `seqio_cache_tasks` wrote; the source may be gone.

    Raises:
      UserError: for a task without text in that split, or without the split.
    """
    for part in _parts(task) if isinstance(task, seqio.Mixture) else []:
        if part.name in but:
            continue
        with _saying_damage(part):
            first = next(_one_epoch(part, split, None, use_cached).as_numpy_iterator(), None)
        if first is None:
            raise UserError(
                f"mixture {task.name!r}: its task {part.name!r} has no text in split {split!r}"
            )


@contextlib.contextmanager
def _saying_what_seqio_refuses(task: seqio.Task | seqio.Mixture) -> Iterator[None]:
    """Says in one line what seqio finds wrong with a task; errors of the task's own code pass."""
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] != "seqio":
            raise
        said = " ".join(str(error).split())
        raise UserError(f"task {task.name!r}: seqio refuses it: {said}") from error


def _every_part_whole(task: seqio.Task | seqio.Mixture) -> seqio.Task | seqio.Mixture:
    """A mixture whose epoch ends when each of its tasks was read whole; a task is itself.

    seqio ends it with the first task that has no more examples: of a large one, read beside a small
    one, every epoch would show the beginning alone.
    """
    if not isinstance(task, seqio.Mixture):
        return task
    whole, sample = copy.copy(task), task._sample_fn

    def sampled(datasets: Sequence[Any], rates: Any, seed: int | None) -> Any:
        def marked(part: int, again: bool) -> Any:
            return datasets[part].map(lambda example: (example, part, again))

        numbers = range(len(datasets))
        endless = [marked(i, False).concatenate(marked(i, True).repeat()) for i in numbers]

        def note(read: tf.Tensor, drawn: Any) -> tuple[tf.Tensor, Any]:
            example, part, again = drawn
            read = read | (again & (tf.range(len(datasets)) == part))
            return read, (example, read)

        noted = sample(endless, rates, seed).scan(tf.zeros([len(datasets)], tf.bool), note)
        lasting = noted.take_while(lambda _, read: ~tf.reduce_all(read))
        return lasting.map(lambda example, _: example)

    whole._sample_fn = sampled
    return whole


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
        """Starts at the first row; nothing is read yet.

        Args:
          task: of seqio.
          batch_size: rows of a batch, over all processes.
          length: of a row, in tokens.
          seed: of the order of all epochs.
          split: of the task.
          rows: of each batch that this process gets; all where None.
          use_cached: read what `seqio_cache_tasks` wrote, see `add_cache_dir`.

        Raises:
          UserError: if there is no such split, or it is not cached, or with another vocabulary.
        """
        _check_split(task, split)
        if use_cached:
            _check_cached(task, split)
        self._batch_size = batch_size
        self._rows_here = frozenset(range(batch_size) if rows is None else rows)
        self.identity = {
            "task": task.name,
            "split": split,
            "source": describe_source(task, split, use_cached),
            "vocabulary": vocabulary_of(task).fingerprint,
            "batch_size": batch_size,
            "length": length,
            "seed": seed,
        }
        if isinstance(task, seqio.Mixture):  # A position is one among rows mixed in this way.
            self.identity["mixing"] = {part.name: task.get_rate(part) for part in _parts(task)}

        def read_epoch(seed: int) -> Iterator[Row]:
            if not self._stream.is_begun:
                check_parts(task, split, use_cached=use_cached)
            return _rows(task, length, split, seed=seed, use_cached=use_cached)

        self._stream = epochs.EpochStream(
            read_epoch,
            seed,
            self.identity,
            if_empty=f"task {task.name!r}: its split {split!r} has no text",
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
    _check_split(task, split)
    rows_here = frozenset(range(batch_size) if rows is None else rows)
    stream = iter(_rows(task, length, split, seed=None))
    for _ in itertools.count() if max_batches is None else range(max_batches):
        batch = list(itertools.islice(stream, batch_size))
        if not batch:
            return
        padding = {name: np.zeros_like(row) for name, row in batch[0].items()}
        batch += [padding] * (batch_size - len(batch))
        yield _stack([row for i, row in enumerate(batch) if i in rows_here])


def _check_split(task: seqio.Task | seqio.Mixture, split: str) -> None:
    if not has_split(task, split):
        raise UserError(f"task {task.name!r} has no split {split!r}; it has {list(task.splits)}")


def add_cache_dir(directory: str) -> None:
    """Adds a directory that `seqio_cache_tasks` wrote to those where cached tasks are looked for.

    Raises:
      UserError: if there is no such directory.
    """
    if not tf.io.gfile.isdir(directory):
        raise UserError(f"CACHE_DIR {directory}: no such directory; seqio_cache_tasks makes it")
    seqio.add_global_cache_dirs([directory])


def _check_cached(task: seqio.Task | seqio.Mixture, split: str) -> None:
    for part in _parts(task):
        if part.cache_dir is None:
            raise UserError(
                f"task {part.name!r} is not cached in {seqio.get_global_cache_dirs()}; run "
                f"seqio_cache_tasks --tasks={part.name}, or set CACHE_DIR=None"
            )
        ours = vocabulary_of(part).fingerprint
        with _saying_damage(part):
            theirs = _cached_vocabulary(_cached_files(part.cache_dir, split))
        if theirs != ours:
            raise UserError(
                f"{part.cache_dir}: encoded with vocabulary {theirs}, the task uses {ours}; cache "
                "the task again, or give it that vocabulary"
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


@contextlib.contextmanager
def _saying_damage(task: seqio.Task | seqio.Mixture) -> Iterator[None]:
    """Says in one line that a file of a cache is damaged."""
    try:
        yield
    except tf.errors.DataLossError as error:
        directories = ", ".join(str(part.cache_dir) for part in _parts(task))
        found = str(error.message).partition("}} ")[2] or error.message
        raise UserError(
            f"{directories}: a file of the cache is damaged: {found}; cache the task again"
        ) from error


def _whole(rows: Iterator[Row], task: seqio.Task | seqio.Mixture) -> Iterator[Row]:
    with _saying_damage(task):
        yield from rows


def _cached_vocabulary(files: Sequence[str]) -> str | None:
    """The fingerprint beside the first cached example."""
    for record in tf.data.TFRecordDataset(files).take(1):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        if values := features["vocabulary"].bytes_list.value:
            return values[0].decode()
    return None


def _parts(task: seqio.Task | seqio.Mixture) -> list[seqio.Task]:
    return list(task.tasks) if isinstance(task, seqio.Mixture) else [task]


def ragged_examples(
    task: seqio.Task | seqio.Mixture, split: str, seed: int | None = None
) -> Iterator[Row]:
    """One pass over a split, of any shapes: every host reads all of it.

    Args:
      task: no mixture.
      split: of the task.
      seed: of the order; the task's own where None.

    Raises:
      UserError: for a mixture, or if there is no such split.
    """
    if isinstance(task, seqio.Mixture):
        raise UserError(f"mixture {task.name!r} has no order; name its tasks one by one")
    return _one_epoch(task, split, seed).as_numpy_iterator()


def _one_epoch(
    task: seqio.Task | seqio.Mixture, split: str, seed: int | None, use_cached: bool = False
) -> Any:
    """A split's examples in one order, which a seed shuffles."""
    _check_split(task, split)
    dataset = task.get_dataset(
        sequence_length=None,
        split=split,
        use_cached=use_cached,
        shuffle=seed is not None,
        seed=seed,
        num_epochs=1,
        try_in_mem_cache=False,
    )
    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options)


def describe_source(task: seqio.Task | seqio.Mixture, split: str, use_cached: bool = False) -> Any:
    """What the data is: paths and hashes where the source knows them, else its own description."""
    _check_split(task, split)
    if isinstance(task, seqio.Mixture):
        return [(part.name, describe_source(part, split, use_cached)) for part in task.tasks]
    if use_cached:
        return {"cached": task.get_cached_stats(split)}
    describe = getattr(task.source, "describe", None)
    return describe(split) if describe else str(task.source)


def count_documents(task: seqio.Task | seqio.Mixture) -> int | None:
    """Documents of the training split, where the source knows them; it reads what it is made of.

    Raises:
      UserError: if the data cannot be read.
    """
    if isinstance(task, seqio.Mixture):
        return None
    count = getattr(task.source, "count", None)
    return None if count is None else {split: count(split) for split in task.splits}["train"]


def examples(
    task: seqio.Task | seqio.Mixture, split: str, seed: int | None = None
) -> Iterator[Row]:
    """One epoch of a task's examples, of fixed shapes; shuffled where there is a seed."""
    # One by one TensorFlow hands over a few thousand a second, which a small encoder outruns.
    groups = _one_epoch(task, split, seed).batch(_EXAMPLES_AT_ONCE).prefetch(tf.data.AUTOTUNE)
    for group in groups.as_numpy_iterator():
        size = len(next(iter(group.values())))
        yield from ({name: column[i] for name, column in group.items()} for i in range(size))
