"""A seqio task or mixture as it is found: its name, vocabulary, splits, source and examples.

What holds of mixtures alone is in `mixtures`, what `seqio_cache_tasks` wrote in `cached_tasks`.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from detox_jax import terminal
from detox_jax.errors import UserError, as_one_line, is_of_storage, own_line
from detox_jax.output_settings import CACHED_FILES, NOT_YET, NotYet
from detox_jax.tags import Tags
from detox_jax.training import own_sources
from detox_jax.vocabulary import Vocabulary

# Accelerators are JAX's; TensorFlow reads and packs on the host.
_HIDDEN_DEVICES = ("GPU", "TPU")
# What TensorFlow draws by beside a seed, unless `tf.random.set_seed` gives it another.
_GLOBAL_SEED = 87654321
Row = dict[str, np.ndarray]
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


def named(task: seqio.Task | seqio.Mixture) -> str:
    """`task 'kept'` or `mixture 'both'`, for messages."""
    kind = "mixture" if isinstance(task, seqio.Mixture) else "task"
    return f"{kind} {task.name!r}"


@contextlib.contextmanager
def saying_what_fails(task: seqio.Task | seqio.Mixture) -> Iterator[None]:
    """Says in one line what goes wrong where a task is built or read, in seqio or in its own code.

    Errors of the storage and those of damaged files pass, which others name.

    Raises:
      UserError: naming the task and, where its own code fails, the line of that.
    """
    try:
        yield
    except (UserError, MemoryError, tf.errors.DataLossError):
        raise
    except Exception as error:  # A source and a preprocessor may raise any.
        if is_of_storage(error):
            raise
        where = own_line(error)
        steps = [
            getattr(step, "__name__", None) or type(step).__name__
            for part in parts(task)
            for step in part.preprocessors
        ]
        raise UserError(
            f"{named(task)} cannot be read: {f'{where}: ' if where else ''}{_said(error)}; its "
            f"preprocessors are {', '.join(dict.fromkeys(steps)) or 'none'} (docs/TRAINING.md)"
        ) from error


def _said(error: Exception) -> str:
    """The kind of an error and what it says; of one in translated code, its last line alone."""
    lines = str(error).strip().splitlines()
    if len(lines) > 1 and lines[0] == "in user code:":
        return as_one_line(lines[-1], 300)
    return f"{type(error).__name__}: {as_one_line(str(error), 300)}"


def own_vocabulary(task: seqio.Task | seqio.Mixture) -> Vocabulary:
    """The vocabulary of a task's `targets`, or of both sides of its pairs; a mixture's first.

    Raises:
      UserError: if it is none of ours, or if the task has features that no model would be trained
        on.
    """
    features = task.output_features
    name = "targets" if "targets" in features else "chosen"
    if name not in features:
        raise UserError(
            f"{named(task)}: its features are {', '.join(features)}, and none of them is "
            "'targets', which is what a model is trained on (docs/TRAINING.md)"
        )
    if list(features) != ["targets"] and name == "targets" and not is_of_answers(task):
        unread = [feature for feature in features if feature != "targets"]
        raise UserError(
            f"{named(task)}: its feature {unread[0]!r} would not be read, since a model is "
            "trained on 'targets' alone; join them in a preprocessor (docs/TRAINING.md)"
        )
    vocabulary = getattr(getattr(features[name], "vocabulary", None), "bpe", None)
    if not isinstance(vocabulary, Vocabulary):
        raise UserError(
            f"{named(task)}: its feature {name!r} needs a vocabulary of tasks.vocabularies, the "
            "model's own: SeqioBPEVocabulary('base/vocabulary')"
        )
    return vocabulary


def has_split(task: seqio.Task | seqio.Mixture, split: str) -> bool:
    """Whether a task has a split of that name."""
    return split in task.splits


def check_split(task: seqio.Task | seqio.Mixture, split: str) -> None:
    """Refuses a split that a task does not have.

    Raises:
      UserError: naming those it has.
    """
    if not has_split(task, split):
        raise UserError(f"{named(task)} has no split {split!r}; it has {list(task.splits)}")


def is_of_answers(task: seqio.Task | seqio.Mixture) -> bool:
    """Whether a task's examples are questions and answers, of which only answers have a loss."""
    return "roles" in task.output_features


def tags_of(task: seqio.Task | seqio.Mixture) -> Tags | None | NotYet:
    """The tags that a task's documents may have in front, the first part's of a mixture.

    None where they have none, `NOT_YET` where a source, as one of the user's own, does not say.
    """
    if tags := all_tags(task):
        return tags[0]
    return None if all(hasattr(part.source, "tags") for part in parts(task)) else NOT_YET


