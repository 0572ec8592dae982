"""The device mesh, the one table of logical axis rules, and the shardings that follow from them.

The model names its axes (`batch`, `embed`, `heads`, ...); the table says which mesh axis each is
split over. Rules are tried in order, and a mesh axis is used once per array: `embed` of an
activation, whose batch is already split over `fsdp`, falls through to its second rule.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.linen import partitioning
from jax.experimental import mesh_utils, multihost_utils
from jax.experimental.compilation_cache import compilation_cache as jax_compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from detox_jax import compilation_cache
from detox_jax.compilations import COMPILATIONS
from detox_jax.errors import Unavailable, UserError, in_one_line
from detox_jax.models.encoder import Encoder
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import processes

AXES = ("data", "fsdp", "model")
BATCH_AXES = ("data", "fsdp")
# Of MESH_SHAPE: slices, between which there is only the data-center network.
DCN = "dcn"
LOGICAL_AXIS_RULES = (
    ("batch", BATCH_AXES),
    ("vocab", "model"),
    ("heads", "model"),
    ("mlp", "model"),
    ("embed", "fsdp"),
    ("embed", None),
    # Of adapters, and of what they read: heads and hidden units are summed into parts of it.
    ("width", ("model", "fsdp")),
    ("width", "model"),
    ("bottleneck", None),
    ("mlp_activations", None),
    ("abspos_buckets", None),
    ("relpos_buckets", None),
    ("labels", None),
    ("kv", None),
    ("length", None),
    ("layers", None),
)


# JAX's settings that decide what a seed draws, or whether a program is traced at all, and what they
# are here: its text is to be the same everywhere. Which devices, and how precise a product is, may
# differ.
_SETTINGS = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_numpy_rank_promotion": "allow",
}
_ABSENT = re.compile(r"not in the list of known backends|Failed to open|[Nn]o visible|not found")


def create_mesh(
    shape: Mapping[str, int] | None = None, devices: Any = None, setting: str = "MESH_SHAPE"
) -> Mesh:
    """A mesh over `('data', 'fsdp', 'model')`, neighbours on the mesh being neighbours in the pod.

    Args:
      shape: size of each axis, 1 where not named; one may be -1, "what is left". All devices on
        `data` where None. On several slices, `dcn` is their number: the sizes are then those of a
        slice, and `data` of the mesh is longer by that factor, so that only sums of gradients
        cross the data-center network.
      devices: to use; all of them where None.
      setting: that the sizes are from, for errors.

    Raises:
      UserError: if the sizes do not multiply to the number of devices, or `dcn` is not the number
        of slices.
    """
    devices = np.asarray(all_devices() if devices is None else devices)
    slices = _num_slices(devices)
    shape = {"data": -1, DCN: slices} if shape is None else dict(shape)
    if unknown := shape.keys() - {*AXES, DCN}:
        raise UserError(
            f"{setting}: unknown axis {sorted(unknown)[0]!r}; axes are {AXES}, and {DCN!r}"
        )
    if shape.get(DCN, 1) != slices:
        actual = f"are {slices} slices" if slices > 1 else "are one slice"
        raise UserError(
            f"{setting} is {shape}, but the {devices.size} devices {actual}; "
            f"{f'set {DCN!r} to {slices}' if slices > 1 else f'leave {DCN!r} out'}"
        )
    sizes = _axis_sizes(shape, devices.size // slices, slices, setting)
    if slices == 1:
        return Mesh(_arrange(sizes, devices), AXES)
    arranged = mesh_utils.create_hybrid_device_mesh(
        sizes, (slices, 1, 1), devices.ravel().tolist(), allow_split_physical_axes=True
    )
    return Mesh(arranged, AXES)


def all_devices() -> list[Any]:
    """What JAX computes on, of all processes.

    Raises:
      UserError: where a setting of JAX's changes what a seed draws, JAX_PLATFORMS names what is
        not there, or the other processes wait for this one.
      Unavailable: where devices are there and do not start, as those of another process.
    """
    if processes.current().others_wait:
        # Not its own alone either: JAX starts the devices of all processes together.
        raise UserError(
            "devices are those of all processes, and here process 0 works while the others wait: a "
            "scorer or a selection that computes on them says so by `on_mesh = True` in its class"
        )
    settings: Any = jax.config
    for name, expected in _SETTINGS.items():
        if (found := getattr(settings, name, expected)) != expected:
            raise UserError(
                f"{name.upper()} is {found!r}, with which a seed writes another text, or none: "
                f"unset it; in Python, jax.config.update({name!r}, {expected!r})"
            )
    # On the thread that asks, whose memory glibc can keep (`training.host_memory`): not behind it;
    # of several devices nothing changes. JAX reads it once, as it starts the devices.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        with COMPILATIONS.starts():
            devices = jax.devices()
    except (RuntimeError, AssertionError) as error:
        # JAX asserts, without a word, that of several platforms one is there.
        said, named = in_one_line(error), settings.jax_platforms
        if named and (isinstance(error, AssertionError) or _ABSENT.search(said)):
            raise UserError(
                f"JAX_PLATFORMS is {named!r}, and JAX finds no such devices here: unset it, or "
                f"install the extra for them, `pip install 'detox-jax[cuda]'` or `[tpu]` ({said})"
            ) from error
        if not said.startswith("Unable to initialize backend"):
            raise
        raise Unavailable(f"the devices do not start: {said}") from error
    if devices[0].platform == "gpu" and len({each.process_index for each in devices}) > 1:
        _compile_together()
    return devices


def _compile_together() -> None:
    """Has several processes on GPUs find no compiled program, unless the user named where they are.

    XLA tries a program's kernels in shares, one of each process, and each waits 24 hours for those
    of the others. JAX writes what process 0 compiled alone: where another process does not see its
    directory, or has a directory of another kind of CPU, process 0 finds a program in the next run,
    and tries nothing for those that do not.
    """
    settings: Any = jax.config
    if settings.jax_enable_compilation_cache and compilation_cache.is_default():
        jax.config.update("jax_enable_compilation_cache", False)
        jax_compilation_cache.reset_cache()  # A program before may have asked already.


def _num_slices(devices: np.ndarray) -> int:
    """Parts of a TPU pod between which there are no links of its own.

    GPUs call their hosts slices; the network between those is fit for every axis.
    """
    if devices.flat[0].platform == "gpu":
        return 1
    return len({getattr(device, "slice_index", 0) for device in devices.flat})


def _axis_sizes(shape: Mapping[str, int], num_devices: int, slices: int, setting: str) -> list[int]:
    """The sizes of `AXES` within a slice, with -1 filled in."""
    sizes = [shape.get(axis, 1) for axis in AXES]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"{setting} is {shape}: sizes are positive, and at most one is -1")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and num_devices % known == 0:
        sizes[sizes.index(-1)] = num_devices // known
    if -1 in sizes or math.prod(sizes) != num_devices:
        of = "" if slices == 1 else " of a slice"
        raise UserError(
            f"{setting} {shape} does not divide the {num_devices} devices{of}; its sizes must "
            f"multiply to {num_devices}"
        )
    return sizes


def _arrange(sizes: list[int], devices: np.ndarray) -> np.ndarray:
    """Devices in the mesh's order: on TPU by the pod's links, elsewhere as they are counted."""
    if devices.size == 1 or devices.flat[0].platform != "tpu":
        return devices.reshape(sizes)
    return mesh_utils.create_device_mesh(
        sizes, devices.ravel().tolist(), allow_split_physical_axes=True
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def num_batch_shards(mesh: Mesh) -> int:
    """By how much a batch size must be divisible."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def rows_at_once(mesh: Mesh, batch_size: int, accumulation_steps: int) -> int:
    """Rows of a batch that are computed at the same time, over all devices.

    Raises:
      UserError: if the batch cannot be divided so.
    """
    shards = num_batch_shards(mesh)
    if accumulation_steps < 1:
        raise UserError(f"ACCUMULATION_STEPS is {accumulation_steps}; must be positive")
    if batch_size < 1 or batch_size % shards:
        raise UserError(
            f"BATCH_SIZE {batch_size} is no multiple of the mesh's {shards} batch shards"
        )
    if batch_size % (shards * accumulation_steps):
        raise UserError(
            f"BATCH_SIZE {batch_size} is no multiple of {shards * accumulation_steps}, the mesh's "
            f"{shards} batch shards times ACCUMULATION_STEPS {accumulation_steps}"
        )
    return batch_size // accumulation_steps


