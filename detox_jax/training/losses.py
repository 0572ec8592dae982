"""Cross-entropy of next-token prediction, and of labels."""

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


def binary_cross_entropy(
    logits_BC: jax.Array, labels_BC: jax.Array, weights_B: jax.Array, positive_weight: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Sums over texts and labels of the weighted cross-entropy, in nats, and of the weights.

    Args:
      logits_BC: of the labels being true.
      labels_BC: shares of raters from 0 to 1.
      weights_B: of the texts.
      positive_weight: by how much a label that is true counts more than one that is not.
    """
    losses_BC = -positive_weight * labels_BC * jax.nn.log_sigmoid(logits_BC)
    losses_BC -= (1 - labels_BC) * jax.nn.log_sigmoid(-logits_BC)
    weights_BC = jnp.broadcast_to(weights_B[:, None].astype(jnp.float32), losses_BC.shape)
    return jnp.sum(losses_BC * weights_BC), jnp.sum(weights_BC)
