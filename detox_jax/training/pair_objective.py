"""What objectives on preference pairs share: their batches, the reading of both sides, the log."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from detox_jax.checkpoints import params as params_lib
from detox_jax.kinds import Coefficient
from detox_jax.training import pair_batches
from detox_jax.training.objective import Objective
from detox_jax.training.pair_batches import PairBatches, PairTask
from detox_jax.training.per_target import per_target
from detox_jax.training.step import Batch

Sum = tuple[jax.Array, jax.Array]  # and the weight by which it is divided


@struct.dataclass
class Read:
    """What a model makes of one side of a batch of pairs.

    Attributes:
      targets_BL: ids.
      weights_BL: 1 for each target of the side, 0 for prompt, padding, and pairs that fill a batch.
      log_probs_BL: log p(target).
      log_others_BL: log(1 - p(target)).
      kl_BL: KL(model || base); None where the base is not read.
      reference_B: the side's log-likelihood under the reference model.
      toxicity_B: its score.
    """

    targets_BL: jax.Array
    weights_BL: jax.Array
    log_probs_BL: jax.Array
    log_others_BL: jax.Array
    kl_BL: jax.Array | None
    reference_B: jax.Array
    toxicity_B: jax.Array

    @property
    def log_likelihood_B(self) -> jax.Array:
        """Sum over the side's tokens."""
        return jnp.sum(self.log_probs_BL * self.weights_BL, axis=-1)

    @property
    def tokens_B(self) -> jax.Array:
        """The side's tokens, at least 1, so that it can divide."""
        return jnp.maximum(jnp.sum(self.weights_BL, axis=-1), 1)


@dataclasses.dataclass(frozen=True)
class PairObjective(Objective, abc.ABC):
    """An objective on pairs; what is its own is `of_pairs`.

    Both sides are read in two passes with one dropout mask, so that two equal sides have equal
    likelihoods whatever the rate. A pair's KL is the mean over the tokens of its sides; of
    objectives that are means over tokens, of all tokens alike.

    Attributes:
      kl_to_base: times the mean KL(model || base) is added.
    """

    kl_to_base: Coefficient = 0.0

    needs_toxicity: ClassVar[bool] = False
    by_token: ClassVar[bool] = False  # whether the loss is a mean over tokens, not over pairs

    @abc.abstractmethod
    def of_pairs(self, chosen: Read, rejected: Read, weights_B: jax.Array) -> Sum:
        """The summed loss of both sides and its weight, in pairs or in tokens (`by_token`)."""

    def needs_reference(self) -> bool:
        """Whether pairs need the likelihoods of the model that training starts from."""
        return False

    def reads_base(self) -> bool:
        """See `Objective`."""
        return self.kl_to_base > 0

    # --- batches ------------------------------------------------------------------------------

    def batches(
        self,
        task: Any,
        *,
        batch_size: int,
        length: int,
        seed: int,
        rows: Collection[int] | None = None,
    ) -> PairBatches:
        """See `Objective`, and `PairTask.batch` for what is in a batch."""
        return PairBatches(PairTask(task, length, batch_size), seed, rows)

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
        source = PairTask(task, length, batch_size)
        return pair_batches.validation_batches(source, max_batches, rows)

    def batches_per_epoch(self, task: Any, *, batch_size: int, length: int) -> float:
        """See `Objective`."""
        examples = PairTask(task, length, batch_size).examples("train", None)
        return sum(1 for _ in examples) / batch_size

    def check(self, task: Any, *, length: int, base: Collection[str] | None = None) -> None:
        """See `Objective`."""
        for split in task.splits:
            PairTask(task, length, 1).check(
                split,
                base=base,
                needs_reference=self.needs_reference(),
                needs_toxicity=self.needs_toxicity,
            )

    # --- loss ---------------------------------------------------------------------------------

    def loss(
        self, model: Any, params: params_lib.Params, batch: Batch, dropout_key: jax.Array | None
    ) -> Sum:
        """See `Objective`."""
        sides = self._read(model, params, batch, dropout_key)
        total, weight = self.of_pairs(*sides, batch["pair_weights"])
        if self.kl_to_base:
            total += self.kl_to_base * self._kl(*sides)[0]
        return total, weight

    def figures(self, model: Any, params: params_lib.Params, batch: Batch) -> Mapping[str, Sum]:
        """Means of a token's loss on either side, in nats, and how the pairs stand.

        Returns:
          `nll_good`, `nll_bad`; `margin`, by how much the chosen side is the likelier one, and
          `reward_margin`, by how much more so than under the reference (0 where a pair has none);
          `accuracy`, the share of pairs whose `reward_margin` is above 0; `kl_to_base` where the
          base is read.
        """
        chosen, rejected = self._read(model, params, batch, None)
        weights_B = batch["pair_weights"]
        pairs = jnp.sum(weights_B)
        margin_B = chosen.log_likelihood_B - rejected.log_likelihood_B
        reward_B = margin_B - (chosen.reference_B - rejected.reference_B)
        found = {
            "nll_good": (-jnp.sum(chosen.log_likelihood_B), jnp.sum(chosen.weights_BL)),
            "nll_bad": (-jnp.sum(rejected.log_likelihood_B), jnp.sum(rejected.weights_BL)),
            "margin": (jnp.sum(margin_B * weights_B), pairs),
            "reward_margin": (jnp.sum(reward_B * weights_B), pairs),
            "accuracy": (jnp.sum((reward_B > 0) * weights_B), pairs),
        }
        if self.reads_base():
            found["kl_to_base"] = self._kl(chosen, rejected)
        return found

    def _read(
        self, model: Any, params: params_lib.Params, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[Read, Read]:
        def side(name: str) -> Read:
            found = per_target(
                model,
                params,
                batch[f"{name}_inputs"],
                batch[f"{name}_targets"],
                with_base=self.reads_base(),
                dropout_key=dropout_key,
            )
            return Read(
                batch[f"{name}_targets"],
                batch[f"{name}_weights"],
                found.log_probs_BL,
                found.log_others_BL,
                found.kl_BL,
                batch[f"{name}_reference"],
                batch[f"{name}_toxicity"],
            )

        return side("chosen"), side("rejected")

    def _kl(self, chosen: Read, rejected: Read) -> Sum:
        """KL to the base, summed as the loss is: over tokens, or over the means of pairs."""
        assert chosen.kl_BL is not None and rejected.kl_BL is not None
        total_B = jnp.sum(chosen.kl_BL * chosen.weights_BL, axis=-1)
        total_B += jnp.sum(rejected.kl_BL * rejected.weights_BL, axis=-1)
        tokens_B = jnp.sum(chosen.weights_BL + rejected.weights_BL, axis=-1)
        if self.by_token:
            return jnp.sum(total_B), jnp.sum(tokens_B)
        means_B = total_B / jnp.maximum(tokens_B, 1)
        return jnp.sum(means_B), jnp.sum(tokens_B > 0, dtype=means_B.dtype)
