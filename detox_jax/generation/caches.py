"""A network's caches: empty ones, and what the network says while it fills one."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from detox_jax.models import kernels, kv_cache
from detox_jax.models.edits import RECORDED, Edit, recorded
from detox_jax.models.transformer import TransformerLM


def empty(model: TransformerLM, params: Any, rows: int, positions: int) -> Any:
    """A cache in which nothing is filled; its leaves have rows at axis 1."""
    leaves, structure = jax.tree.flatten(params)
    heads = tuple((leaf.shape, jnp.dtype(leaf.dtype)) for leaf in leaves)
    hashable: Any = model  # Modules of Flax are, though their types do not say so.
    layout = (kernels.platform_in_use(), kernels.parts_of_heads(), kv_cache.is_apart(model.config))
    shapes = _shapes(hashable, structure, heads, rows, positions, layout)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


@functools.lru_cache(maxsize=64)
def _shapes(
    model: TransformerLM,
    structure: Any,
    heads: tuple[tuple[tuple[int, ...], Any], ...],
    rows: int,
    positions: int,
    layout: tuple[str, int, bool],
) -> Any:
    """The cache's, which decoding asks for again and again: each time it traces the whole network.

    Args:
      model: the network.
      structure: the tree of its parameters.
      heads: shape and dtype of each.
      rows: of the cache.
      positions: of each row.
      layout: what decides how a cache lies, beside the network: the platform, the parts of heads,
        whether each layer has its own.
    """
    params = structure.unflatten(jax.ShapeDtypeStruct(*head) for head in heads)
    return jax.eval_shape(
        lambda params, tokens: model.apply(
            {"params": params}, tokens, decode=True, enable_dropout=False, mutable=["cache"]
        )[1]["cache"],
        params,
        jax.ShapeDtypeStruct((rows, positions), jnp.int32),
    )


def apply(
    model: TransformerLM,
    params: Any,
    cache: Any,
    tokens_BL: jax.Array,
    edits: Sequence[Edit] = (),
    collections: Mapping[str, Any] | None = None,
    **how: Any,
) -> tuple[jax.Array, Any]:
    """The network's logits and the cache after them.

    Args:
      model: the network.
      params: of the network.
      cache: of `empty`, or of the call before.
      tokens_BL: ids that come next.
      edits: of hidden states.
      collections: of variables beside the parameters, see `models.unstacked`.
      **how: `decode`, or `prefill` with `prefill_lengths`; `with_logits`, False for final states.
    """
    if edits:
        how["edits"] = edits
    beside = {"cache": cache, **(collections or {})}
    logits_BLV, variables = _called(model, params, beside, tokens_BL, ["cache"], how)
    return logits_BLV, variables["cache"]


def apply_recording(
    model: TransformerLM, params: Any, cache: Any, tokens_BL: jax.Array, **how: Any
) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
    """The same without edits, and the hidden states of every site, see `edits.recorded`."""
    mutable = ["cache", RECORDED]
    logits_BLV, variables = _called(model, params, {"cache": cache}, tokens_BL, mutable, how)
    return logits_BLV, variables["cache"], recorded(variables)


def _called(
    model: TransformerLM,
    params: Any,
    beside: Mapping[str, Any],
    tokens_BL: jax.Array,
    mutable: list[str],
    how: Mapping[str, Any],
) -> tuple[jax.Array, Any]:
    return model.apply(
        {"params": params, **beside},
        tokens_BL,
        enable_dropout=False,
        mutable=mutable,
        **how,
    )