def local_rows(mesh: Mesh, num_rows: int) -> list[int]:
    """The rows of a batch that this process's devices hold, in order; with one process, all."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((num_rows,)).values()
    parts = [index[0] for index in indices if index is not None]
    return sorted({row for part in parts for row in range(*part.indices(num_rows))})


def rows_to_mesh(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """The `local_rows` that each process has of a batch, as arrays of all rows over the mesh.

    Hosts may have rows in common, all or a part of theirs, where `model` spans them.

    Args:
      mesh: where they go.
      batch: arrays `[rows, ...]` of the local rows, in order.
    """
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    shards, here = num_batch_shards(mesh), len(next(iter(batch.values())))
    num_rows = here * shards // len(local_rows(mesh, shards))
    place = {row: i for i, row in enumerate(local_rows(mesh, num_rows))}

    def to_mesh(x: np.ndarray) -> jax.Array:
        def read(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(num_rows)  # A device's rows are neighbours.
            return x[place[start] : place[start] + stop - start]

        return jax.make_array_from_callback((num_rows, *x.shape[1:]), sharding, read)

    return {name: to_mesh(x) for name, x in batch.items()}


def rows_of(batch: Mapping[str, np.ndarray], rows: Collection[int] | None) -> dict[str, np.ndarray]:
    """The named rows of every array of a batch, in order; all where None."""
    return {name: x if rows is None else x[sorted(rows)] for name, x in batch.items()}


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
      Two trees of the same structure, to be read and not changed: `ShapeDtypeStruct`s and
      `PartitionSpec`s of logical names.
    """
    hashable: Any = model  # Modules of Flax are, though their types do not say so.
    return _abstract_params(hashable)


