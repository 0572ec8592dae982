#!/usr/bin/env bash
# On a CPU an optax update of donated state takes up to three more copies of the model in each step.
#
# Guess: where parameters and moments are donated, an update writes over them, and what stands around
#   AdamW (a clip by the global norm, a step that is left out where it is not finite, sums over four
#   batches) adds numbers, or what it keeps in its own state; so it is on TPU, but for apply_if_finite.
# Seen (jax 0.10.2, optax 0.2.8; XLA's analysis of memory, in copies of the parameters): AdamW alone 0;
#   behind clip_by_global_norm 1, which is the gradient divided by its norm, written down beside the
#   choice that reads it; within apply_if_finite 1; with `where(is_finite, new, old)` around it 1.75,
#   of which much are both moments, that are overwritten before parameters have read them; within
#   MultiSteps 3, in each of the steps that only add. Compiled for a v5e: 0, but for apply_if_finite 1.3.
#   One factor in place of the clip, and a branch (`lax.cond`) in place of the choice: 0.
# Hurt: a step of GPT-2's size needs 0.9 GiB more, and its update takes 2.3 times as long.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/env"
"$dir/env/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
cd "$dir"
JAX_PLATFORMS=cpu env/bin/python - <<'PY'
import jax
import jax.numpy as jnp
import optax

print("jax", jax.__version__, "optax", optax.__version__)
PARAMS = {name: jax.ShapeDtypeStruct((8, 1024, 512), jnp.float32) for name in "abcd"}
SIZE = 4 * 8 * 1024 * 512 * 4


def copies(optimizer, way="always"):
    """Temporaries of a donated update, in copies of the parameters."""
    def step(params, state, gradients):
        norm = optax.global_norm(gradients)

        def update(params, state):
            updates, new = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), new

        if way == "branch":
            keep = lambda params, state: (params, state)
            return jax.lax.cond(jnp.isfinite(norm), update, keep, params, state)
        new = update(params, state)
        if way == "choice":
            return jax.tree.map(lambda a, b: jnp.where(jnp.isfinite(norm), a, b), new, (params, state))
        return new

    state = jax.eval_shape(optimizer.init, PARAMS)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(PARAMS, state, PARAMS).compile()
    return round(compiled.memory_analysis().temp_size_in_bytes / SIZE, 2)


def by_one_factor(max_norm):
    def update(updates, state, params=None):
        factor = max_norm / jnp.maximum(optax.global_norm(updates), max_norm)
        return jax.tree.map(lambda x: x * factor, updates), state
    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


adamw = optax.adamw(1e-3, weight_decay=0.1)
seen = {
    "AdamW": copies(adamw),
    "clip_by_global_norm, AdamW": copies(optax.chain(optax.clip_by_global_norm(1.0), adamw)),
    "apply_if_finite(AdamW)": copies(optax.apply_if_finite(adamw, 5)),
    "a choice around AdamW": copies(adamw, "choice"),
    "MultiSteps(AdamW, 4)": copies(optax.MultiSteps(adamw, 4)),
    "one factor, AdamW, in a branch": copies(optax.chain(by_one_factor(1.0), adamw), "branch"),
}
for name, number in seen.items():
    print(f"{name}: {number} more copies of the parameters")
assert list(seen.values()) == [0, 1, 1, 1.75, 3, 0], "no longer so"
PY
