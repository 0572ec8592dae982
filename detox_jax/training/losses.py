"""Cross-entropy of next-token prediction, and of labels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from detox_jax.models import blocks, kernels, transformer

# Places of a batch whose logits a CPU makes at once: products want no more, caches hold no more.
_PLACES_ON_CPU = 256


def cross_entropy(
    logits: jax.Array | Sequence[jax.Array], targets_BL: jax.Array, weights_BL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sums of the weighted negative log-likelihood, in nats, and of the weights.

    Sums instead of a mean, so that batches and hosts with different numbers of tokens add up.

    Args:
      logits: `[B, L, V]`, or its blocks along V, one behind the other.
      targets_BL: ids.
      weights_BL: of the targets.
    """
    blocks_of: Any = list(logits) if isinstance(logits, list | tuple) else [logits]
    losses_BL = _negative_log_likelihood(blocks_of, targets_BL)
    weights_BL = weights_BL.astype(jnp.float32)
    return jnp.sum(losses_BL * weights_BL), jnp.sum(weights_BL)


@jax.custom_vjp
def _negative_log_likelihood(logits: Sequence[jax.Array], targets_BL: jax.Array) -> jax.Array:
    """Of each target, in nats; the way back is one pass over the logits.

    JAX's own derivative keeps the exponentials of all logits, and scatters the targets' share into
    another array of their size: five passes over what no cache holds.
    """
    return _nll_forward(logits, targets_BL)[0]


def _nll_forward(logits: Sequence[jax.Array], targets_BL: jax.Array) -> tuple[jax.Array, Any]:
    largest_BL1 = functools.reduce(
        jnp.maximum, [jnp.max(block, axis=-1, keepdims=True) for block in logits]
    )
    sums_BL1 = sum(
        jnp.sum(jnp.exp(block - largest_BL1), axis=-1, keepdims=True) for block in logits
    )
    picked_BL1 = sum(map(_picked, logits, _within(logits, targets_BL)))
    # An id that there is not is no number, which a training step notices.
    is_id_BL = (targets_BL >= 0) & (targets_BL < sum(block.shape[-1] for block in logits))
    picked_BL1 = jnp.where(is_id_BL[..., None], picked_BL1, jnp.nan)
    losses_BL1 = jnp.log(sums_BL1) + largest_BL1 - picked_BL1
    return losses_BL1[..., 0], (logits, targets_BL, largest_BL1, sums_BL1)


def _within(logits: Sequence[jax.Array], targets_BL: jax.Array) -> list[jax.Array]:
    """The targets' places in each block, `[B, L, 1]`; outside of it where they are in another."""
    firsts = np.cumsum([0, *(block.shape[-1] for block in logits[:-1])])
    return [targets_BL[..., None] - first for first in firsts.tolist()]


def _picked(block: jax.Array, place_BL1: jax.Array) -> jax.Array:
    """What stands at the places of a block, 0 where they are outside."""
    last = block.shape[-1] - 1
    picked_BL1 = jnp.take_along_axis(block, jnp.clip(place_BL1, 0, last), axis=-1)
    return jnp.where((place_BL1 >= 0) & (place_BL1 <= last), picked_BL1, 0)


def _nll_backward(saved: Any, gradient_BL: jax.Array) -> tuple[list[jax.Array], None]:
    # Else XLA takes the exponentials of the way forth, and keeps them as JAX would.
    saved, gradient_BL = jax.lax.optimization_barrier((saved, gradient_BL))
    logits, targets_BL, largest_BL1, sums_BL1 = saved
    gradient_BL1 = gradient_BL[..., None]

    def of_block(block: jax.Array, place_BL1: jax.Array) -> jax.Array:
        shares = jnp.exp(block - largest_BL1) * (gradient_BL1 / sums_BL1)
        return jnp.where(jnp.arange(block.shape[-1]) == place_BL1, shares - gradient_BL1, shares)

    return list(map(of_block, logits, _within(logits, targets_BL))), None


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
    counts_BL = is_text_BL.astype(jnp.int32)
    place_BL = jnp.cumsum(counts_BL, axis=-1) * counts_BL
    n_B1 = jnp.sum(counts_BL, axis=-1, keepdims=True, dtype=jnp.int32)
    share_BL = 2 * place_BL / jnp.maximum(n_B1 * (n_B1 + 1), 1)
    errors_B = jnp.sum(share_BL * (values_BL - targets_B[:, None]) ** 2, axis=-1)
    weights_B = weights_B.astype(jnp.float32)
    return jnp.sum(errors_B * weights_B), jnp.sum(weights_B)


