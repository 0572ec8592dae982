"""What a model makes of each target of a batch: the figures that objectives are sums of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from detox_jax.models import transformer
from detox_jax.training import base_model, losses


@struct.dataclass
class PerTarget:
    """Figures of the targets of a batch, in nats.

    Attributes:
      log_probs_BL: log p(target).
      log_others_BL: log(1 - p(target)), of all other tokens together.
      kl_BL: KL(model || base) of the distributions that a target is drawn from; None without base.
      entropy_BL: of the model's distribution; None where it is not asked for.
    """

    log_probs_BL: jax.Array
    log_others_BL: jax.Array
    kl_BL: jax.Array | None
    entropy_BL: jax.Array | None = None


def per_target(
    model: Any,
    params: Any,
    inputs_BL: jax.Array,
    targets_BL: jax.Array,
    *,
    with_base: bool,
    dropout_key: jax.Array | None,
    with_entropy: bool = False,
    **options: Any,
) -> PerTarget:
    """Reads a batch, with the base beside the model where it is asked for.

    Args:
      model: the network.
      params: its parameters, and what `base_model.held` holds.
      inputs_BL: ids.
      targets_BL: ids that follow them.
      with_base: also read the base, and compare.
      dropout_key: None where there is no dropout; the base never has any.
      with_entropy: also take the entropy of each distribution.
      **options: of the model's call.
    """
    own = base_model.without_base(params)
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    networks = [(model, own, {"enable_dropout": dropout_key is not None, "rngs": rngs})]
    if with_base:
        base, base_params = base_model.of(model, params)
        networks.append((base, jax.lax.stop_gradient(base_params), {"enable_dropout": False}))
    chunk = losses.positions_at_once(model.config.logits_chunk, *inputs_BL.shape)
    if chunk is None:
        logits = [
            network.apply({"params": tree}, inputs_BL, **call, **options)
            for network, tree, call in networks
        ]
        return compared(logits, targets_BL, with_entropy)
    states, logits_of = [], []
    for network, tree, call in networks:
        states.append(
            network.apply({"params": tree}, inputs_BL, with_logits=False, **call, **options)
        )
        logits_of.append(transformer.logits_in_chunks(network.config, tree, network.vocab_size))
    return _in_chunks(logits_of, states, targets_BL, chunk, with_entropy)


def compared(
    logits: Sequence[jax.Array], targets_BL: jax.Array, with_entropy: bool = False
) -> PerTarget:
    """The figures of logits.

    Args:
      logits: `[B, L, V]` of the model, and of its base where there is one.
      targets_BL: ids.
      with_entropy: also take the model's entropy.
    """
    logits_BLV = logits[0]
    target_BL1 = targets_BL[..., None]
    total_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    log_probs_BL = jnp.take_along_axis(logits_BLV, target_BL1, axis=-1)[..., 0] - total_BL
    # Not log1p(-p): where a target is nearly certain, its gradient is that of 1 / 0.
    is_target_BLV = jnp.arange(logits_BLV.shape[-1]) == target_BL1
    others_BL = jax.nn.logsumexp(jnp.where(is_target_BLV, -jnp.inf, logits_BLV), axis=-1)
    kl_BL = None
    if len(logits) > 1:
        base_BLV = jax.nn.log_softmax(logits[1], axis=-1)
        own_BLV = jax.nn.log_softmax(logits_BLV, axis=-1)
        kl_BL = jnp.sum(jnp.exp(own_BLV) * (own_BLV - base_BLV), axis=-1)
    entropy_BL = None
    if with_entropy:
        own_BLV = jax.nn.log_softmax(logits_BLV, axis=-1)
        # What has no probability, as padding of the vocabulary, adds nothing and has no gradient.
        finite_BLV = jnp.where(jnp.isfinite(own_BLV), own_BLV, 0.0)
        entropy_BL = -jnp.sum(jnp.exp(own_BLV) * finite_BLV, axis=-1)
    return PerTarget(log_probs_BL, others_BL - total_BL, kl_BL, entropy_BL)


def _in_chunks(
    logits_of: Sequence[Callable[[jax.Array], jax.Array]],
    states: Sequence[jax.Array],
    targets_BL: jax.Array,
    chunk: int,
    with_entropy: bool,
) -> PerTarget:
    """`compared`, without ever holding more than a chunk of positions of the logits."""
    B, L = targets_BL.shape

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def read(_: None, part: Any) -> Any:
        *parts, targets_BC = part
        logits = [f(x) for f, x in zip(logits_of, parts, strict=True)]
        return None, compared(logits, targets_BC, with_entropy)

    parts = tuple(losses.split_positions(x, chunk) for x in (*states, targets_BL))
    _, found = jax.lax.scan(read, None, parts)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(B, -1)[:, :L], found)
