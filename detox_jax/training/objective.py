"""What training minimises, and the batches that it is computed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.kinds import Coefficient
from detox_jax.training import step
from detox_jax.training.per_target import per_target
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
    goes on is a sum and a weight too: of the held-out batches see `measures`, of those that are
    trained on `figures`.
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

    def figures(
        self, model: Any, params: params_lib.Params, batch: Batch
    ) -> Mapping[str, tuple[jax.Array, jax.Array]]:
        """What is logged of every batch that is, held out or trained on: sums and weights, by name.

        Unlike `measures` they share one reading of the batch. What a collapse shows in belongs
        here: a loss may fall while everything that it is the difference of falls with it.
        """
        del model, params, batch
        return {}

    def reads_base(self) -> bool:
        """Whether the loss reads the model that training starts from: see `base_model.held`."""
        return False

    def batches_per_epoch(self, task: Any, *, batch_size: int, length: int) -> float:
        """Batches of one pass over the training split, which it may read for that.

        Raises:
          UserError: for a task without passes.
        """
        ...

    def check(self, task: Any, *, length: int, base: Collection[str] | None = None) -> None:
        """Refuses data that the loss cannot be computed of, before any work.

        Args:
          task: of seqio.
          length: of a row, in tokens.
          base: what the fingerprint of the model that training starts from can be; None where
            nothing is known of it yet.

        Raises:
          UserError: naming what is wrong with the data.
        """


@dataclasses.dataclass(frozen=True)
class LanguageModeling(Objective):
    """Every next token of packed documents, all alike.

    Attributes:
      use_cached: read the training split as `seqio_cache_tasks` wrote it.
      kl_to_base: times the mean KL(model || base) of the targets is added to their mean loss.
    """

    use_cached: bool = False
    kl_to_base: Coefficient = 0.0

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

    def batches_per_epoch(self, task: Any, *, batch_size: int, length: int) -> float:
        """See `Objective`."""
        from detox_jax.training import data  # tensorflow: not for importing this module

        return data.batches_per_epoch(
            task, batch_size=batch_size, length=length, use_cached=self.use_cached
        )

    def check(self, task: Any, *, length: int, base: Collection[str] | None = None) -> None:
        """See `Objective`."""
        del length, base
        if "targets" not in task.output_features:
            raise UserError(
                f"task {task.name!r} has pairs and no documents; give OBJECTIVE, for example with "
                "--gin_file=gin_configs/training/dpo.gin"
            )

    def reads_base(self) -> bool:
        """See `Objective`."""
        return self.kl_to_base > 0

    def loss(
        self, model: Any, params: params_lib.Params, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """See `Objective`: summed loss in nats, and number of target tokens."""
        if not self.kl_to_base:
            return step.batch_loss(model, params, batch, dropout_key)
        read, weights_BL = self._read(model, params, batch, dropout_key, with_base=True)
        losses_BL = self.kl_to_base * read.kl_BL - read.log_probs_BL
        return jnp.sum(losses_BL * weights_BL), jnp.sum(weights_BL)

    def figures(
        self, model: Any, params: params_lib.Params, batch: Batch
    ) -> Mapping[str, tuple[jax.Array, jax.Array]]:
        """With a KL: it and the mean loss of a token, `nll_good`, in nats."""
        if not self.kl_to_base:
            return {}
        read, weights_BL = self._read(model, params, batch, None, with_base=True)
        tokens = jnp.sum(weights_BL)
        return {
            "nll_good": (-jnp.sum(read.log_probs_BL * weights_BL), tokens),
            "kl_to_base": (jnp.sum(read.kl_BL * weights_BL), tokens),
        }

    def _read(
        self,
        model: Any,
        params: params_lib.Params,
        batch: Batch,
        dropout_key: jax.Array | None,
        **wanted: bool,
    ) -> tuple[Any, jax.Array]:
        """What is asked of every target (`per_target`), and the weights of the targets."""
        read = per_target(
            model,
            params,
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            dropout_key=dropout_key,
            **wanted,
            decoder_segment_ids=batch["decoder_segment_ids"],
            decoder_positions=batch["decoder_positions"],
        )
        return read, batch["decoder_loss_weights"].astype(read.log_probs_BL.dtype)
