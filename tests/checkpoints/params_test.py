"""Parameter trees: partition, combine, fingerprints."""

import contextlib
import logging
import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detox_jax.checkpoints import params as params_lib
from detox_jax.parallel import mesh as meshes
from tests.conftest import random_params

TREE = {"a": {"kernel": 1, "lora_a": 2}, "b": {"kernel": 3}}


def test_partition_and_combine_are_inverse():
    trained, frozen = params_lib.partition(TREE, r".*/lora_[ab]")
    assert trained == {"a": {"lora_a": 2}}
    assert frozen == {"a": {"kernel": 1}, "b": {"kernel": 3}}
    assert params_lib.combine(trained, frozen) == TREE


def test_pattern_must_match_the_whole_path():
    with pytest.raises(ValueError, match="no parameter path matches"):
        params_lib.partition(TREE, "kernel")
    tree = {"a": {"kernel": 1, "kernel_scale": 2}, "b": {"a": {"kernel": 3}}}
    assert params_lib.partition(tree, "a/kernel")[0] == {"a": {"kernel": 1}}
    assert params_lib.partition(tree, "a/kernel|b/.*")[1] == {"a": {"kernel_scale": 2}}


def test_combine_refuses_a_shared_path():
    with pytest.raises(ValueError, match="b/kernel"):
        params_lib.combine(TREE, {"b": {"kernel": 4}})


@pytest.fixture
def _never_on_host(monkeypatch):
    """Small arrays in a CPU's memory are asked by a program too."""
    monkeypatch.setattr(params_lib, "_READ_ON_HOST", -1)


@pytest.fixture(params=["by numpy", "by a program"])
def _each_way(request):
    if request.param == "by a program":
        request.getfixturevalue("_never_on_host")


@pytest.mark.usefixtures("_each_way")
def test_fingerprint_is_of_the_values_not_of_the_sharding(config):
    model, params = random_params(config)
    expected = params_lib.fingerprint(params)
    for shape in ({"fsdp": 8}, {"model": 4, "data": 2}):
        sharded = jax.device_put(params, meshes.param_shardings(model, meshes.create_mesh(shape)))
        assert params_lib.fingerprint(sharded) == expected


@pytest.mark.usefixtures("_each_way")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_fingerprint_sees_one_bit_an_exchange_and_a_name(dtype):
    values = np.random.default_rng(0).normal(size=(7, 5))
    original = jnp.asarray(values, dtype)
    bumped = original.at[3, 2].set(jnp.nextafter(original[3, 2], jnp.asarray(9, dtype)))
    exchanged = original.at[0, 0].set(original[0, 1]).at[0, 1].set(original[0, 0])
    trees = [{"w": original}, {"w": bumped}, {"w": exchanged}, {"v": original}, {"w": original.T}]
    assert len({params_lib.fingerprint(tree) for tree in trees}) == len(trees)
    assert params_lib.fingerprint({"w": original + 0}) == params_lib.fingerprint({"w": original})


def test_cast_copies_only_what_has_another_dtype():
    tree = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2, jnp.float32)}
    cast = params_lib.cast(tree, jnp.float32)
    assert {x.dtype.name for x in cast.values()} == {"float32"}
    assert cast["b"] is tree["b"]


@pytest.mark.usefixtures("_never_on_host")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "uint8"])
def test_sums_of_an_array_on_the_host_are_those_of_devices(monkeypatch, dtype):
    monkeypatch.setattr(params_lib, "_NUMBERS_AT_ONCE", 7)
    noise = np.random.default_rng(0).normal(size=(5, 3, 4)) * 50
    arrays = {"a": np.asarray(jnp.asarray(noise, dtype)), "b": np.asarray(jnp.asarray(3, dtype))}
    on_devices = jax.tree.map(jnp.asarray, arrays)
    assert params_lib.digests(arrays) == params_lib.digests(on_devices)
    assert params_lib.fingerprint(arrays) == params_lib.fingerprint(on_devices)
    assert params_lib.differs(arrays, params_lib.digests(on_devices)) is None
    mixed = {"a": arrays["a"], "b": on_devices["b"]}
    assert params_lib.digests(mixed) == params_lib.digests(on_devices)
    monkeypatch.setattr(params_lib, "_bit_sums", None)
    params_lib.digests(arrays)  # Nothing is put on a device.


def test_an_array_of_the_host_is_let_go_before_the_next_one_is_read():
    class Array(np.ndarray):
        """Of which a weak reference can be held."""

    read, alive = [], []

    def array():
        alive.append([reference() is not None for reference in read])
        values = np.ones(3, np.float32).view(Array)
        read.append(weakref.ref(values))
        return values

    params_lib.fingerprint_of((path, array()) for path in "abc")
    assert alive == [[], [False], [False, False]]


def test_small_arrays_in_a_cpus_memory_need_no_program(config):
    # A short run compiled one for each kind of tree that it read or saved.
    model, params = random_params(config)
    tree = {"w": jax.device_put(params, meshes.param_shardings(model, meshes.create_mesh()))}
    jax.clear_caches()
    with jax.log_compiles(), _compiled() as programs:
        params_lib.digests(tree)
        params_lib.first_not_finite(tree)
    assert programs == []


@pytest.mark.usefixtures("_never_on_host")
def test_a_tree_on_devices_is_asked_in_one_program():
    # One program an array, and XLA's collectives on virtual devices wait for each other.
    tree = {"a": jnp.ones((2, 3)), "b": jnp.ones(5, jnp.bfloat16), "c": jnp.zeros((), jnp.int32)}
    with jax.log_compiles(), _compiled() as programs:
        params_lib.digests(tree)
        assert params_lib.first_not_finite({**tree, "b": jnp.full(5, np.nan)}) == "b"
    assert [name for name in programs if name in ("_bit_sums", "_all_finite_on_devices")] == [
        "_bit_sums",
        "_all_finite_on_devices",
    ]


@contextlib.contextmanager
def _compiled():
    """Names of the programs that are compiled in it."""
    names: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record):
            if match := re.match(r"Compiling jit\((\w+)\)", record.getMessage()):
                names.append(match[1])

    handler, logger = Handler(), logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        yield names
    finally:
        logger.removeHandler(handler)
