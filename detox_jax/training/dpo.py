"""DPO: the chosen side is to become likelier than the rejected one, against the base."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from detox_jax.kinds import Positive
from detox_jax.training.pair_objective import PairObjective, Read, Sum


@dataclasses.dataclass(frozen=True)
class Preference(PairObjective):
    """-log sigmoid(beta * margin), a mean over pairs (Rafailov et al., 2023).

    The margin is that of the log-likelihoods of both sides, sums over their tokens, beyond the
    margin that the base has: its likelihoods come with the pairs, from the verb `pair`.

    Attributes:
      beta: how sharply margins count; the smaller, the further the model goes from its base.
      length_normalized: mean log-likelihoods of a token in place of sums: no longer DPO.
      reference_free: the margin itself, not beyond the base's: no longer DPO, and needs no
        likelihoods in the pairs. With `length_normalized` it is SimPO's without its offset.
    """

    beta: Positive = 0.1
    length_normalized: bool = False
    reference_free: bool = False

    def needs_reference(self) -> bool:
        """See `PairObjective`."""
        return not self.reference_free

    def of_pairs(self, chosen: Read, rejected: Read, weights_B: jax.Array) -> Sum:
        """See `PairObjective`."""
        margin_B = self._reward(chosen) - self._reward(rejected)
        # Two equal sides teach nothing. Their gradients cancel, but for the last bits, of which
        # Adam would make a step.
        same_BL = chosen.targets_BL == rejected.targets_BL
        same_BL &= chosen.weights_BL == rejected.weights_BL
        is_equal_B = jnp.all(same_BL, axis=-1)
        margin_B = jnp.where(is_equal_B, jax.lax.stop_gradient(margin_B), margin_B)
        losses_B = -jax.nn.log_sigmoid(self.beta * margin_B)
        return jnp.sum(losses_B * weights_B), jnp.sum(weights_B)

    def _reward(self, side: Read) -> jax.Array:
        reward_B = side.log_likelihood_B
        if not self.reference_free:
            reward_B = reward_B - side.reference_B
        return reward_B / side.tokens_B if self.length_normalized else reward_B
