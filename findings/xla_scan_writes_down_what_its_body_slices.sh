#!/usr/bin/env bash
# On TPU a scan over layers writes down a layer's whole cache before its body reads a part of it.
#
# Guess: slicing `keys[:, :, :filled]` of what jax.lax.scan hands to its body reads what is filled; XLA fuses
#   the two slices.
# Seen (jax 0.10.2, libtpu 0.0.42.1, compiled for a v5e): the layer's whole part is copied out of the stack
#   first, so that reading a quarter costs a read and a write of the whole. One dynamic_slice by the layer's
#   number, with the scan over numbers, takes the quarter alone.
# Hurt: decoding that was changed to read only what is filled of its cache becomes slower.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.42.1
cd "$work"
export TPU_SKIP_MDS_QUERY=1 TPU_ACCELERATOR_TYPE=v5litepod-4 TPU_WORKER_HOSTNAMES=localhost TPU_WORKER_ID=0
"$work/venv/bin/python" - <<'P'
import re
from importlib import metadata

import jax
import jax.numpy as jnp
from jax.experimental import topologies

jax.config.update("jax_platforms", "cpu")
LAYERS, ROWS, HEADS, ROOM, WIDTH, FILLED = 24, 64, 8, 1024, 128, 256
topology = topologies.get_topology_desc("v5e:1x1", platform="tpu", chips_per_host_bounds=[1, 1, 1])
place = jax.sharding.SingleDeviceSharding(topology.devices[0])


def attend(query, keys):
    weights = jax.nn.softmax(jnp.einsum("bgk,bgmk->bgm", query, keys))
    return jnp.einsum("bgm,bgmk->bgk", weights, keys)


def sliced_in_the_body(cache, query):
    return jax.lax.scan(lambda q, keys: (attend(q, keys[:, :, :FILLED]), None), query, cache)[0]


def sliced_by_number(cache, query):
    def layer(query, number):
        part = (1, ROWS, HEADS, FILLED, WIDTH)
        return attend(query, jax.lax.dynamic_slice(cache, (number, 0, 0, 0, 0), part)[0]), None

    return jax.lax.scan(layer, query, jnp.arange(LAYERS))[0]


def whole_layers(function):
    shapes = (LAYERS, ROWS, HEADS, ROOM, WIDTH), (ROWS, HEADS, WIDTH)
    given = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in shapes]
    compiled = jax.jit(function).lower(*given).compile().as_text()
    layer = rf"= bf16\[(?:1,)?{ROWS},{HEADS},{ROOM},{WIDTH}\]\S* (?:fusion|copy)\("
    return len(re.findall(layer, compiled))


print(*(f"{name} {metadata.version(name)}" for name in ("jax", "libtpu")))
found = {f.__name__: whole_layers(f) for f in (sliced_in_the_body, sliced_by_number)}
print("instructions that write a layer's whole part:", found)
assert found["sliced_in_the_body"] > 0 and found["sliced_by_number"] == 0, "no longer so"
P
