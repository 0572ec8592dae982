"""The cache of keys and values: how it lies in memory, how it is read, what is written into it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from detox_jax.models import kernels
from detox_jax.models.config import TransformerConfig

CACHE_AXES = ("layers", "batch", "heads", "length", "kv")
# Numbers of a layer's keys at a position, up to which it takes longer to compile a way to each
# layer's own array than tiny models decode.
_NARROW = 128


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
    number = cfg.num_layers if is_apart(cfg) else 1
    return [(cfg.num_layers // number, B, groups, M, width)] * number


def is_apart(cfg: TransformerConfig) -> bool:
    """Whether each layer's keys and values are arrays of their own, see `cache_shapes`."""
    return kernels.platform_in_use() == "cpu" and cfg.kv_heads * cfg.head_size > _NARROW


# --- read --------------------------------------------------------------------------------------


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
            return scores(q_BLGNK, self._sliced())
        B, L, G, N, K = q_BLGNK.shape
        q_BGQK = q_BLGNK.transpose(0, 2, 3, 1, 4).reshape(B, G, N * L, K)
        return self._chosen(q_BGQK, 3, jnp.float32).reshape(B, G, N, L, -1)

    def weighed(self, weights_BGNLM: jax.Array) -> jax.Array:
        """Sums of values, `[B, L, G, N, K]`."""
        if len(self.arrays) == 1:
            return weighed(weights_BGNLM, self._sliced())
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


def scores(q_BLGNK: jax.Array, keys_BGMK: jax.Array | OfLayer) -> jax.Array:
    """Products of queries with keys, float32 `[B, G, N, L, M]`."""
    if isinstance(keys_BGMK, OfLayer):
        return keys_BGMK.scores(q_BLGNK)
    return jnp.einsum("BLGNK,BGMK->BGNLM", q_BLGNK, keys_BGMK, preferred_element_type=jnp.float32)


def weighed(weights_BGNLM: jax.Array, values_BGMK: jax.Array | OfLayer) -> jax.Array:
    """Sums of values, `[B, L, G, N, K]`."""
    if isinstance(values_BGMK, OfLayer):
        return values_BGMK.weighed(weights_BGNLM)
    return jnp.einsum("BGNLM,BGMK->BLGNK", weights_BGNLM, values_BGMK)


# --- written -----------------------------------------------------------------------------------


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


@dataclasses.dataclass(frozen=True)
class CacheVariables:
    """The variables of the cache.

    Written once a call and outside of the scan over layers, which would copy all of it.
    """

    keys: list[Any]
    values: list[Any]
    index: Any

    @property
    def index_B(self) -> jax.Array:
        """How many positions of each row are filled."""
        return self.index.value[0]

    def read(self, room: int | None) -> Cached:
        """What layers attend to: of each row the first `room` positions, all where None."""
        keys, values = (tuple(v.value for v in of) for of in (self.keys, self.values))
        return Cached(keys, values, room)

    def fill(self, new: tuple[jax.Array, jax.Array], lengths_B: jax.Array | None) -> None:
        """Puts a prompt's keys and values `[N, B, L, G, K]` at the start."""
        B, L = new[0].shape[1:3]
        for variable, new_nBLGK in self._each(new):
            cache = variable.value
            new_nBGLK = to_cache(new_nBLGK, cache.shape).astype(cache.dtype)
            variable.value = jax.lax.dynamic_update_slice(cache, new_nBGLK, (0,) * 5)
        lengths_B = jnp.full((B,), L) if lengths_B is None else lengths_B
        self.index.value = lengths_B.astype(jnp.int32)[None]

    def extend(self, new: tuple[jax.Array, jax.Array]) -> None:
        """Adds one position to each row."""
        for variable, new_nB1GK in self._each(new):
            variable.value = extend_cache(variable.value, new_nB1GK, self.index_B)
        self.index.value = self.index.value + 1

    def leave(self, new: tuple[jax.Array, jax.Array]) -> None:
        """Leaves positions that might come next, in place of those that are there."""
        for variable, new_nBLGK in self._each(new):
            cache = variable.value
            variable.value = to_cache(new_nBLGK, cache.shape).astype(cache.dtype)

    def _each(self, new: tuple[jax.Array, jax.Array]) -> Iterator[tuple[Any, jax.Array]]:
        """The variables, each with its layers' part of new keys or values."""
        for variables, new_NBLGK in zip((self.keys, self.values), new, strict=True):
            yield from zip(variables, jnp.split(new_NBLGK, len(variables)), strict=True)
