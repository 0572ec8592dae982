#!/usr/bin/env bash
# optax.adafactor's weight decay is not multiplied by the learning rate: what AdamW is given takes all weights.
#
# Guess: weight_decay_rate=0.01 of adafactor is weight_decay=0.01 of adamw: at a learning rate of 1e-3 a weight
#   loses a hundred-thousandth a step, and nothing where the schedule has come to 0.
# Seen (optax 0.2.8, jax 0.10.2): each step takes the whole hundredth, whatever the learning rate is, also at 0.
#   After 1,000 steps without a gradient a weight of 1.0 is 4.3e-5; under adamw it is 0.99.
# Hurt: who changes adamw for adafactor, to have room for a larger model, and keeps its settings trains a
#   model whose weights are gone after a few hundred steps, warmup included; the loss says "diverged" and
#   a lower learning rate does not help. Multiply the rate by the learning rate that is meant.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet optax==0.2.8 jax==0.10.2 jaxlib==0.10.2
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P'
import jax
import jax.numpy as jnp
import optax

print("optax", optax.__version__, "jax", jax.__version__)


def left(optimizer, steps=1000):
    """A weight of 1.0 after so many steps without a gradient."""
    params = {"w": jnp.ones([256, 256])}

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, steps)
    return float(params["w"][0, 0])


found = {
    f"{name} at {rate:g}": left(make(rate))
    for rate in (1e-3, 0.0)
    for name, make in (
        ("adamw", lambda rate: optax.adamw(rate, weight_decay=0.01)),
        ("adafactor", lambda rate: optax.adafactor(rate, weight_decay_rate=0.01)),
    )
}
for name, value in found.items():
    print(f"{name}: {value:.2g}")
assert 0.98 < found["adamw at 0.001"] < 1 and found["adamw at 0"] == 1
assert 3e-5 < found["adafactor at 0.001"] < 6e-5
assert abs(found["adafactor at 0"] / found["adafactor at 0.001"] - 1) < 0.1
print("as found")
P
