"""What training minimises, and the batches that it is computed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import jax

from detox_jax.checkpoints import params as params_lib
from detox_jax.training import step
from detox_jax.training.step import Batch


class Batches(Protocol):
    """Endless batches of this process's rows, from a position in the data that can be saved."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides the batches, by name, as JSON; a position belongs to it."""
        ...

    def __next__(self) -> Batch:
        """The next batch, as numpy arrays."""
        ...

    def state(self) -> dict[str, Any]:
        """The position in the data, as JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a position that `state` gave.

        Raises:
          UserError: if it belongs to other data, naming what differs.
        """
        ...


class Objective(Protocol):
    """A loss, and the batches that it reads.

    Every array of a batch has the batch's rows on axis 0, where the mesh splits it and accumulation
    cuts it. What belongs together is therefore one row of several arrays: of a pair, row `i` of
    `chosen` and row `i` of `rejected`, never two rows of one array.

    A loss gives a sum and the weight by which it is divided, and nothing else: parts of a batch and
    hosts add up, and one `train_step` serves all. Whatever else is worth knowing while training
    goes on is a sum and a weight too, of the held-out batches: see `measures`.
    """

    def batches(
        self,
        task: Any,
        *,
        batch_size: int,
        length: int,
        seed: int,
        rows: Collection[int] | None = None,
    ) -> Batches:
        """The batches of the training split.

        Args:
          task: of seqio.
          batch_size: rows of a batch, over all hosts.
          length: of a row, in tokens.
          seed: of the order.
          rows: of each batch that this process gets; all where None.

        Raises:
          UserError: if the task has no such data.
        """
        ...

    def validation_batches(
        self,
        task: Any,
        *,
        batch_size: int,
        length: int,
        max_batches: int | None = None,
        rows: Collection[int] | None = None,
    ) -> Iterator[Batch]:
        """The first batches of the validation split, always the same; rows of no weight fill them.

        Args:
          task: of seqio.
          batch_size: rows of a batch, over all hosts.
          length: of a row, in tokens.
          max_batches: how many; all where None.
          rows: of each batch that this process gets; all where None.

        Raises:
          UserError: if the task has no such split.
        """
        ...

    def loss(
        self, model: Any, params: params_lib.Params, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """The summed loss of a batch and its weight: a `step.Loss`.

        Args:
          model: the network.
          params: all of its parameters.
          batch: one of `batches` or `validation_batches`, or a part of its rows.
          dropout_key: None where there is no dropout, as in validation.
        """
        ...

    def measures(self) -> Mapping[str, step.Loss]:
        """What validation reports beside the loss, by name: further sums and weights of a batch."""
        return {}


@dataclasses.dataclass(frozen=True)
class LanguageModeling(Objective):
    """Every next token of packed documents, all alike.

    Attributes:
      use_cached: read the training split as `seqio_cache_tasks` wrote it.
    """

    use_cached: bool = False

    def batches(
        self,
        task: Any,
        *,
        batch_size: int,
        length: int,
        seed: int,
        rows: Collection[int] | None = None,
    ) -> Batches:
        """See `Objective`, and `data.BatchIterator` for what is in a batch."""
        from detox_jax.training import data  # tensorflow: not for importing this module

        return data.BatchIterator(
            task,
            batch_size=batch_size,
            length=length,
            seed=seed,
            rows=rows,
            use_cached=self.use_cached,
        )

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
        from detox_jax.training import data  # tensorflow: not for importing this module

        return data.validation_batches(
            task, batch_size=batch_size, length=length, max_batches=max_batches, rows=rows
        )

    def loss(
        self, model: Any, params: params_lib.Params, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """See `Objective`: summed loss in nats, and number of target tokens."""
        return step.batch_loss(model, params, batch, dropout_key)
