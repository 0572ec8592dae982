"""Cross-entropy of next-token prediction."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def cross_entropy(
    logits_BLV: jax.Array, targets_BL: jax.Array, weights_BL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sums of the weighted negative log-likelihood, in nats, and of the weights.

    Sums instead of a mean, so that batches and hosts with different numbers of tokens add up.
    """
    losses_BL = optax.losses.softmax_cross_entropy_with_integer_labels(logits_BLV, targets_BL)
    weights_BL = weights_BL.astype(jnp.float32)
    return jnp.sum(losses_BL * weights_BL), jnp.sum(weights_BL)
