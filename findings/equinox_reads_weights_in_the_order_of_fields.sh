#!/usr/bin/env bash
# Equinox's files hold no names: fields in another order, or fewer layers, read the wrong weights in silence.
#
# Guess: eqx.tree_deserialise_leaves, which refuses a leaf of another shape or dtype, refuses a file of another model:
#   one whose fields have other names or another order, or that has more layers.
# Seen (equinox 0.13.8, jax 0.10.2): the file is the arrays one behind the other. A class that declares key before
#   query gets the query's weights as its key and the key's as its query. A model of two layers reads the file of
#   one of four, takes the first two, and leaves what is behind them; a final norm of the same width is then
#   the third layer's first array. No error, no warning.
# Hurt: sorting the fields of a class, or a depth other than the one that was trained, gives a model that loads,
#   runs and writes nonsense, or slightly worse text where the arrays are alike. Save names beside the file and
#   compare them, and check that the file ends where the model does.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet equinox==0.13.8 jax==0.10.2 jaxlib==0.10.2
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" -W error - <<'P'
from importlib import metadata

import equinox as eqx
import jax
import jax.numpy as jnp

print(*(f"{name} {metadata.version(name)}" for name in ("equinox", "jax")))
WIDTH = 8


def weights(key):
    return eqx.nn.Linear(WIDTH, WIDTH, use_bias=False, key=key)


class Before(eqx.Module):
    query: eqx.nn.Linear
    key: eqx.nn.Linear


class Sorted(eqx.Module):
    key: eqx.nn.Linear
    query: eqx.nn.Linear


class Stack(eqx.Module):
    layers: list[eqx.nn.Linear]
    last: eqx.nn.Linear


def stack(depth, key):
    *layers, last = jax.random.split(key, depth + 1)
    return Stack([weights(key) for key in layers], weights(last))


keys = jax.random.split(jax.random.key(0), 4)
saved = Before(query=weights(keys[0]), key=weights(keys[1]))
eqx.tree_serialise_leaves("attention.eqx", saved)
read = eqx.tree_deserialise_leaves("attention.eqx", Sorted(query=weights(keys[2]), key=weights(keys[3])))
swapped = jnp.array_equal(read.query.weight, saved.key.weight) and jnp.array_equal(read.key.weight, saved.query.weight)
print("fields in another order: query and key are swapped:", bool(swapped))
deep = stack(4, keys[0])
eqx.tree_serialise_leaves("deep.eqx", deep)
shallow = eqx.tree_deserialise_leaves("deep.eqx", stack(2, keys[1]))
third = jnp.array_equal(shallow.last.weight, deep.layers[2].weight)
print("two layers from the file of four: the last projection is the third layer:", bool(third))
try:
    eqx.tree_deserialise_leaves("deep.eqx", jax.tree.map(lambda leaf: leaf[:4], deep))
except RuntimeError:
    print("another shape is refused")
else:
    raise AssertionError("another shape is read")
assert swapped and third, "no longer so"
print("as found")
P
