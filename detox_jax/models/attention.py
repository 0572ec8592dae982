"""Attention, its masks, and the key-value cache as pure functions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from detox_jax.models import blocks, edits, kernels
from detox_jax.models.adaptation import (
    Adaptation,
    BitFitConfig,
    LoRAConfig,
    LoReFTConfig,
    PrefixConfig,
)
from detox_jax.models.adaptation_modules import Prefix
from detox_jax.models.config import TransformerConfig
from detox_jax.models.layers import Dense, Norm, rotary_frequencies, rotate, softcap

CACHE_AXES = ("layers", "batch", "heads", "length", "kv")
_EVERYTHING = 2**30
# Numbers of a layer's keys at a position, up to which it takes longer to compile a way to each
# layer's own array than tiny models decode.
_NARROW = 128


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
class Cached:
    """A cache of all layers, see `cache_shapes`, and how much of it is read.

    It is not scanned like the parameters: what is scanned is taken off whole, and only then cut,
    and a compiler writes that down before it reads it.

    Attributes:
      keys: the cached keys, `[n, B, G / p, M, W]` each.
      values: the cached values, likewise.
      room: the first positions, which alone are read; all where None.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    room: int | None = struct.field(pytree_node=False, default=None)


@struct.dataclass
class OfLayer:
    """One layer's cached keys, or values, `[B, G / p, room, W]`, read where they lie.

    Attributes:
      arrays: of all layers, as `Cached` has them.
      number: of the layer, int32.
      room: see `Cached`.
    """

    arrays: tuple[jax.Array, ...]
    number: jax.Array
    room: int | None = struct.field(pytree_node=False, default=None)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of one layer's."""
        _, B, G, M, K = self.arrays[0].shape
        return B, G, self.room or M, K

    def scores(self, q_BLGNK: jax.Array) -> jax.Array:
        """Products of queries with keys, float32 `[B, G, N, L, M]`."""
        if len(self.arrays) == 1:
            return _scores(q_BLGNK, self._sliced())
        B, L, G, N, K = q_BLGNK.shape
        q_BGQK = q_BLGNK.transpose(0, 2, 3, 1, 4).reshape(B, G, N * L, K)
        return self._chosen(q_BGQK, 3, jnp.float32).reshape(B, G, N, L, -1)

    def weighed(self, weights_BGNLM: jax.Array) -> jax.Array:
        """Sums of values, `[B, L, G, N, K]`."""
        if len(self.arrays) == 1:
            return _weighed(weights_BGNLM, self._sliced())
        B, G, N, L, M = weights_BGNLM.shape
        out_BGQK = self._chosen(weights_BGNLM.reshape(B, G, N * L, M), 2, None)
        return out_BGQK.reshape(B, G, N, L, -1).transpose(0, 3, 1, 2, 4)

    def _sliced(self) -> jax.Array:
        start = (self.number, 0, 0, 0, 0)
        return jax.lax.dynamic_slice(self.arrays[0], start, (1, *self.shape))[0]

    def _chosen(self, x: jax.Array, axis: int, dtype: Any) -> jax.Array:
        """Products of the last axis of `[B, G, Q, I]` with an axis of the layer's own array."""
        B, G, Q, _ = x.shape
        # In the layout of the product, so that a layer's way is the product and nothing else.
        x = x[:, :, 0] if Q == 1 else x

        def product(array: jax.Array) -> jax.Array:
            dimensions = ((x.ndim - 1,), (axis,)), ((0, 1), (0, 1))
            of_layer = array[0, :, :, : self.room]
            return jax.lax.dot_general(x, of_layer, dimensions, preferred_element_type=dtype)

        ways = [functools.partial(product, array) for array in self.arrays]
        return jax.lax.switch(self.number, ways).reshape(B, G, Q, -1)


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

    Heads may stand side by side in the last axis, as in a cache, see `cache_shape`: `[B, G /
    p, M, p K]`, or more than `p K`, of which the rest is zero.
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
        scores = _scores(placed, keys_BGMK).reshape(B, G, H // G, L, -1)
        scores = softcap(scores * (K**-0.5 if scale is None else scale), cap)
        return jnp.where(part.mask_BLM[:, None, None], scores, jnp.finfo(jnp.float32).min)

    scores = jnp.concatenate([score(part) for part in parts], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1).astype(q_BLHK.dtype)
    ends = np.cumsum([part.mask_BLM.shape[-1] for part in parts])

    def weigh(weights_BGNLM: jax.Array, values_BGMK: jax.Array | OfLayer) -> jax.Array:
        by_group = weights_BGNLM.reshape(B, values_BGMK.shape[1], -1, *weights_BGNLM.shape[-2:])
        return _taken(_weighed(by_group, values_BGMK), G, K)

    outs_BLGNK = [
        weigh(weights_part, part.values_BGMK)
        for weights_part, part in zip(jnp.split(weights, ends[:-1], axis=-1), parts, strict=True)
    ]
    return functools.reduce(jnp.add, outs_BLGNK).reshape(B, L, H, K)


def _scores(q_BLGNK: jax.Array, keys_BGMK: jax.Array | OfLayer) -> jax.Array:
    if isinstance(keys_BGMK, OfLayer):
        return keys_BGMK.scores(q_BLGNK)
    return jnp.einsum("BLGNK,BGMK->BGNLM", q_BLGNK, keys_BGMK, preferred_element_type=jnp.float32)


def _weighed(weights_BGNLM: jax.Array, values_BGMK: jax.Array | OfLayer) -> jax.Array:
    if isinstance(values_BGMK, OfLayer):
        return values_BGMK.weighed(weights_BGNLM)
    return jnp.einsum("BGNLM,BGMK->BLGNK", weights_BGNLM, values_BGMK)


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


def cache_shapes(cfg: TransformerConfig, B: int, M: int) -> list[tuple[int, int, int, int, int]]:
    """Of the cached keys of all layers, or values: `[n, B, G / p, M, W]`, n of N layers in each.

    One array has them all, but on CPU, where each layer has its own, unless its keys are narrow: to
    attend to a part of an array, XLA copies that part there, which takes as long as to attend.

    Elsewhere than on TPU p is 1 and W the size of a head. A TPU has the last axis in the 128 lanes
    of its registers; of narrower heads its compiler would rather have another axis there, and then
    copies all of the cache several times a step, to scatter into it and to attend to it. So p heads
    of a device stand side by side, as many as fit and divide them, and behind them zeros.

    Args:
      cfg: of the model.
      B: rows.
      M: positions.
    """
    groups, width = cfg.kv_heads, cfg.head_size
    if width < kernels.LANES and kernels.platform_in_use() == "tpu":
        of_device = groups // kernels.parts_of_heads()
        groups //= max(p for p in range(1, kernels.LANES // width + 1) if of_device % p == 0)
        width = kernels.LANES
    apart = kernels.platform_in_use() == "cpu" and cfg.kv_heads * cfg.head_size > _NARROW
    number = cfg.num_layers if apart else 1
    return [(cfg.num_layers // number, B, groups, M, width)] * number


def to_cache(new_NBLGK: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Keys or values of positions as a cache of a shape holds them, `[N, B, G / p, L, W]`."""
    N, B, L, G, K = new_NBLGK.shape
    groups, width = shape[2], shape[4]
    side_by_side = new_NBLGK.reshape(N, B, L, groups, G // groups * K)
    padding = width - side_by_side.shape[-1]
    if padding:
        side_by_side = jnp.pad(side_by_side, [*[(0, 0)] * 4, (0, padding)])
    return side_by_side.swapaxes(2, 3)


def extend_cache(cache_NBGMK: jax.Array, new_NB1GK: jax.Array, index_B: jax.Array) -> jax.Array:
    """Puts one position's keys or values of all layers at each row's own index."""
    new_NBGK = to_cache(new_NB1GK, cache_NBGMK.shape)[:, :, :, 0].astype(cache_NBGMK.dtype)
    return _put(cache_NBGMK, new_NBGK, index_B)


@jax.custom_batching.custom_vmap
def _put(cache_NBGMK: jax.Array, new_NBGK: jax.Array, index_B: jax.Array) -> jax.Array:
    return _scattered(cache_NBGMK, new_NBGK, index_B)


@_put.def_vmap
def _put_many(number: int, are_many: Sequence[bool], *arrays: jax.Array) -> tuple[jax.Array, bool]:
    """The same of many models, whose axis lies behind that of the layers, as the scan over these
    reads it. A scatter's own rule would move it to the front, which copies all caches.
    """
    many = [
        array if is_many else jnp.broadcast_to(array, (number, *array.shape))
        for array, is_many in zip(arrays, are_many, strict=True)
    ]
    cache_NmBGMK, new_NmBGK = (jnp.moveaxis(array, 0, 1) for array in many[:2])
    return jnp.moveaxis(_scattered(cache_NmBGMK, new_NmBGK, many[2]), 1, 0), True


def _scattered(cache: jax.Array, new: jax.Array, index: jax.Array) -> jax.Array:
    """`_put`; between layers and rows there may be an axis, which `index` has in front."""
    # A scatter, which a loop does in place. Layers, rows and heads are batches of it: they stay
    # sharded, and compilers keep the layout in which attention reads the cache.
    batches = tuple(range(cache.ndim - 2))
    length = (len(batches),)
    dimensions = jax.lax.ScatterDimensionNumbers(
        update_window_dims=length,
        inserted_window_dims=length,
        scatter_dims_to_operand_dims=length,
        operand_batching_dims=batches,
        scatter_indices_batching_dims=batches,
    )
    index = jnp.broadcast_to(index[..., None, None], (*new.shape[:-1], 1))
    return jax.lax.scatter(cache, index, new, dimensions, unique_indices=True)


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
                out_BLHK = blocks.with_gradient_in_blocks(plain, q_BLHK, k_BLGK, v_BLGK, mask_BLM)
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
