#!/usr/bin/env bash
# libtpu's compiler copies a whole key-value cache several times a step where heads are narrower than 128.
#
# Guess: a decoding loop that scatters one position a step into a donated cache [layers, rows, heads,
#   room, width] does so in place, whatever the width of a head.
# Seen (jax 0.10.2, libtpu 0.0.42.1, compiled for a v5e): with heads of 128 no instruction writes the whole
#   cache. With heads of 64, which GPT-2 and the 1.3B model of Megatron have, several do in every turn of the
#   loop: the cache is brought into the scatter's layout and back.
# Hurt: a step costs many times what reading the cache costs, no profile of a CPU or a GPU shows it, and the
#   model is blamed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.42.1
cd "$work"
export TPU_SKIP_MDS_QUERY=1 TPU_ACCELERATOR_TYPE=v5litepod-4 TPU_WORKER_HOSTNAMES=localhost TPU_WORKER_ID=0
"$work/venv/bin/python" - <<'P'
import math
import re
from importlib import metadata

import jax
import jax.numpy as jnp
from jax.experimental import topologies

jax.config.update("jax_platforms", "cpu")
LAYERS, ROWS, HEADS, ROOM = 24, 16, 8, 1024
topology = topologies.get_topology_desc("v5e:1x1", platform="tpu", chips_per_host_bounds=[1, 1, 1])
place = jax.sharding.SingleDeviceSharding(topology.devices[0])


def decode(cache, query):
    def layer(query, keys):
        weights = jax.nn.softmax(jnp.einsum("bgk,bgmk->bgm", query, keys))
        return jnp.einsum("bgm,bgmk->bgk", weights, keys), query

    def step(position, state):
        cache, query = state
        query, new = jax.lax.scan(layer, query, cache)
        index = jnp.full((LAYERS, ROWS, HEADS, 1), position)
        axes = jax.lax.ScatterDimensionNumbers((3,), (3,), (3,), (0, 1, 2), (0, 1, 2))
        return jax.lax.scatter(cache, index, new, axes, unique_indices=True), query

    return jax.lax.fori_loop(0, 100, step, (cache, query))


def whole_writes(width):
    shapes = (LAYERS, ROWS, HEADS, ROOM, width), (ROWS, HEADS, width)
    given = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in shapes]
    compiled = jax.jit(decode, donate_argnums=0).lower(*given).compile().as_text()
    written = re.findall(r"= bf16\[([\d,]+)\]\S* (?:copy|reshape|custom-call|transpose)\(", compiled)
    sizes = [math.prod(map(int, sides.split(","))) for sides in written]
    return sizes.count(math.prod(shapes[0]))


print(*(f"{name} {metadata.version(name)}" for name in ("jax", "libtpu")))
narrow, wide = whole_writes(64), whole_writes(128)
print(f"instructions that write the whole cache: heads of 64: {narrow}; heads of 128: {wide}")
assert narrow > 0 and wide == 0, "no longer so"
P