def chunked_cross_entropy(
    logits_of: Callable[[jax.Array], jax.Array | Sequence[jax.Array]],
    x_BLD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    chunk: int,
) -> tuple[jax.Array, jax.Array]:
    """`cross_entropy` of `logits_of(x_BLD)` without ever holding more than a chunk of the logits.

    Where a gradient is asked for, it is made beside the loss, while a chunk's logits are there, so
    that no chunk is computed again on the way back: the loss is one number, and its gradient only
    waits to be multiplied (as in Liger Kernel's linear cross-entropy, Hsu et al., 2024).

    Args:
      logits_of: from `[B, chunk, D]` to `[B, chunk, V]`, or to blocks of that, see `cross_entropy`;
        what it closes over may have a gradient.
      x_BLD: final hidden states.
      targets_BL: ids.
      weights_BL: of the targets.
      chunk: positions of each row at once; the rows stay whole, as the mesh splits them.
    """
    weights_BL = weights_BL.astype(jnp.float32)
    x_NBCD, targets_NBC, weights_NBC = (
        split_positions(x, chunk) for x in (x_BLD, targets_BL, weights_BL)
    )
    # A table that is closed over becomes an argument, which a custom gradient needs it to be.
    logits_of, tables = jax.closure_convert(logits_of, x_NBCD[0])
    total: Any = _chunks_loss(logits_of, tables, x_NBCD, targets_NBC, weights_NBC)
    return total, jnp.sum(weights_BL)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunks_loss(
    logits_of: Callable[..., jax.Array | Sequence[jax.Array]],
    tables: Sequence[jax.Array],
    x_NBCD: jax.Array,
    targets_NBC: jax.Array,
    weights_NBC: jax.Array,
) -> jax.Array:
    def add(total: jax.Array, part: Any) -> tuple[jax.Array, None]:
        x_BCD, targets_BC, weights_BC = part
        return total + cross_entropy(logits_of(x_BCD, *tables), targets_BC, weights_BC)[0], None

    zero = jnp.zeros((), jnp.float32)
    return jax.lax.scan(add, zero, (x_NBCD, targets_NBC, weights_NBC))[0]


def _chunks_forward(
    logits_of: Callable[..., jax.Array | Sequence[jax.Array]],
    tables: Any,
    x_NBCD: Any,
    targets_NBC: Any,
    weights_NBC: Any,
) -> tuple[jax.Array, Any]:
    """The loss and its gradients; of a table that is not trained there is none to sum."""
    values = [table.value for table in tables]
    zeros = [
        jnp.zeros_like(table.value, blocks.dtype_of_sums(table.value)) if table.perturbed else None
        for table in tables
    ]

    def add(sums: Any, part: Any) -> Any:
        x_BCD, targets_BC, weights_BC = part

        def loss(x_BCD: jax.Array, weights_BC: jax.Array, *tables: jax.Array) -> jax.Array:
            return cross_entropy(logits_of(x_BCD, *tables), targets_BC, weights_BC)[0]

        new, pull = jax.vjp(loss, x_BCD, weights_BC, *values)
        dx_BCD, dweights_BC, *gradients = pull(jnp.ones_like(new))
        total, of_tables = sums
        of_tables = [
            None if so_far is None else so_far + gradient.astype(so_far.dtype)
            for so_far, gradient in zip(of_tables, gradients, strict=True)
        ]
        return (total + new, of_tables), (dx_BCD, dweights_BC)

    parts = (x_NBCD.value, targets_NBC.value, weights_NBC.value)
    (total, of_tables), of_parts = jax.lax.scan(add, (jnp.zeros((), jnp.float32), zeros), parts)
    of_tables = [
        None if gradient is None else gradient.astype(table.dtype)
        for gradient, table in zip(of_tables, values, strict=True)
    ]
    return total, (of_tables, *of_parts)


def _chunks_backward(_: Any, gradients: Any, factor: jax.Array) -> tuple[Any, Any, None, Any]:
    of_tables, dx_NBCD, dweights_NBC = jax.tree.map(
        lambda x: (x.astype(blocks.dtype_of_sums(x)) * factor).astype(x.dtype), gradients
    )
    return of_tables, dx_NBCD, None, dweights_NBC


_chunks_loss.defvjp(_chunks_forward, _chunks_backward, symbolic_zeros=True)


def positions_at_once(chunk: int | None, num_rows: int, length: int) -> int | None:
    """Of how many positions of each row logits exist at once; of all where None.

    At most `chunk`, and fewer on a CPU, where what is made of logits then stays in its caches
    (`benchmarks/loss_places.py`). Chunks are of one size, so that the last one is not mostly
    padding.

    Args:
      chunk: as configured; None where memory sets no bound.
      num_rows: of the batch, on all devices.
      length: of a row.
    """
    bound = length if chunk is None else chunk
    if kernels.platform_in_use() == "cpu":
        bound = min(bound, max(1, _PLACES_ON_CPU * kernels.parts_of_rows() // num_rows))
    if bound >= length:
        return None
    return -(-length // -(-length // bound))


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
      chunk: positions of a row whose logits exist at once, see `positions_at_once`.
      **options: of the model's call.
    """
    variables = {"params": params}
    chunk = positions_at_once(chunk, *inputs_BL.shape)
    if chunk is None:
        logits_BLV: Any = model.apply(variables, inputs_BL, **options)
        return cross_entropy(logits_BLV, targets_BL, weights_BL)
    x_BLD: Any = model.apply(variables, inputs_BL, with_logits=False, **options)
    logits_of = transformer.logits_in_blocks(model.config, params, model.vocab_size)
    return chunked_cross_entropy(logits_of, x_BLD, targets_BL, weights_BL, chunk)
