"""Parameter trees: split by path pattern, put together, counted, fingerprinted.

A path is the keys of a nested dict joined by `/`, such as `layers/attention/query/kernel`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from detox_jax.errors import UserError

Params = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]  # by path
# Of the weights in the sums of an array's bits.
_FACTORS = (0x9E3779B1, 0x85EBCA77)
_NUMBERS_AT_ONCE = 2**20
_READ_ON_HOST = 2**24  # numbers in a CPU's memory that numpy reads; XLA would compile for longer


def partition(params: Params, pattern: str) -> tuple[Params, Params]:
    """Splits a tree into the parameters whose whole path matches `pattern`, and the rest.

        >>> partition({"a": {"kernel": 1, "lora_a": 2}}, r".*/lora_[ab]")
        ({'a': {'lora_a': 2}}, {'a': {'kernel': 1}})

    Raises:
      ValueError: if no path matches.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    matching = {path: leaf for path, leaf in flat.items() if re.fullmatch(pattern, path)}
    if not matching:
        raise ValueError(
            f"no parameter path matches {pattern!r}; paths look like {next(iter(flat))!r}"
        )
    rest = {path: leaf for path, leaf in flat.items() if path not in matching}
    return (
        traverse_util.unflatten_dict(matching, sep="/"),
        traverse_util.unflatten_dict(rest, sep="/"),
    )


def combine(*trees: Params) -> Params:
    """The inverse of `partition`: one tree out of trees with different paths.

    Raises:
      ValueError: if two trees share a path.
    """
    flat: dict[str, Any] = {}
    for tree in trees:
        for path, leaf in traverse_util.flatten_dict(tree, sep="/").items():
            if path in flat:
                raise ValueError(f"{path} is in two of the trees")
            flat[path] = leaf
    return traverse_util.unflatten_dict(flat, sep="/")


def cast(params: Params, dtype: Any) -> Params:
    """The same tree of arrays in another dtype; what has it already is not copied."""
    return jax.tree.map(lambda x: x if x.dtype == dtype else x.astype(dtype), params)


def count(params: Params) -> int:
    """Number of scalars in a tree of arrays or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def first_not_finite(tree: Any) -> str | None:
    """Where a tree of arrays holds a NaN or an infinity: the first such path, None without any."""
    leaves = [
        (path, leaf) for path, leaf in _leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    finite = _of_each(_all_finite_on_devices, _all_finite_on_host, leaves)
    return next((path for path, _, _, ok in finite if not ok), None)


def require_finite(params: Params, where: str) -> None:
    """Refuses parameters of a training that diverged.

    Args:
      params: a tree of arrays.
      where: names the checkpoint in the error.

    Raises:
      UserError: naming the first parameter that holds a NaN or an infinity.
    """
    if path := first_not_finite(params):
        raise UserError(
            f"{where}: parameter {path} holds numbers that are not finite, as a training that "
            "diverged leaves them; give an earlier checkpoint"
        )


def _of_each(
    on_devices: Callable[[list[jax.Array]], list[jax.Array]],
    on_host: Callable[[np.ndarray], Any],
    leaves: Iterable[tuple[str, Any]],
) -> list[tuple[str, tuple[int, ...], Any, Any]]:
    """Path, shape, dtype and a small value of each array, in order.

    What is on the host stays there, and is let go before the next one is read: it may be a file
    that is mapped to memory. What is on devices is asked in one program: a program an array can
    have several of them under way at once, whose collectives wait for each other on virtual CPU
    devices, until XLA aborts.
    """
    heads: list[tuple[str, tuple[int, ...], Any]] = []
    values: dict[int, Any] = {}
    arrays: dict[int, jax.Array] = {}
    for path, leaf in leaves:
        if isinstance(leaf, np.ndarray):
            values[len(heads)] = on_host(leaf)
        else:
            arrays[len(heads)] = leaf
        heads.append((path, leaf.shape, leaf.dtype))
        del leaf  # The loop would hold it while the next one is read.
    if _are_read_sooner_than_compiled(arrays.values()):
        values.update((place, on_host(np.asarray(array))) for place, array in arrays.items())
    elif arrays:
        of_arrays = jax.device_get(on_devices([*arrays.values()]))
        values.update(zip(arrays, of_arrays, strict=True))
    return [(*head, values[place]) for place, head in enumerate(heads)]


def _are_read_sooner_than_compiled(arrays: Collection[jax.Array]) -> bool:
    """Whether numpy is done with arrays in a CPU's memory before a program for them is traced."""
    return sum(array.size for array in arrays) <= _READ_ON_HOST and all(
        array.is_fully_addressable and {device.platform for device in array.devices()} == {"cpu"}
        for array in arrays
    )


