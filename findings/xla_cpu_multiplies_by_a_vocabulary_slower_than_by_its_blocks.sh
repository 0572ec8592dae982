#!/usr/bin/env bash
# On a CPU products with a whole output table take up to a third longer than with 16 blocks of it.
#
# Guess: a large product has the rate of a middling one, or a better one, whatever its shape, since
#   XLA's products are made tile by tile; to cut one up would only add calls.
# Seen (jax 0.10.2, two processors, GPT-2's table of 50,304 x 768 in float32, 256 places at once, five
#   rounds): logits 1.08 times as long (1.06 to 1.11), the gradient of the states 1.24 (1.17 to 1.31),
#   that of the table 1.27 (1.21 to 1.36).
# Hurt: the loss of a language model is three such products, a quarter of a step of GPT-2's small size.
#   What splits the places into chunks, to save memory, does not split the vocabulary.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/env"
"$dir/env/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cd "$dir"
JAX_PLATFORMS=cpu env/bin/python - <<'PY'
import time

import jax
import jax.numpy as jnp
import numpy as np

print("jax", jax.__version__)
PLACES, VOCABULARY, WIDTH, BLOCKS = 256, 50_304, 768, 16
states, table, logits = (
    jax.random.normal(jax.random.key(n), shape)
    for n, shape in enumerate([(PLACES, WIDTH), (VOCABULARY, WIDTH), (PLACES, VOCABULARY)])
)
tables = [jnp.array(block) for block in jnp.split(table, BLOCKS)]
parts = [jnp.array(part) for part in jnp.split(logits, BLOCKS, axis=1)]

SIDES = {
    "logits": (
        (lambda x, w: jnp.einsum("pd,vd->pv", x, w), states, table),
        (lambda x, w: [jnp.einsum("pd,vd->pv", x, each) for each in w], states, tables),
    ),
    "gradient of the states": (
        (lambda y, w: jnp.einsum("pv,vd->pd", y, w), logits, table),
        (lambda y, w: sum(map(lambda a, b: jnp.einsum("pv,vd->pd", a, b), y, w)), parts, tables),
    ),
    "gradient of the table": (
        (lambda y, x: jnp.einsum("pv,pd->vd", y, x), logits, states),
        (lambda y, x: [jnp.einsum("pv,pd->vd", each, x) for each in y], parts, states),
    ),
}


def seconds(function, *operands):
    start = time.perf_counter()
    for _ in range(4):
        jax.block_until_ready(function(*operands))
    return time.perf_counter() - start


medians = {}
for name, sides in SIDES.items():
    whole, in_blocks = (jax.jit(side[0]) for side in sides)
    for function, side in ((whole, sides[0]), (in_blocks, sides[1])):
        seconds(function, *side[1:])
    ratios = [seconds(whole, *sides[0][1:]) / seconds(in_blocks, *sides[1][1:]) for _ in range(5)]
    medians[name] = float(np.median(ratios))
    print(f"{name}: whole takes {medians[name]:.2f} times as long ({min(ratios):.2f} to {max(ratios):.2f})")
assert medians["gradient of the table"] > 1.1 and min(medians.values()) > 1, "no longer so"
PY
