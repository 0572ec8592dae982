"""Reward-weighted likelihood: all text is learnt, toxic text less."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from detox_jax.kinds import Positive
from detox_jax.training.pair_objective import PairObjective, Read, Sum


@dataclasses.dataclass(frozen=True)
class RewardWeighted(PairObjective):
    """-log p of both sides, weighted by exp(-toxicity / temperature), a mean over all tokens.

    Korbak et al. (2023) use 10, at which a text of toxicity 1 counts 0.905: nearly plain training
    on both halves; far lower values come near to training on the chosen side alone.

    Attributes:
      temperature: the lower, the less toxic text counts.
    """

    temperature: Positive = 10.0

    needs_toxicity: ClassVar[bool] = True
    by_token: ClassVar[bool] = True

    def of_pairs(self, chosen: Read, rejected: Read, weights_B: jax.Array) -> Sum:
        """See `PairObjective`; `weights_B` is in the sides' own weights."""
        del weights_B
        total = self._weighted(chosen) + self._weighted(rejected)
        return total, jnp.sum(chosen.weights_BL) + jnp.sum(rejected.weights_BL)

    def _weighted(self, side: Read) -> jax.Array:
        return -jnp.sum(jnp.exp(-side.toxicity_B / self.temperature) * side.log_likelihood_B)