def all_tags(task: seqio.Task | seqio.Mixture) -> list[Tags]:
    """Those of each task of a mixture that has some, or of a task."""
    tags = [getattr(part.source, "tags", None) for part in parts(task)]
    return [one for one in tags if isinstance(one, Tags)]


def parts(task: seqio.Task | seqio.Mixture) -> list[seqio.Task]:
    """The tasks of a mixture; a task is its own."""
    return list(task.tasks) if isinstance(task, seqio.Mixture) else [task]


def describe_source(task: seqio.Task | seqio.Mixture, split: str, use_cached: bool = False) -> Any:
    """What the data is: as its source says, or of one of the user's own what is seen of it."""
    check_split(task, split)
    if isinstance(task, seqio.Mixture):
        return [(part.name, describe_source(part, split, use_cached)) for part in task.tasks]
    if use_cached:
        prefix = seqio.get_cached_tfrecord_prefix(task.cache_dir, split)
        content = own_sources.content([f"{prefix}-*"])
        return {"cached": task.get_cached_stats(split), CACHED_FILES: [content]}
    describe = getattr(task.source, "describe", None)
    if describe is not None:
        return describe(split)
    return own_sources.describe(task.source, task.preprocessors, split)


def count_documents(task: seqio.Task | seqio.Mixture) -> int | None:
    """Documents of the training split, where the source knows them; it reads what it is made of.

    Raises:
      UserError: if the data cannot be read.
    """
    if isinstance(task, seqio.Mixture):
        return None
    count = getattr(task.source, "count", None)
    return None if count is None else {split: count(split) for split in task.splits}["train"]


def is_shuffled_whole(
    task: seqio.Task | seqio.Mixture, split: str, use_cached: bool = False
) -> bool:
    """Whether a source gives more examples than a task shuffles, in a shuffled order of its own.

    A version before gave them in order, so that the first ones came first.
    """
    for part in parts(task):
        source: Any = part.source
        shuffles = getattr(source, "shuffles", None)
        if shuffles is None or split not in part.splits:
            continue
        number = part.get_cached_stats(split)["examples"] if use_cached else source.count(split)
        if shuffles(number):
            return True
    return False


def one_epoch(
    task: seqio.Task | seqio.Mixture,
    split: str,
    seed: int | None,
    use_cached: bool = False,
    lengths: Mapping[str, int] | None = None,
) -> Any:
    """A split's examples as a `tf.data.Dataset` in one order, which a seed shuffles.

    Args:
      task: of seqio.
      split: of the task.
      seed: of the order; the task's own where None.
      use_cached: read what `seqio_cache_tasks` wrote.
      lengths: tokens of each feature to which examples are cut; None for all of them.

    Raises:
      UserError: if there is no such split, the task cannot be built, or `tf.random.set_seed` was
        called, with which the seed gives another order.
    """
    check_split(task, split)
    if seed is not None and tf.compat.v1.get_seed(seed)[0] != _GLOBAL_SEED:
        raise UserError(
            "TensorFlow's global seed is set (tf.random.set_seed), with which RANDOM_SEED puts the "
            "data in another order; call tf.random.set_seed(None) before"
        )
    with saying_what_fails(task):
        dataset = task.get_dataset(
            sequence_length=lengths,
            split=split,
            use_cached=use_cached,
            shuffle=seed is not None,
            seed=seed,
            num_epochs=1,
            try_in_mem_cache=False,  # Needs to know the source's size, which TFDS may not.
        )
    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options)


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
    return one_epoch(task, split, seed).as_numpy_iterator()


def examples(
    task: seqio.Task | seqio.Mixture, split: str, seed: int | None = None
) -> Iterator[Row]:
    """One epoch of a task's examples, of fixed shapes; shuffled where there is a seed."""
    yield from handed_over(one_epoch(task, split, seed), _EXAMPLES_AT_ONCE)


def handed_over(dataset: tf.data.Dataset, at_once: int) -> Iterator[Row]:
    """Examples of fixed shapes, in their order, which TensorFlow makes while others are used.

    One by one it hands over a few thousand a second, which small models outrun.

    Args:
      dataset: of dicts.
      at_once: how many it hands over together.
    """
    groups: Any = dataset.batch(at_once).prefetch(tf.data.AUTOTUNE)
    for group in groups.as_numpy_iterator():
        size = len(next(iter(group.values())))
        yield from ({name: column[i] for name, column in group.items()} for i in range(size))