def _all_finite_on_host(x: np.ndarray) -> Any:
    return np.isfinite(x).all()


@jax.jit
def _all_finite_on_devices(arrays: list[jax.Array]) -> list[jax.Array]:
    return [jnp.all(jnp.isfinite(x)) for x in arrays]


def fingerprint(params: Params) -> str:
    """A hash of every bit of a tree, the same for every sharding and device count.

    Each array is reduced on its devices to two 32-bit sums of its bits times odd weights that
    depend on the element's index: integer arithmetic, so the order does not matter. The sums,
    paths, shapes and dtypes are hashed on the host.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    return fingerprint_of(sorted(flat.items()))


def fingerprint_of(leaves: Iterable[tuple[str, Any]]) -> str:
    """The fingerprint of a tree given as paths and arrays, in the order of their paths."""
    digest = hashlib.sha256()
    for path, shape, dtype, sums in _of_each(_bit_sums, _bit_sums_on_host, leaves):
        digest.update(f"{path} {shape} {dtype} {sums.tolist()}\n".encode())
    return digest.hexdigest()[:16]


def fingerprint_of_digests(digests: Mapping[str, Sequence[Any]]) -> str:
    """The fingerprint of the tree whose `digests` these are."""
    digest = hashlib.sha256()
    for path, (dtype, shape, *sums) in sorted(digests.items()):
        digest.update(f"{path} {tuple(shape)} {dtype} {sums}\n".encode())
    return digest.hexdigest()[:16]


def digests(tree: Any) -> dict[str, list[Any]]:
    """What `differs` needs to know a tree of arrays again, as JSON.

    Returns:
      `[dtype, shape, sum, sum]` by path: the sums of `fingerprint`, which every mesh finds alike.
    """
    return {
        path: [str(dtype), list(shape), *sums.tolist()]
        for path, shape, dtype, sums in _of_each(_bit_sums, _bit_sums_on_host, _leaves(tree))
    }


def differs(tree: Any, expected: Mapping[str, list[Any]]) -> str | None:
    """The first path at which a tree is not the one that `digests` saw; None where it is.

    An array that was read in another dtype than it was saved in cannot be compared, and is not.

    Args:
      tree: all of the other tree, or a part of it.
      expected: its digests.
    """
    for path, digest in digests(tree).items():
        if path not in expected:
            return path
        if digest[0] == expected[path][0] and digest != expected[path]:
            return path
    return None


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _bit_sums_on_host(x: np.ndarray) -> np.ndarray:
    """`_bit_sums_of`, some numbers at a time: sums of integers do not depend on the order."""
    bits = x.reshape(-1).view(f"u{x.dtype.itemsize}")
    sums = np.zeros(len(_FACTORS), np.uint32)
    for start in range(0, len(bits), _NUMBERS_AT_ONCE):
        part = bits[start : start + _NUMBERS_AT_ONCE].astype(np.uint32)
        place = np.arange(start + 1, start + 1 + len(part), dtype=np.uint64).astype(np.uint32)
        for i, factor in enumerate(_FACTORS):
            weight = place * np.uint32(factor)
            weight = (weight ^ (weight >> np.uint32(15))) | np.uint32(1)
            # Of arrays the sum wraps; of two scalars numpy says that it does.
            sums[i : i + 1] += np.sum(part * weight, dtype=np.uint32)
    return sums


@jax.jit
def _bit_sums(arrays: list[jax.Array]) -> list[jax.Array]:
    return [_bit_sums_of(x) for x in arrays]


@jax.jit  # Arrays of one shape, such as a parameter and its moments, are traced once.
def _bit_sums_of(x: jax.Array) -> jax.Array:
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    sums = []
    for factor in _FACTORS:
        weight = (index + jnp.uint32(1)) * jnp.uint32(factor)
        weight = (weight ^ (weight >> 15)) | jnp.uint32(1)
        sums.append(jnp.sum(bits * weight, dtype=jnp.uint32))
    return jnp.stack(sums)