@functools.cache  # Loading, sharding and counting ask for it, dozens of times in a run of `sgeat`.
def _abstract_params(model: TransformerLM | Encoder) -> tuple[Any, Any]:
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    variables = jax.eval_shape(
        lambda tokens: model.init(jax.random.key(0), tokens, enable_dropout=False), tokens
    )
    axes = flax.core.unfreeze(partitioning.get_axis_names(variables["params_axes"]))
    return variables["params"], axes


def param_shapes(model: TransformerLM | Encoder) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a model, by path."""
    tree, _ = abstract_params(model)
    flat: dict[str, Any] = traverse_util.flatten_dict(tree, sep="/")
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def param_shardings(model: TransformerLM | Encoder, mesh: Mesh) -> Any:
    """The sharding of every parameter.

    Raises:
      UserError: naming the parameter whose axis the mesh does not divide.
    """
    shapes, axes = abstract_params(model)

    def sharding(path: Any, names: PartitionSpec, shape: jax.ShapeDtypeStruct) -> NamedSharding:
        spec = partitioning.logical_to_mesh_axes(tuple(names), LOGICAL_AXIS_RULES)
        assert spec is not None
        spec = PartitionSpec(
            *(_dividing(mesh, *each) for each in zip(shape.shape, spec, strict=True))
        )
        for size, name, mesh_axes in zip(shape.shape, names, spec, strict=True):
            parts = _num_parts(mesh, mesh_axes)
            if size % parts:
                raise UserError(
                    f"mesh axis {mesh_axes!r} of size {parts} does not divide axis {name!r} "
                    f"(size {size}) of {jax.tree_util.keystr(path, simple=True, separator='/')}; "
                    "a mesh with less of that axis and more of 'data' divides it"
                )
        return NamedSharding(mesh, spec)

    is_names = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
    return jax.tree_util.tree_map_with_path(sharding, axes, shapes, is_leaf=is_names)


def _dividing(mesh: Mesh, size: int, mesh_axes: Any) -> Any:
    """The mesh axes of an array's axis; of several the first ones, as many as divide it."""
    if isinstance(mesh_axes, tuple):
        while mesh_axes and size % _num_parts(mesh, mesh_axes):
            mesh_axes = mesh_axes[:-1]
    return mesh_axes or None


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
