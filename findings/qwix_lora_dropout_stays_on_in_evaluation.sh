#!/usr/bin/env bash
# qwix's LoRA drops inputs in evaluation too: model.eval() does not reach its dropout.
#
# Guess: LoraProvider(dropout=...) is dropout as flax's nnx.Dropout is: on in training, and off after model.eval(),
#   set_attributes(deterministic=True), or in nnx.view(model, deterministic=True).
# Seen (qwix 0.1.8, flax 0.12.8, jax 0.10.2): the layer is made anew in each call, as deterministic=False, so none of the
#   three reaches it. While the model's own dropout is off, two calls on one text differ, and the mean loss of a
#   hundred calls is above the loss without LoRA's dropout. Linen asks for a key in evaluation too, and then drops.
#   Only taking the keys away helps (model.set_attributes(qwix_rngs=None)): the call then raises. A model that gets a
#   provider of dropout 0 and the trained LoRA weights reads them as they should be.
# Hurt: validation loss, perplexity and what is generated are those of a model with a part of its adapter switched
#   off, anew at each token; the adapter looks worse than it is, the more so the larger the dropout, and greedy
#   decoding gives other texts each time. tunix trains LoRA through qwix.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet qwix==0.1.8 flax==0.12.8 jax==0.10.2 jaxlib==0.10.2
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import flax.linen as nn
import jax
import numpy as np
import optax
import qwix
from flax import nnx

print(*(f"{name} {metadata.version(name)}" for name in ("qwix", "flax", "jax")))
VOCABULARY, WIDTH = 64, 32
tokens = jax.random.randint(jax.random.key(0), (16, 12), 0, VOCABULARY)


class Model(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.hidden = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        return self.head(self.drop(nnx.relu(self.hidden(self.embed(tokens)))))


def loss(model):
    return optax.softmax_cross_entropy_with_integer_labels(model(tokens), (tokens * 7 + 3) % VOCABULARY).mean()


def with_lora(dropout):
    provider = qwix.LoraProvider(module_path="hidden|head", rank=8, alpha=16.0, dropout=dropout)
    model = qwix.apply_lora_to_model(Model(nnx.Rngs(0)), provider, tokens, rngs=nnx.Rngs(1))
    model.set_attributes(qwix_rngs=nnx.Rngs(2))
    return model


def spread(model):
    return float(np.abs(model(tokens) - model(tokens)).max())


model = with_lora(0.3)
optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.LoRAParam)
step = nnx.jit(
    lambda model, optimizer: optimizer.update(model, nnx.grad(loss, argnums=nnx.DiffState(0, nnx.LoRAParam))(model))
)
for _ in range(300):
    step(model, optimizer)
model.eval()
print(f"after eval() the model's own dropout is {'off' if model.drop.deterministic else 'on'}")
assert model.drop.deterministic
model.set_attributes(deterministic=True)
apart = [spread(model), spread(nnx.view(model, deterministic=True))]
measured = float(np.mean([loss(model) for _ in range(100)]))
without = with_lora(0.0)
nnx.update(without, nnx.state(model, nnx.LoRAParam))
without.eval()
true = float(loss(without))
print(f"logits of two calls apart by {apart[0]:.2f}, in a view by {apart[1]:.2f}; without dropout {spread(without):.2f}")
print(f"loss in evaluation {measured:.3f}; of the same weights without dropout {true:.3f}")
assert min(apart) > 0.5 and spread(without) == 0 and measured > true + 0.1, "no longer so"
model.set_attributes(qwix_rngs=None)
try:
    model(tokens)
except ValueError as error:
    print("without keys:", error)
else:
    raise SystemExit("no longer so")


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, training=False):
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=not training)(x))


linen = qwix.apply_lora_to_model(Linen(), qwix.LoraProvider(module_path=".*", rank=4, alpha=8.0, dropout=0.3))
x = jax.random.normal(jax.random.key(3), (2, 16))
variables = linen.init({"params": jax.random.key(4), "dropout": jax.random.key(5)}, x)
variables = jax.tree.map(lambda array: array + 0.1, variables)
first, second = (linen.apply(variables, x, training=False, rngs={"dropout": jax.random.key(key)}) for key in (6, 7))
print(f"Linen, training=False: two keys give outputs {np.abs(first - second).max():.2f} apart")
assert np.abs(first - second).max() > 0.1, "no longer so"
P
