"""Cross-entropy of next-token prediction, and of labels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from detox_jax.models import transformer


def cross_entropy(
    logits_BLV: jax.Array, targets_BL: jax.Array, weights_BL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sums of the weighted negative log-likelihood, in nats, and of the weights.

    Sums instead of a mean, so that batches and hosts with different numbers of tokens add up.
    """
    losses_BL = _negative_log_likelihood(logits_BLV, targets_BL)
    weights_BL = weights_BL.astype(jnp.float32)
    return jnp.sum(losses_BL * weights_BL), jnp.sum(weights_BL)


@jax.custom_vjp
def _negative_log_likelihood(logits_BLV: jax.Array, targets_BL: jax.Array) -> jax.Array:
    """Of each target, in nats; the way back is one pass over the logits.

    JAX's own derivative keeps the exponentials of all logits, and scatters the targets' share into
    another array of their size: five passes over what no cache holds.
    """
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits_BLV, targets_BL)


def _nll_forward(logits_BLV: jax.Array, targets_BL: jax.Array) -> tuple[jax.Array, Any]:
    largest_BL1 = jnp.max(logits_BLV, axis=-1, keepdims=True)
    sums_BL1 = jnp.sum(jnp.exp(logits_BLV - largest_BL1), axis=-1, keepdims=True)
    picked_BL1 = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)
    losses_BL1 = jnp.log(sums_BL1) + largest_BL1 - picked_BL1
    return losses_BL1[..., 0], (logits_BLV, targets_BL, largest_BL1, sums_BL1)


def _nll_backward(saved: Any, gradient_BL: jax.Array) -> tuple[jax.Array, None]:
    # Else XLA takes the exponentials of the way forth, and keeps them as JAX would.
    saved, gradient_BL = jax.lax.optimization_barrier((saved, gradient_BL))
    logits_BLV, targets_BL, largest_BL1, sums_BL1 = saved
    gradient_BL1 = gradient_BL[..., None]
    shares_BLV = jnp.exp(logits_BLV - largest_BL1) * (gradient_BL1 / sums_BL1)
    is_target_BLV = jnp.arange(logits_BLV.shape[-1]) == targets_BL[..., None]
    return jnp.where(is_target_BLV, shares_BLV - gradient_BL1, shares_BLV), None


_negative_log_likelihood.defvjp(_nll_forward, _nll_backward)


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


def growing_squared_error(
    values_BL: jax.Array, targets_B: jax.Array, is_text_BL: jax.Array, weights_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sums over texts of the squared error at every position, and of the texts' weights.

    Of a text of n tokens, token t (from 1) counts `2 t / (n (n + 1))`: what has read more should
    know more (Deng and Raffel, 2023, RAD).

    Args:
      values_BL: what is predicted behind each token.
      targets_B: of the whole texts.
      is_text_BL: which tokens are no padding; padding stands on the right.
      weights_B: of the texts.
    """
    place_BL = jnp.cumsum(is_text_BL, axis=-1) * is_text_BL
    n_B1 = jnp.sum(is_text_BL, axis=-1, keepdims=True)
    share_BL = 2 * place_BL / jnp.maximum(n_B1 * (n_B1 + 1), 1)
    errors_B = jnp.sum(share_BL * (values_BL - targets_B[:, None]) ** 2, axis=-1)
    weights_B = weights_B.astype(jnp.float32)
    return jnp.sum(errors_B * weights_B), jnp.sum(weights_B)


def chunked_cross_entropy(
    logits_of: Callable[[jax.Array], jax.Array],
    x_BLD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    chunk: int,
) -> tuple[jax.Array, jax.Array]:
    """`cross_entropy` of `logits_of(x_BLD)` without ever holding more than a chunk of the logits.

    Args:
      logits_of: from `[B, chunk, D]` to `[B, chunk, V]`; the backward pass calls it again.
      x_BLD: final hidden states.
      targets_BL: ids.
      weights_BL: of the targets.
      chunk: positions of each row at once; the rows stay whole, as the mesh splits them.
    """

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def add(sums: Any, part: Any) -> Any:
        x_BCD, targets_BC, weights_BC = part
        new = cross_entropy(logits_of(x_BCD), targets_BC, weights_BC)
        return (sums[0] + new[0], sums[1] + new[1]), None

    zero = jnp.zeros((), jnp.float32)
    parts = tuple(split_positions(x, chunk) for x in (x_BLD, targets_BL, weights_BL))
    sums, _ = jax.lax.scan(add, (zero, zero), parts)
    return sums


def split_positions(x_BL: jax.Array, chunk: int) -> jax.Array:
    """Chunks of positions for a scan, `[N, B, chunk, ...]`; zeros fill the last one."""
    padding = -x_BL.shape[1] % chunk
    x_BL = jnp.pad(x_BL, [(0, 0), (0, padding), *[(0, 0)] * (x_BL.ndim - 2)])
    return x_BL.reshape(x_BL.shape[0], -1, chunk, *x_BL.shape[2:]).swapaxes(0, 1)


def next_token_loss(
    model: transformer.TransformerLM,
    params: Any,
    inputs_BL: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    *,
    chunk: int | None,
    **options: Any,
) -> tuple[jax.Array, jax.Array]:
    """`cross_entropy` of a model's predictions.

    Args:
      model: the network.
      params: its parameters.
      inputs_BL: ids.
      targets_BL: ids that follow them.
      weights_BL: of the targets.
      chunk: positions of a row whose logits exist at once; all where None.
      **options: of the model's call.
    """
    variables = {"params": params}
    if chunk is None or chunk >= inputs_BL.shape[1]:
        logits_BLV: Any = model.apply(variables, inputs_BL, **options)
        return cross_entropy(logits_BLV, targets_BL, weights_BL)
    x_BLD: Any = model.apply(variables, inputs_BL, with_logits=False, **options)
    logits_of = transformer.logits_in_chunks(model.config, params)
    return chunked_cross_entropy(logits_of, x_BLD, targets_BL, weights_BL, chunk)
