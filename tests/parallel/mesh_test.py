"""Meshes and shardings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from detox_jax import compilation_cache
from detox_jax.errors import Unavailable, UserError
from detox_jax.models.adaptation import AdapterConfig, ParallelAdapterConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel import processes
from detox_jax.planning import collectives, hlo
from tests.conftest import random_params


def test_sizes_that_are_left_out():
    assert dict(meshes.create_mesh().shape) == {"data": 8, "fsdp": 1, "model": 1}
    mesh = meshes.create_mesh({"model": 2, "fsdp": -1})
    assert dict(mesh.shape) == {"data": 1, "fsdp": 4, "model": 2}
    assert meshes.num_batch_shards(mesh) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", False),
        ("jax_random_seed_offset", 1),
        ("jax_numpy_rank_promotion", "raise"),
    ],
)
def test_a_setting_of_jax_with_which_a_seed_draws_otherwise_is_refused(name, value):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        with pytest.raises(UserError, match=f"^{name.upper()} is {value!r}, with which a seed"):
            meshes.create_mesh()
    finally:
        jax.config.update(name, before)


IN_USE = "Unable to initialize backend 'tpu': ABORTED: The TPU is already in use by process 7"
UNKNOWN = "Unable to initialize backend 'banana': 'banana' is not in the list of known backends"


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (AssertionError(), UserError, "^JAX_PLATFORMS is 'cpu', and JAX finds no such devices"),
        (RuntimeError(UNKNOWN), UserError, "^JAX_PLATFORMS is 'cpu', and JAX finds no such"),
        (RuntimeError(IN_USE), Unavailable, "^the devices do not start: .* already in use"),
        (RuntimeError("a fault"), RuntimeError, "^a fault$"),
    ],
)
def test_devices_that_do_not_start_are_told_in_one_line(error, kind, message, monkeypatch):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", "cpu")
    try:
        with pytest.raises(kind, match=message):
            meshes.create_mesh()
    finally:
        jax.config.update("jax_platforms", before)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"data": 3}, "does not divide the 8 devices"),
        ({"data": -1, "model": 3}, "does not divide"),
        ({"data": -1, "model": -1}, "at most one is -1"),
        ({"tensor": 8}, "unknown axis 'tensor'"),
        ({"data": 0}, "positive"),
        ({"data": 4, "dcn": 2}, "the 8 devices are one slice; leave 'dcn' out"),
    ],
)
def test_impossible_meshes_are_refused(shape, message):
    with pytest.raises(UserError, match=message):
        meshes.create_mesh(shape)


@dataclasses.dataclass(frozen=True)
class FakeClient:
    """Whose devices those of `index` are: the process that looks."""

    index: int

    def process_index(self):
        return self.index


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """A chip of a slice, as `mesh_utils`, `Mesh` and shardings look at it."""

    id: int
    slice_index: int = 0
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "fake"
    client: FakeClient | None = None


def _slices(num_slices, chips):
    """Chips in an order that mixes the slices."""
    return [FakeDevice(i, i % num_slices) for i in range(num_slices * chips)]


def test_slices_split_the_batch_and_nothing_else():
    mesh = meshes.create_mesh({"dcn": 2, "data": 2, "fsdp": -1}, _slices(2, 4))
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "model": 1}
    assert [[d.slice_index for d in row] for row in mesh.devices[..., 0].tolist()] == [
        [0, 0],
        [0, 0],
        [1, 1],
        [1, 1],
    ]
    assert len({d.id for d in mesh.devices.flat}) == 8
    assert meshes.num_batch_shards(mesh) == 8


def test_all_slices_are_data_where_nothing_is_said():
    mesh = meshes.create_mesh(None, _slices(3, 2))
    assert dict(mesh.shape) == {"data": 6, "fsdp": 1, "model": 1}
    assert [d.slice_index for d in mesh.devices.flat] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"fsdp": 8}, "are 2 slices; set 'dcn' to 2"),
        ({"fsdp": 4, "dcn": 4}, "are 2 slices; set 'dcn' to 2"),
        ({"fsdp": 8, "dcn": 2}, "does not divide the 4 devices of a slice"),
    ],
)
def test_impossible_slices_are_refused(shape, message):
    with pytest.raises(UserError, match=message):
        meshes.create_mesh(shape, _slices(2, 4))


@pytest.mark.parametrize(
    ("chips", "shape", "num_rows", "rows"),
    [
        (2, {"data": 8}, 16, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]),
        (4, {"fsdp": 4, "model": 2}, 8, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        # A model that is split over hosts: these read the same rows.
        (2, {"model": 8}, 3, [[0, 1, 2]] * 4),
        (2, {"data": 2, "model": 4}, 4, [[0, 1], [0, 1], [2, 3], [2, 3]]),
        (1, {"data": 2, "fsdp": 2, "model": 2}, 4, [[0], [0], [1], [1], [2], [2], [3], [3]]),
    ],
)
def test_each_host_reads_the_rows_of_its_own_devices(chips, shape, num_rows, rows):
    hosts = range(8 // chips)

    def mesh_on(host):
        devices = [
            FakeDevice(i, process_index=i // chips, client=FakeClient(host)) for i in range(8)
        ]
        return meshes.create_mesh(shape, devices)

    assert [meshes.local_rows(mesh_on(host), num_rows) for host in hosts] == rows


def test_hosts_whose_devices_are_mixed_read_rows_that_are_not_neighbours():
    def mesh_on(host):
        devices = [FakeDevice(i, process_index=i % 2, client=FakeClient(host)) for i in range(4)]
        return Mesh(np.array(devices).reshape(4, 1, 1), meshes.AXES)

    assert [meshes.local_rows(mesh_on(host), 8) for host in (0, 1)] == [[0, 1, 4, 5], [2, 3, 6, 7]]


@pytest.mark.parametrize(
    ("platform", "named", "kept"),
    [("gpu", False, False), ("gpu", True, True), ("cpu", False, True)],
)
def test_several_processes_on_gpus_keep_no_programs_but_where_the_user_says(
    platform, named, kept, monkeypatch, tmp_path
):
    """One that finds a program would not do its share of trying kernels, for which others wait."""
    directory = tmp_path if named else compilation_cache.default_directory()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(directory))
    devices = [FakeDevice(i, process_index=i, platform=platform) for i in range(2)]
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", True)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(jax, "devices", lambda: devices[:1])
            assert meshes.all_devices() == devices[:1] and jax.config.jax_enable_compilation_cache
            patch.setattr(jax, "devices", lambda: devices)
            assert meshes.all_devices() == devices
        assert jax.config.jax_enable_compilation_cache == kept
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def test_no_mesh_is_made_while_the_other_processes_wait(monkeypatch):
    """JAX would wait two minutes for their devices, and a program of all for ever."""
    run = processes.Processes(0, ("here", "there"))
    monkeypatch.setattr(processes, "_current", run)
    with run._by_itself(), pytest.raises(UserError, match="others wait: a scorer or a selection"):
        meshes.create_mesh()
    assert meshes.create_mesh().size == 8


@pytest.mark.parametrize("shape", [{"data": 8}, {"fsdp": 2, "model": 4}])
def test_rows_of_all_processes_are_one_batch(shape, monkeypatch):
    """Here one process holds all; test_hosts_that_share_a_part_of_their_rows has two."""
    mesh = meshes.create_mesh(shape)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    batch = {"tokens": np.arange(24).reshape(8, 3), "weights": np.arange(8)}
    on_mesh = meshes.rows_to_mesh(mesh, batch)
    for name, x in batch.items():
        assert on_mesh[name].sharding == meshes.batch_sharding(mesh)
        np.testing.assert_array_equal(on_mesh[name], x)


def test_one_process_reads_all_rows():
    assert meshes.local_rows(meshes.create_mesh({"data": 2, "model": 4}), 6) == [0, 1, 2, 3, 4, 5]


def test_parameter_shardings_follow_the_rules(config):
    mesh = meshes.create_mesh({"fsdp": 4, "model": 2})
    shardings = meshes.param_shardings(TransformerLM(config), mesh)
    layers = shardings["layers"]
    assert layers["attention"]["query"]["kernel"].spec == PartitionSpec(None, "fsdp", "model", None)
    assert layers["mlp"]["wo"]["kernel"].spec == PartitionSpec(None, "model", "fsdp")
    assert shardings["token_embedder"]["embedding"].spec == PartitionSpec("model", "fsdp")


def test_adapters_are_split_by_width_as_far_as_the_mesh_divides_it(config):
    def down(emb_dim, **shape):
        cfg = dataclasses.replace(config, emb_dim=emb_dim, head_dim=8)
        mesh = meshes.create_mesh(shape)
        shardings = meshes.param_shardings(TransformerLM(cfg, AdapterConfig(6)), mesh)
        return shardings["layers"]["attention_adapter"]["down_kernel"].spec

    assert down(32, fsdp=4, model=2) == PartitionSpec(None, ("model", "fsdp"), None)
    assert down(36, fsdp=2, model=4) == PartitionSpec(None, ("model",), None)  # Of 36 no eighth.
    assert down(34, fsdp=2, model=4) == PartitionSpec(None, None, None)


def test_an_adapter_adds_no_sum_of_whole_states(config):
    """What devices that split heads add up in a model's layers, forward and backward."""
    mesh = meshes.create_mesh({"data": 2, "model": 4})
    tokens = jnp.ones((4, 16), jnp.int32)

    def sums(adaptation):
        model, params = random_params(config, adaptation)
        with meshes.sharding_scope(mesh):
            params = jax.device_put(params, meshes.param_shardings(model, mesh))
            states = jax.jit(
                lambda p, x: model.apply({"params": p}, x, enable_dropout=False, with_logits=False),
                in_shardings=(None, meshes.batch_sharding(mesh)),
            )
            text = states.lower(params, tokens).compile().as_text()
        whole = 2 * 16 * config.emb_dim * 4
        return sum(
            item.count
            for item in collectives.find(hlo.parse(text))
            if item.kind == "all-reduce" and item.payload >= whole and len(item.group) == 4
        )

    assert sums(None) > 0
    assert sums(AdapterConfig(8)) == sums(ParallelAdapterConfig(8)) == sums(None)


def test_an_axis_that_is_not_divided_is_named(config):
    mesh = meshes.create_mesh({"model": 8})
    with pytest.raises(UserError, match=r"'model' of size 8 .*'heads' \(size 4\) of layers/att"):
        meshes.param_shardings(TransformerLM(config), mesh)


def test_activations_fall_through_to_their_second_rule():
    with meshes.sharding_scope(meshes.create_mesh({"fsdp": 8})):
        from flax.linen import partitioning

        spec = partitioning.logical_to_mesh_axes(("batch", "length", "embed"))
    assert spec == PartitionSpec(("data", "fsdp"), None, None)
    assert jax.device_count() == 8
