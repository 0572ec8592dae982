"""Unlikelihood: the good half is learnt, and the tokens of the bad half are unlearnt."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from detox_jax.kinds import Coefficient
from detox_jax.training.pair_objective import PairObjective, Read, Sum


@dataclasses.dataclass(frozen=True)
class Unlikelihood(PairObjective):
    """-log p of good targets and -log(1 - p) of bad ones, a mean over the tokens of both.

    1 - p is the probability of all other tokens, summed as such: unlike published code it needs no
    clamp, and a token that is all but certain still has a gradient (Welleck et al., 2020).

    Attributes:
      alpha: by how much a bad token counts more than a good one.
    """

    alpha: Coefficient = 1.0

    by_token: ClassVar[bool] = True

    def of_pairs(self, chosen: Read, rejected: Read, weights_B: jax.Array) -> Sum:
        """See `PairObjective`; `weights_B` is in the sides' own weights."""
        del weights_B
        good = -jnp.sum(chosen.log_probs_BL * chosen.weights_BL)
        bad = -jnp.sum(rejected.log_others_BL * rejected.weights_BL)
        tokens = jnp.sum(chosen.weights_BL) + jnp.sum(rejected.weights_BL)
        return good + self.alpha * bad, tokens
