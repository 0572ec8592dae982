"""The layers' matrices as arrays of their own, which decoding on a CPU reads where they lie.

Parameters are stacked over layers, and a loop over layers takes off each one's part: on a CPU XLA
copies it, and a step of decoding, which reads all parameters for a few rows, takes up to a quarter
of its time for that. Here a layer chooses among arrays in the loop, as with its cache (see
`kv_cache.cache_shapes`). Each has the axis over which is summed last, which is the faster product
of a few rows: `python benchmarks/decoding_step.py --rows=32` has both in turns.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import weakref
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from detox_jax.models import kv_cache
from detox_jax.models.config import TransformerConfig

# Collections of variables of a network: the matrices of all layers, and which layer this one is.
MATRICES, NUMBERS = "unstacked", "layer_number"
# Of larger ones a second copy is not worth the memory.
_MOST_BYTES = 4 << 30


@dataclasses.dataclass(frozen=True, eq=False)
class Unstacked:
    """Matrices of a network's layers, while anybody holds them.

    Attributes:
      collections: for `apply`, beside the parameters; none where they would not help.
      kernels: of which they were made; held, so that nothing else gets their ids.
    """

    collections: Mapping[str, Any]
    kernels: tuple[jax.Array, ...] = ()


# By the dtype and the ids of the kernels: of decoders that share parameters, one is enough.
_held: weakref.WeakValueDictionary[tuple[Any, ...], Unstacked] = weakref.WeakValueDictionary()


def of_layers(cfg: TransformerConfig, params: Any) -> Unstacked:
    """The matrices of a network's layers.

    There are none elsewhere than on a CPU, for a narrow model, whose tokens take less time than
    compiling more ways, and for matrices of more than 4 GiB in all.

    Args:
      cfg: of the network.
      params: its parameters, on one device.
    """
    if not kv_cache.is_apart(cfg):
        return Unstacked({})
    kernels_of = {
        (part, name): module["kernel"]
        for part in ("attention", "mlp")
        for name, module in params["layers"].get(part, {}).items()
        if _is_product(name)
    }
    dtype, kernels = jnp.dtype(cfg.activation_dtype), tuple(kernels_of.values())
    if sum(kernel.size for kernel in kernels) * dtype.itemsize > _MOST_BYTES:
        return Unstacked({})
    key = (dtype, *map(id, kernels))
    if (found := _held.get(key)) is None:
        found = _held[key] = Unstacked(_collections(kernels_of, cfg.num_layers, dtype), kernels)
    return found


def _collections(
    kernels_of: Mapping[tuple[str, str], jax.Array], num_layers: int, dtype: Any
) -> dict[str, Any]:
    matrices: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    for (part, name), kernel in kernels_of.items():
        of_kernel = _apart(kernel, 2 if name == "out" else 1, dtype)
        matrices.setdefault(part, {})[name] = {"kernel": of_kernel}
        numbers.setdefault(part, {})[name] = {"kernel": jnp.arange(num_layers)}
    return {MATRICES: {"layers": matrices}, NUMBERS: {"layers": numbers}}


def _is_product(name: str) -> bool:
    return name in ("query", "key", "value", "out") or name.startswith(("wi", "wo"))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _apart(kernel: jax.Array, num_axes: int, dtype: Any) -> tuple[jax.Array, ...]:
    """Matrices `[outputs, inputs]` of a kernel `[N, *inputs, *outputs]`."""
    num_layers, inputs = len(kernel), math.prod(kernel.shape[1 : 1 + num_axes])
    matrices_NIO = kernel.reshape(num_layers, inputs, -1).astype(dtype)
    return tuple(matrix_IO.T for matrix_IO in matrices_NIO)


def product(
    module: nn.Module, x: jax.Array, num_axes: int, out_shape: tuple[int, ...]
) -> jax.Array | None:
    """`x` times a layer's kernel, `[..., *out_shape]`; None where the collections are not there.

    Args:
      module: whose parameter is called `kernel`.
      x: `[..., *inputs]`.
      num_axes: of the inputs.
      out_shape: the outputs.
    """
    if not module.has_variable(MATRICES, "kernel"):
        return None
    matrices: tuple[jax.Array, ...] = module.get_variable(MATRICES, "kernel")
    number: Any = module.get_variable(NUMBERS, "kernel")
    leading = x.shape[: x.ndim - num_axes]
    x_RI = x.reshape(math.prod(leading), -1)
    y_RO = jax.lax.switch(number, [functools.partial(_times, m) for m in matrices], x_RI)
    return y_RO.reshape(*leading, *out_shape)


def _times(matrix_OI: jax.Array, x_RI: jax.Array) -> jax.Array:
    return jnp.einsum("RI,OI->RO", x_RI, matrix_OI)
