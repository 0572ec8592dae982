#!/usr/bin/env bash
# optax.inject_hyperparams makes Adam's b2 a bfloat16 beside bfloat16 parameters, which is 1: its first step is NaN.
#
# Guess: optax.inject_hyperparams(optax.adamw)(learning_rate=...), which is there so that the learning rate can be
#   logged or set by hand, trains as optax.adamw(learning_rate=...) does, whatever the parameters' dtype is.
# Seen (optax 0.2.8, jax 0.10.2): every number that is not a schedule is cast to the widest dtype of the parameters.
#   0.999 in bfloat16 is 1, so Adam's second moment stays 0 and is divided by 1 - 1: all parameters are NaN after the
#   first step, whatever the learning rate is, also where that is a schedule, which keeps its float32. Without
#   the wrapper, in float16, or with hyperparam_dtype=jnp.float32 nothing happens.
# Hurt: a model in bfloat16 is lost at its first step, and gradients, data and learning rate are searched, since the
#   optimizer that is wrapped is the one that trained yesterday.
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
RATE, STEPS = 1e-2, 5


def trained(optimizer, dtype):
    """A parameter of 1.0 after some steps along a constant gradient, and the state."""
    params = {"w": jnp.ones(4, dtype)}
    state = optimizer.init(params)
    for _ in range(STEPS):
        updates, state = optimizer.update({"w": jnp.full(4, 0.1, dtype)}, state, params)
        params = optax.apply_updates(params, updates)
    return float(params["w"][0]), state


inject = optax.inject_hyperparams
makers = {
    "adamw": optax.adamw(RATE),
    "injected": inject(optax.adamw)(learning_rate=RATE),
    "injected, a schedule": inject(optax.adamw)(learning_rate=optax.constant_schedule(RATE)),
    "injected, float32": inject(optax.adamw, hyperparam_dtype=jnp.float32)(learning_rate=RATE),
}
found = {}
for dtype in ("float32", "float16", "bfloat16"):
    for name, optimizer in makers.items():
        found[name, dtype], state = trained(optimizer, dtype)
        b2 = f", b2 = {state.hyperparams['b2']!r}" if name != "adamw" else ""
        print(f"{dtype}, {name}: {found[name, dtype]:.4f}{b2}")
for (name, dtype), value in found.items():
    if dtype == "bfloat16" and name in ("injected", "injected, a schedule"):
        assert value != value, "no longer so"
    else:
        assert abs(value - (1 - STEPS * RATE)) < 0.01
print("as found")
P
