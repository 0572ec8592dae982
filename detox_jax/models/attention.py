"""Attention and its masks as pure functions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from detox_jax.models import blocks, edits, kernels, kv_cache
from detox_jax.models.adaptation import (
    Adaptation,
    BitFitConfig,
    LoRAConfig,
    LoReFTConfig,
    PrefixConfig,
)
from detox_jax.models.adaptation_modules import Prefix
from detox_jax.models.config import TransformerConfig
from detox_jax.models.kv_cache import Cached, OfLayer
from detox_jax.models.layers import Dense, Norm, rotary_frequencies, rotate, softcap

_EVERYTHING = 2**30


@struct.dataclass
class LayerData:
    """What may differ from layer to layer: arrays with a leading axis, which the scan takes off.

    Attributes:
      frequency_K: rotary radians a position; None with learned positions.
      window: int32, positions that a query sees; None where no layer of the model slides.
      number: int32, of the layer, by which it finds its part of a cache; None where there is none.
      edits: what changes hidden states, see `detox_jax.models.edits`.
      is_adapted: whether the adaptation acts in this layer; None where it does in all.
    """

    frequency_K: jax.Array | None = None
    window: jax.Array | None = None
    number: jax.Array | None = None
    edits: tuple[Any, ...] = ()
    is_adapted: jax.Array | None = None


@struct.dataclass
class Visibility:
    """Who sees whom in the input, the same in all layers.

    Attributes:
      mask_BLM: for plain attention; None where a kernel attends, which is causal by itself.
      segment_ids_BL: for a kernel: the document of each position; None where a row is one.
      in_blocks: whether plain attention goes block by block, see `blocks.in_blocks`.
      gradient_in_blocks: whether its gradient alone does, see `blocks.with_gradient_in_blocks`.
      cached: what is seen beside the input while decoding.
    """

    mask_BLM: jax.Array | None = None
    segment_ids_BL: jax.Array | None = None
    in_blocks: bool = struct.field(pytree_node=False, default=False)
    gradient_in_blocks: bool = struct.field(pytree_node=False, default=False)
    cached: Cached | None = None


@struct.dataclass
class KeyValues:
    """Keys, values, and which query may look at which: True in `mask_BLM` (B may be 1).

    Heads may stand side by side in the last axis, as in a cache, see `kv_cache.cache_shapes`:
    `[B, G / p, M, p K]`, or more than `p K`, of which the rest is zero.
    """

    keys_BGMK: jax.Array | OfLayer
    values_BGMK: jax.Array | OfLayer
    mask_BLM: jax.Array


def layer_data(cfg: TransformerConfig, adaptation: Adaptation | None = None) -> LayerData:
    """The data of all layers, stacked."""
    frequency_NK = window_N = adapted_N = None
    if isinstance(adaptation, LoReFTConfig) and adaptation.layers is not None:
        adapted_N = jnp.isin(jnp.arange(cfg.num_layers), jnp.asarray(adaptation.layers))
    if cfg.position_embedding == "rotary":
        frequency_NK = jnp.asarray(rotary_frequencies(cfg))
    if cfg.sliding_window is not None:
        windows = [cfg.sliding_window if slides else _EVERYTHING for slides in cfg.slides]
        window_N = jnp.asarray(windows, jnp.int32)
    return LayerData(frequency_K=frequency_NK, window=window_N, is_adapted=adapted_N)


def attend(
    q_BLHK: jax.Array,
    parts: Sequence[KeyValues],
    scale: float | None = None,
    cap: float | None = None,
) -> jax.Array:
    """Softmax attention, scores and softmax in float32; H/G query heads share a key-value head.

    Args:
      q_BLHK: queries.
      parts: what they attend to, together: the sequence itself, or the cache and the new position.
      scale: what scores are multiplied by; `K ** -0.5` where None.
      cap: of the scores, see `softcap`.

    Returns:
      The weighted values, `[B, L, H, K]`.
    """
    B, L, H, K = q_BLHK.shape
    G = parts[-1].keys_BGMK.shape[1]
    q_BLGNK = q_BLHK.reshape(B, L, G, H // G, K)

    def score(part: KeyValues) -> jax.Array:
        keys_BGMK = part.keys_BGMK
        placed = _placed(q_BLGNK, keys_BGMK.shape)
        scores = kv_cache.scores(placed, keys_BGMK).reshape(B, G, H // G, L, -1)
        scores = softcap(scores * (K**-0.5 if scale is None else scale), cap)
        return jnp.where(part.mask_BLM[:, None, None], scores, jnp.finfo(jnp.float32).min)

    scores = jnp.concatenate([score(part) for part in parts], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1).astype(q_BLHK.dtype)
    ends = np.cumsum([part.mask_BLM.shape[-1] for part in parts])

    def weigh(weights_BGNLM: jax.Array, values_BGMK: jax.Array | OfLayer) -> jax.Array:
        by_group = weights_BGNLM.reshape(B, values_BGMK.shape[1], -1, *weights_BGNLM.shape[-2:])
        return _taken(kv_cache.weighed(by_group, values_BGMK), G, K)

    outs_BLGNK = [
        weigh(weights_part, part.values_BGMK)
        for weights_part, part in zip(jnp.split(weights, ends[:-1], axis=-1), parts, strict=True)
    ]
    return functools.reduce(jnp.add, outs_BLGNK).reshape(B, L, H, K)


def _placed(q_BLGNK: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Queries for keys of a shape, which stand side by side: zero where other heads' keys are."""
    B, L, G, N, K = q_BLGNK.shape
    groups, width = shape[1], shape[3]
    if (groups, width) == (G, K):
        return q_BLGNK
    p = G // groups
    own = jnp.eye(p, dtype=q_BLGNK.dtype)[:, None, :, None]
    placed = (q_BLGNK.reshape(B, L, groups, p, N, 1, K) * own).reshape(B, L, groups, p * N, p * K)
    return jnp.pad(placed, [*[(0, 0)] * 4, (0, width - p * K)])


