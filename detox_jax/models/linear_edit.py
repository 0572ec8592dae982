"""LM-Steer (Han et al., 2024): a trained map of low rank moves the final hidden state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from detox_jax.models import edits

FILE = "linear.npz"  # in which `train_linear` leaves both matrices
# Switches: of what is to be clean, and of the domain of the text that the map is trained on.
SWITCHES = ("clean", "domain")


def moved(h: jax.Array, down_SDR: jax.Array, up_SDR: jax.Array, switch: jax.Array) -> jax.Array:
    """`h + sum_s switch_s up_s down_s' h`.

    Args:
      h: states `[..., D]`.
      down_SDR: P1, of each switch.
      up_SDR: P2, of each switch, the published epsilon in it.
      switch: `[..., S]`, as far as it differs between states.
    """
    read = jnp.einsum("...D,SDR->...SR", h, down_SDR) * switch[..., None]
    return h + jnp.einsum("...SR,SDR->...D", read, up_SDR)


@struct.dataclass
class LinearEdit:
    """The edit of the final hidden states, see `moved`; in float32."""

    down_SDR: jax.Array
    up_SDR: jax.Array
    switch: jax.Array
    site: str = struct.field(pytree_node=False, default=edits.FINAL)

    @classmethod
    def of(cls, arrays: Mapping[str, Any], switch: jax.Array) -> LinearEdit:
        """The edit of the arrays `down` and `up`."""
        return cls(arrays["down"], arrays["up"], switch)

    def __call__(self, h: jax.Array) -> jax.Array:
        """See `Edit`."""
        x = moved(h.astype(jnp.float32), self.down_SDR, self.up_SDR, self.switch)
        return x.astype(h.dtype)
