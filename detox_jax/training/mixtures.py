"""seqio mixtures: one vocabulary, rates, tasks that have text, and epochs that show all of each."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import seqio
import tensorflow as tf

from detox_jax.errors import UserError
from detox_jax.training import cached_tasks, seqio_tasks


def check(mixture: seqio.Mixture) -> None:
    """Refuses a mixture that no model can be trained on.

    Raises:
      UserError: if its tasks have several vocabularies, or one a rate that is none.
    """
    vocabularies = {
        part.name: seqio_tasks.own_vocabulary(part).fingerprint for part in mixture.tasks
    }
    if len(set(vocabularies.values())) > 1:
        raise UserError(
            f"mixture {mixture.name!r}: its tasks have several vocabularies, "
            f"{', '.join(f'{name} {found}' for name, found in vocabularies.items())}; "
            "give all of them one"
        )
    for part in mixture.tasks:
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


def without_split(task: seqio.Task | seqio.Mixture, split: str) -> list[str]:
    """The names of a mixture's tasks that have no split of that name, which seqio leaves out."""
    return [part.name for part in seqio_tasks.parts(task) if split not in part.splits]


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
    for part in task.tasks if isinstance(task, seqio.Mixture) else []:
        if part.name in but:
            continue
        with cached_tasks.saying_damage(part), seqio_tasks.saying_what_fails(part):
            examples = seqio_tasks.one_epoch(part, split, None, use_cached)
            first = next(examples.as_numpy_iterator(), None)
        if first is None:
            raise UserError(
                f"mixture {task.name!r}: its task {part.name!r} has no text in split {split!r}"
            )


def every_part_whole(task: seqio.Task | seqio.Mixture) -> seqio.Task | seqio.Mixture:
    """A mixture whose epoch ends when each of its tasks was read whole; a task is itself.

    seqio ends it with the first task that has no more examples: of a large one, read beside a small
    one, every epoch would show the beginning alone.
    """
    if not isinstance(task, seqio.Mixture):
        return task
    whole, sample = copy.copy(task), task._sample_fn

    @tf.autograph.experimental.do_not_convert
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


def rates(mixture: seqio.Mixture) -> dict[str, float]:
    """How often each task is drawn, relative to the others."""
    return {part.name: mixture.get_rate(part) for part in mixture.tasks}
