#!/usr/bin/env bash
# optax.contrib.muon goes by the number of axes: in flax it leaves attention to Adam, under nn.scan every kernel.
#
# Guess: muon orthogonalises the updates of the hidden layers' matrices and gives norms and biases to Adam, in
#   flax's layers as elsewhere; nn.scan over layers is about compile time and changes nothing of that.
# Seen (optax 0.2.8, flax 0.12.8, jax 0.10.2): "2D" counts axes. Attention's kernels are [width, heads, head]
#   and go to Adam, their biases [heads, head] are orthogonalised. Under nn.scan all arrays have one axis more:
#   no kernel of any layer is left to muon, and what it takes are the scales and biases of the norms, stacked
#   to [layers, width], beside the embedding and the head. A step moves the scales of all layers by one matrix of
#   nearly orthogonal rows, so that each layer's step hangs on the other layers' gradients.
# Hurt: the run says "muon", trains, and is Adam with spoilt norms: the comparison of optimizers measures
#   something else, and unrolling the layers changes the result. Give muon_weight_dimension_numbers for
#   what is to be a matrix.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet optax==0.2.8 flax==0.12.8 jax==0.10.2 jaxlib==0.10.2
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P'
from importlib import metadata

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

print(*(f"{name} {metadata.version(name)}" for name in ("optax", "flax", "jax")))
WIDTH, LAYERS, TOKENS = 16, 6, 50


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        x = x + nn.MultiHeadDotProductAttention(4, name="attention")(nn.LayerNorm(name="norm")(x))
        return x + nn.Dense(WIDTH, name="out")(nn.gelu(nn.Dense(4 * WIDTH, name="up")(x))), None


class Model(nn.Module):
    scanned: bool

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(TOKENS, WIDTH, name="embed")(ids)
        if self.scanned:
            axes, keys = {"params": 0}, {"params": True}
            x, _ = nn.scan(Block, variable_axes=axes, split_rngs=keys, length=LAYERS)(name="layers")(x)
        else:
            for layer in range(LAYERS):
                x, _ = Block(name=f"layer_{layer}")(x)
        return nn.Dense(TOKENS, name="head")(x)


ids = jax.random.randint(jax.random.key(0), [4, 16], 0, TOKENS)
taken = {}
for scanned in (False, True):
    model, optimizer = Model(scanned), optax.contrib.muon(0.02)
    params = model.init(jax.random.key(1), ids)["params"]
    state = optimizer.init(params)
    held = state.inner_states["muon"].inner_state[0].mu
    taken[scanned] = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(held)
    }

    def loss(params):
        logits = model.apply({"params": params}, ids[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()

    gradients = jax.grad(loss)(params)
    updates, _ = optimizer.update(gradients, state, params)
inside = {name: shape for name, shape in taken[False].items() if name.startswith("layer_0/")}
print("a layer of a loop, muon has:", inside)
print("scanned, muon has:", taken[True])
assert {"layer_0/up/kernel", "layer_0/out/kernel", "layer_0/attention/query/bias"} <= set(inside)
assert not any("attention" in name and "kernel" in name for name in inside), "no longer so"
layers = {name for name in taken[True] if name.startswith("layers/")}
assert "layers/norm/scale" in layers and not any("kernel" in name for name in layers), "no longer so"
spread = {}
for name, tree in (("gradients", gradients), ("steps", updates)):
    singular = np.linalg.svd(np.asarray(tree["layers"]["norm"]["scale"]), compute_uv=False)
    spread[name] = float(singular.max() / singular.min())
print("scales of the six layers, greatest over smallest singular value:", spread)
assert spread["gradients"] > 4 and spread["steps"] < 2, "no longer orthogonal"
print("as found")
P
