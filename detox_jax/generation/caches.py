"""A network's caches: empty ones, and what the network says while it fills one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from detox_jax.models.edits import RECORDED, Edit, recorded
from detox_jax.models.transformer import TransformerLM


def empty(model: TransformerLM, params: Any, rows: int, positions: int) -> Any:
    """A cache in which nothing is filled; its leaves have rows at axis 1."""
    shapes = jax.eval_shape(
        lambda tokens: model.apply(
            {"params": params}, tokens, decode=True, enable_dropout=False, mutable=["cache"]
        )[1]["cache"],
        jax.ShapeDtypeStruct((rows, positions), jnp.int32),
    )
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def apply(
    model: TransformerLM,
    params: Any,
    cache: Any,
    tokens_BL: jax.Array,
    edits: Sequence[Edit] = (),
    **how: Any,
) -> tuple[jax.Array, Any]:
    """The network's logits and the cache after them.

    Args:
      model: the network.
      params: of the network.
      cache: of `empty`, or of the call before.
      tokens_BL: ids that come next.
      edits: of hidden states.
      **how: `decode`, or `prefill` with `prefill_lengths`.
    """
    if edits:
        how["edits"] = edits
    logits_BLV, variables = _called(model, params, cache, tokens_BL, ["cache"], how)
    return logits_BLV, variables["cache"]


def apply_recording(
    model: TransformerLM, params: Any, cache: Any, tokens_BL: jax.Array, **how: Any
) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
    """The same without edits, and the hidden states of every site, see `edits.recorded`."""
    logits_BLV, variables = _called(model, params, cache, tokens_BL, ["cache", RECORDED], how)
    return logits_BLV, variables["cache"], recorded(variables)


def _called(
    model: TransformerLM,
    params: Any,
    cache: Any,
    tokens_BL: jax.Array,
    mutable: list[str],
    how: Mapping[str, Any],
) -> tuple[jax.Array, Any]:
    return model.apply(
        {"params": params, "cache": cache},
        tokens_BL,
        enable_dropout=False,
        mutable=mutable,
        **how,
    )
