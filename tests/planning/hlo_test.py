"""Compiled programs as text: loops are counted as often as they run."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from detox_jax.parallel import mesh as meshes
from detox_jax.planning import collectives, hlo, traffic

LAYERS, WIDTH, ROWS = 5, 64, 16


@functools.cache
def compiled(unroll=1):
    """`LAYERS` products with weights that are split over eight devices and gathered one by one."""
    mesh = meshes.create_mesh({"fsdp": 8})
    split = NamedSharding(mesh, PartitionSpec(None, "fsdp"))

    def layer(x, w):
        w = jax.lax.with_sharding_constraint(w, meshes.replicated(mesh))
        return jnp.tanh(x @ w), None

    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=meshes.batch_sharding(mesh))
    w = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32, sharding=split)
    step = lambda x, w: jax.lax.scan(layer, x, w, unroll=unroll)[0]  # noqa: E731
    return jax.jit(step).trace(x, w).lower().compile()


def test_collectives_in_a_loop_are_counted_as_often_as_it_runs():
    module = hlo.parse(compiled().as_text())
    found = [item for item in collectives.find(module) if item.kind == "all-gather"]
    assert sum(item.count for item in found) == LAYERS
    assert {item.payload for item in found} == {WIDTH * WIDTH * 4}
    assert {item.sent for item in found} == {WIDTH * WIDTH * 4 * 7 // 8}
    assert {item.group for item in found} == {tuple(range(8))}
    totals = collectives.by_kind(found)["all-gather"]
    assert totals["payload_bytes"] == LAYERS * WIDTH * WIDTH * 4


def test_traffic_of_a_loop_is_that_of_the_same_layers_one_by_one():
    looped, unrolled = compiled(), compiled(unroll=LAYERS)
    once = unrolled.cost_analysis()["bytes accessed"]
    assert traffic.hbm_bytes(hlo.parse(unrolled.as_text())) == pytest.approx(once, rel=0.15)
    assert traffic.hbm_bytes(hlo.parse(looped.as_text())) == pytest.approx(once, rel=0.35)


# As libtpu writes it: no trip counts, asynchronous collectives in three fusions, memory spaces.
TPU = """\
HloModule jit_decode, is_scheduled=true

%cond (p: (s32[], bf16[8,128])) -> pred[] {
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %limit = s32[]{:T(128)} constant(7)
  %yes = pred[]{:T(512)} constant(true)
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%start (a: bf16[8,64]) -> bf16[8,128] {
  %a = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.1 = bf16[8,128]{1,0:T(8,128)(2,1)} all-gather(%a), channel_id=3, replica_groups=[2,2]<=[2,2]T(1,0), dimensions={1}
}

%done (a: bf16[8,64]) -> bf16[8,128] {
  %a = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[8,128]{1,0:T(8,128)(2,1)} all-gather(%a), channel_id=3, replica_groups=[2,2]<=[2,2]T(1,0), dimensions={1}
}

%all-reduce-scatter.1 (input: f32[8,128]) -> f32[4,128] {
  %input = f32[8,128]{1,0:T(8,128)} parameter(0)
  %all-reduce.1 = f32[8,128]{1,0:T(8,128)} all-reduce(%input), channel_id=4, replica_groups={{0,2},{1,3}}, to_apply=%add
  ROOT %cut = f32[4,128]{1,0:T(8,128)} slice(%all-reduce.1), slice={[0:4], [0:128]}
}

%sliced (stack: bf16[10,8,64], i: s32[]) -> bf16[8,64] {
  %stack = bf16[10,8,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %part = bf16[1,8,64]{2,1,0:T(8,128)(2,1)} dynamic-slice(%stack, %i), dynamic_slice_sizes={1,8,64}
  ROOT %b = bf16[8,64]{1,0:T(8,128)(2,1)} bitcast(%part)
}

%squared (stack: bf16[10,8,64], i: s32[]) -> bf16[8,64] {
  %stack = bf16[10,8,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %part = bf16[8,64]{1,0:T(8,128)(2,1)} fusion(%stack, %i), kind=kLoop, calls=%sliced
  ROOT %square = bf16[8,64]{1,0:T(8,128)(2,1)} multiply(%part, %part)
}

%body (p: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %x = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%p), index=1
  %half = bf16[8,64]{1,0:T(8,128)(2,1)} slice(%x), slice={[0:8], [0:64]}
  %s = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} fusion(%half), kind=kCustom, calls=%start
  %d = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} fusion(%half), kind=kCustom, calls=%done
  ROOT %t = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) tuple(%p, %d)
}

ENTRY %main (x: bf16[8,128], stack: bf16[10,8,64], f: f32[8,128]) -> bf16[8,128] {
  %x = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %stack = bf16[10,8,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %f = f32[8,128]{1,0:T(8,128)S(1)} parameter(2)
  %i = s32[]{:T(128)S(6)} constant(0)
  %w = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} fusion(%stack, %i), kind=kOutput, calls=%squared
  %r = f32[4,128]{1,0:T(8,128)S(1)} fusion(%f), kind=kCustom, calls=%all-reduce-scatter.1
  %in = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) tuple(%i, %x)
  %while.1 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) while(%in), condition=%cond, body=%body, metadata={op_name="jit(decode)/while" stack_frame_id=12}
  ROOT %out = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%while.1), index=1
}
"""  # noqa: E501


def test_what_libtpu_writes():
    module = hlo.parse(TPU)
    (loop,) = module.loops("jit(decode)/while")
    assert module.trip_count(loop) == 7
    assert module.executions()["body"] == 7 and "start" not in module.executions()
    found = {item.kind: item for item in collectives.find(module)}
    assert found["all-gather"].count == 7 and found["all-gather"].payload == 8 * 128 * 2
    assert found["all-gather"].group == (0, 2)
    assert found["reduce-scatter"].count == 1 and found["reduce-scatter"].sent == 8 * 128 * 4 // 2


def test_only_what_leaves_the_chip_is_traffic():
    """A slice of the stack, in a fusion in a fusion, is read once; in the loop a half is written
    once and read twice.
    """
    half, counter = 8 * 64 * 2, 4 + 4 + 1
    assert traffic.hbm_bytes(hlo.parse(TPU)) == half + 7 * (3 * half + counter)


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={{0,2},{1,3}}, to_apply=%a", (0, 2)),
        ("replica_groups=[2,4]<=[8], dimensions={0}", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), use", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, use_global_device_ids=true", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, use=1", (0, 2)),
        ("replica_groups=mesh['a'=8] {'a':(2)2}, use=1", (0, 2)),
        ("source_target_pairs={{0,0},{1,2},{2,1}}, metadata={}", (1, 2)),
        ("metadata={}", ()),
    ],
)
def test_groups_of_devices(text, group):
    assert collectives.group_of("), channel_id=1, " + text) == group


def test_sizes_of_dtypes():
    sizes = {"bf16": 2, "f32": 4, "s64": 8, "pred": 1, "u8": 1, "f8e4m3fn": 1, "token": 0}
    for dtype, size in sizes.items():
        assert hlo.Array(dtype, (3,)).bytes == 3 * size, dtype