def _taken(out: jax.Array, G: int, K: int) -> jax.Array:
    """Of the weighted values of heads side by side, each head's own: `[B, L, G, N, K]`."""
    B, L, groups, rows, width = out.shape
    if (groups, width) == (G, K):
        return out
    p = G // groups
    by_place = out[..., : p * K].reshape(B, L, groups, p, rows // p, p, K)
    own = jnp.eye(p, dtype=out.dtype)[:, None, :, None]
    return jnp.sum(by_place * own, axis=-2).reshape(B, L, G, rows // p, K)


def training_mask(
    length: int, segment_ids_BL: jax.Array | None, bidirectional_BL: jax.Array | None
) -> jax.Array:
    """Causal mask `[B or 1, L, L]`; packed segments do not see each other.

    Args:
      length: L.
      segment_ids_BL: which document each position belongs to, 0 for padding.
      bidirectional_BL: 1 on a part in which every position sees every other (a prefix LM's inputs).
    """
    index = jnp.arange(length)
    mask_BLM = (index[:, None] >= index[None, :])[None]
    if bidirectional_BL is not None:
        both = bidirectional_BL.astype(bool)
        mask_BLM = mask_BLM | (both[:, :, None] & both[:, None, :])
    if segment_ids_BL is not None:
        mask_BLM = mask_BLM & (segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :])
    return mask_BLM


class Attention(nn.Module):
    """Multi-head self-attention, over its input or over the cache and one new position.

    Attributes:
      config: of the model.
      adaptation: LoRA and prefixes act here.
      kernel: what attends; plain attention where None.
    """

    config: TransformerConfig
    adaptation: Adaptation | None = None
    kernel: kernels.Kernel | None = None

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        visibility: Visibility,
        positions_BL: jax.Array,
        layer: LayerData,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Attends and projects back to `[B, L, D]`; also returns the keys and values of its input.

        Args:
          x_BLD: input; one position a row where `layer` holds a cache.
          visibility: who sees whom in the input.
          positions_BL: of the inputs; with a cache, how much of it each row has filled.
          layer: rotary frequencies, window, cache and edits of this layer.
        """
        cfg = self.config
        q_BLHK = self._project("query", cfg.num_heads)(x_BLD)
        k_BLGK = self._project("key", cfg.kv_heads)(x_BLD)
        v_BLGK = self._project("value", cfg.kv_heads)(x_BLD)
        if cfg.qk_norm:
            q_BLHK = Norm(cfg, "rmsnorm", "kv", name="query_norm")(q_BLHK)
            k_BLGK = Norm(cfg, "rmsnorm", "kv", name="key_norm")(k_BLGK)
        if layer.frequency_K is not None:
            q_BLHK = rotate(q_BLHK, positions_BL, layer.frequency_K)
            k_BLGK = rotate(k_BLGK, positions_BL, layer.frequency_K)
        if self.kernel is not None:
            ids_BL = visibility.segment_ids_BL
            out_BLHK = self.kernel.attend(q_BLHK, k_BLGK, v_BLGK, ids_BL)
        else:
            assert visibility.mask_BLM is not None
            mask_BLM = _within_window(visibility.mask_BLM, positions_BL, layer)
            plain = functools.partial(self._plain, _cached(positions_BL, layer, visibility.cached))
            if visibility.in_blocks:
                out_BLHK = blocks.in_blocks(plain, q_BLHK, k_BLGK, v_BLGK, mask_BLM)
            elif visibility.gradient_in_blocks:
                scores = blocks.Scores(cfg.attention_scale, cfg.attention_softcap)
                arrays = (q_BLHK, k_BLGK, v_BLGK, mask_BLM)
                out_BLHK = blocks.with_gradient_in_blocks(plain, scores, *arrays)
            else:
                out_BLHK = plain(q_BLHK, k_BLGK, v_BLGK, mask_BLM)
        if isinstance(self.adaptation, PrefixConfig):
            out_BLHK = out_BLHK + Prefix(cfg, self.adaptation, name="prefix")(q_BLHK)
        out_BLHK = edits.pass_through(self, edits.HEADS, out_BLHK, layer.edits)
        out_BLD = Dense(
            cfg,
            (cfg.num_heads, cfg.head_size),
            (cfg.emb_dim,),
            ("heads", "kv"),
            ("embed",),
            residual=True,
            use_bias=cfg.has_bias("out"),
            lora=lora_for("out", self.adaptation),
            bitfit=isinstance(self.adaptation, BitFitConfig),
            name="out",
        )(out_BLHK)
        return out_BLD, (k_BLGK, v_BLGK)

    def _plain(
        self,
        cached: list[KeyValues],
        q_BLHK: jax.Array,
        k_BLGK: jax.Array,
        v_BLGK: jax.Array,
        mask_BLM: jax.Array,
    ) -> jax.Array:
        itself = KeyValues(k_BLGK.swapaxes(1, 2), v_BLGK.swapaxes(1, 2), mask_BLM)
        cfg = self.config
        return attend(q_BLHK, [*cached, itself], cfg.attention_scale, cfg.attention_softcap)

    def _project(self, name: str, heads: int) -> Dense:
        cfg = self.config
        return Dense(
            cfg,
            (cfg.emb_dim,),
            (heads, cfg.head_size),
            ("embed",),
            ("heads", "kv"),
            use_bias=cfg.has_bias("qkv"),
            lora=lora_for(name, self.adaptation),
            bitfit=isinstance(self.adaptation, BitFitConfig),
            name=name,
        )


def _within_window(mask_BLM: jax.Array, positions_BL: jax.Array, layer: LayerData) -> jax.Array:
    """The mask of an input, without what the layer's window leaves out."""
    if layer.window is None:
        return mask_BLM
    distance_BLM = positions_BL[:, :, None] - positions_BL[:, None, :]
    return mask_BLM & (distance_BLM < layer.window)


def _cached(positions_BL: jax.Array, layer: LayerData, cached: Cached | None) -> list[KeyValues]:
    """What is filled of the cache, if there is one."""
    if cached is None:
        return []
    assert layer.number is not None
    keys, values = (
        OfLayer(arrays, layer.number, cached.room) for arrays in (cached.keys, cached.values)
    )
    index_M = jnp.arange(keys.shape[2])
    filled_BLM = index_M[None, None, :] < positions_BL[:, :, None]
    if layer.window is not None:
        distance_BLM = positions_BL[:, :, None] - index_M[None, None, :]
        filled_BLM = filled_BLM & (distance_BLM < layer.window)
    return [KeyValues(keys, values, filled_BLM)]


def lora_for(name: str, adaptation: Adaptation | None) -> LoRAConfig | None:
    """The LoRA config of the projection `name`, if it has one."""
    if isinstance(adaptation, LoRAConfig) and name in adaptation.target_modules:
        return adaptation
    return None
