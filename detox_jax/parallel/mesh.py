"""The device mesh, the one table of logical axis rules, and the shardings that follow from them.

The model names its axes (`batch`, `embed`, `heads`, ...); the table says which mesh axis each is
split over. Rules are tried in order, and a mesh axis is used once per array: `embed` of an
activation, whose batch is already split over `fsdp`, falls through to its second rule.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import partitioning
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from detox_jax.errors import UserError
from detox_jax.models.encoder import Encoder
from detox_jax.models.transformer import TransformerLM

AXES = ("data", "fsdp", "model")
BATCH_AXES = ("data", "fsdp")
LOGICAL_AXIS_RULES = (
    ("batch", BATCH_AXES),
    ("vocab", "model"),
    ("heads", "model"),
    ("mlp", "model"),
    ("embed", "fsdp"),
    ("embed", None),
    ("mlp_activations", None),
    ("abspos_buckets", None),
    ("relpos_buckets", None),
    ("labels", None),
    ("kv", None),
    ("length", None),
    ("layers", None),
)


def create_mesh(shape: Mapping[str, int] | None = None, devices: Any = None) -> Mesh:
    """A mesh over `('data', 'fsdp', 'model')`.

    Args:
      shape: size of each axis, 1 where not named; one may be -1, "what is left". All devices on
        `data` where None.
      devices: to use; all of them where None.

    Raises:
      UserError: if the sizes do not multiply to the number of devices.
    """
    devices = np.asarray(jax.devices() if devices is None else devices)
    shape = {"data": -1} if shape is None else dict(shape)
    if unknown := shape.keys() - set(AXES):
        raise UserError(f"MESH_SHAPE: unknown axis {sorted(unknown)[0]!r}; axes are {AXES}")
    sizes = [shape.get(axis, 1) for axis in AXES]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"MESH_SHAPE is {shape}: sizes are positive, and at most one is -1")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and devices.size % known == 0:
        sizes[sizes.index(-1)] = devices.size // known
    if -1 in sizes or math.prod(sizes) != devices.size:
        raise UserError(
            f"MESH_SHAPE {shape} does not divide the {devices.size} devices; its sizes must "
            f"multiply to {devices.size}"
        )
    return Mesh(devices.reshape(sizes), AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def num_batch_shards(mesh: Mesh) -> int:
    """By how much a batch size must be divisible."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def local_rows(mesh: Mesh, num_rows: int) -> list[int]:
    """The rows of a batch that this process's devices hold, in order; with one process, all."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((num_rows,)).values()
    parts = [index[0] for index in indices if index is not None]
    return sorted({row for part in parts for row in range(*part.indices(num_rows))})


def to_mesh(tree: Any, sharding: Any) -> Any:
    """Arrays that every process holds alike and whole, over the mesh.

    Args:
      tree: of numpy arrays.
      sharding: of all, or a tree of them.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    if isinstance(sharding, NamedSharding):
        sharding = jax.tree.map(lambda _: sharding, tree)
    # `device_put` would first compare the arrays of all processes, which costs a broadcast of each.
    return jax.tree.map(
        lambda x, s: jax.make_array_from_callback(x.shape, s, lambda index: x[index]),
        tree,
        sharding,
    )


def to_host(tree: Any) -> Any:
    """Arrays on the mesh as numpy arrays, whole on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def abstract_params(model: TransformerLM | Encoder) -> tuple[Any, Any]:
    """Shapes and logical axis names of a model's parameters, without creating any.

    Returns:
      Two trees of the same structure: `ShapeDtypeStruct`s and `PartitionSpec`s of logical names.
    """
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    variables = jax.eval_shape(
        lambda tokens: model.init(jax.random.key(0), tokens, enable_dropout=False), tokens
    )
    axes = flax.core.unfreeze(partitioning.get_axis_names(variables["params_axes"]))
    return variables["params"], axes


def param_shardings(model: TransformerLM | Encoder, mesh: Mesh) -> Any:
    """The sharding of every parameter.

    Raises:
      UserError: naming the parameter whose axis the mesh does not divide.
    """
    shapes, axes = abstract_params(model)

    def sharding(path: Any, names: PartitionSpec, shape: jax.ShapeDtypeStruct) -> NamedSharding:
        spec = partitioning.logical_to_mesh_axes(tuple(names), LOGICAL_AXIS_RULES)
        assert spec is not None
        for size, name, mesh_axes in zip(shape.shape, names, spec, strict=True):
            parts = _num_parts(mesh, mesh_axes)
            if size % parts:
                raise UserError(
                    f"mesh axis {mesh_axes!r} of size {parts} does not divide axis {name!r} "
                    f"(size {size}) of {jax.tree_util.keystr(path, simple=True, separator='/')}"
                )
        return NamedSharding(mesh, spec)

    is_names = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
    return jax.tree_util.tree_map_with_path(sharding, axes, shapes, is_leaf=is_names)


def _num_parts(mesh: Mesh, mesh_axes: Any) -> int:
    if mesh_axes is None:
        return 1
    names = (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes
    return math.prod(mesh.shape[name] for name in names)


@contextlib.contextmanager
def sharding_scope(mesh: Mesh) -> Iterator[None]:
    """Context in which the model's logical axis names mean something."""
    with jax.set_mesh(mesh), partitioning.axis_rules(LOGICAL_AXIS_RULES):
        yield
