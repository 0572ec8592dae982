"""The objective of Quark: likelihood behind a class's tag, near to the base, not too certain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from detox_jax.checkpoints import params as params_lib
from detox_jax.kinds import Coefficient
from detox_jax.training.objective import LanguageModeling
from detox_jax.training.step import Batch


@dataclasses.dataclass(frozen=True)
class Quark(LanguageModeling):
    """-log p + `kl_to_base` KL(model || base) - `entropy` H(model), mean over tokens.

    Of documents behind tags (`tags.Tags`), which weigh nothing. Lu et al., 2022,
    https://arxiv.org/abs/2205.13636, section 2.3; the coefficients are those of its runs on
    toxicity.

    Attributes:
      use_cached: see `LanguageModeling`.
      kl_to_base: times the KL is added.
      entropy: times the entropy is taken away.
    """

    kl_to_base: Coefficient = 0.05
    entropy: Coefficient = 0.06

    @property
    def _wanted(self) -> dict[str, bool]:
        return {"with_base": self.reads_base(), "with_entropy": True}

    def loss(
        self, model: Any, params: params_lib.Params, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """See `Objective`: the sum in nats, and number of target tokens."""
        read, weights_BL = self._read(model, params, batch, dropout_key, **self._wanted)
        losses_BL = -read.log_probs_BL - self.entropy * read.entropy_BL
        if self.kl_to_base:
            losses_BL += self.kl_to_base * read.kl_BL
        return jnp.sum(losses_BL * weights_BL), jnp.sum(weights_BL)

    def figures(
        self, model: Any, params: params_lib.Params, batch: Batch
    ) -> Mapping[str, tuple[jax.Array, jax.Array]]:
        """Mean loss of a token, `nll_good`, its entropy, and with a KL that, in nats."""
        read, weights_BL = self._read(model, params, batch, None, **self._wanted)
        tokens = jnp.sum(weights_BL)
        figures = {"nll_good": -read.log_probs_BL, "entropy": read.entropy_BL}
        if self.kl_to_base:
            figures["kl_to_base"] = read.kl_BL
        return {name: (jnp.sum(x_BL * weights_BL), tokens) for name, x_BL in figures.items()}
