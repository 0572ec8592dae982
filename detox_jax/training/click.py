"""Click: good text is learnt, and bad text is held a margin below it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from detox_jax.kinds import Coefficient
from detox_jax.training.pair_objective import PairObjective, Read, Sum


@dataclasses.dataclass(frozen=True)
class Click(PairObjective):
    """NLL(chosen) / tokens + gamma * max(0, alpha + NLL(chosen) - NLL(rejected)), over pairs.

    As in the published code, what is learnt is a mean over the tokens of the chosen side, and the
    margin is of sums over tokens, which favour short rejected sides: match lengths (`pair` with
    LENGTH_RATIO). No reference is needed (Zheng et al., 2023).

    Attributes:
      alpha: by how many nats the rejected side is to be the less likely one.
      gamma: how much the margin counts beside the likelihood.
    """

    # For settings, see `output_settings.LEARNS`: a version before learnt the sum.
    learns: ClassVar[str] = "the mean over the chosen side's tokens"

    alpha: Coefficient = 20.0
    gamma: Coefficient = 0.5

    def of_pairs(self, chosen: Read, rejected: Read, weights_B: jax.Array) -> Sum:
        """See `PairObjective`."""
        margin_B = chosen.log_likelihood_B - rejected.log_likelihood_B
        hinge_B = jax.nn.relu(self.alpha - margin_B)
        losses_B = self.gamma * hinge_B - chosen.log_likelihood_B / chosen.tokens_B
        return jnp.sum(losses_B * weights_B), jnp.sum(weights_B)
