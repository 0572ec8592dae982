#!/usr/bin/env bash
# Guess: clu.metrics.Average counts in float32 whatever the values are: its empty() starts in float32, so
#   the mean of 0.5 over any number of batches is 0.5.
# Seen (clu 0.0.12, jax 0.7.1): from_model_output keeps the dtype of the values and merge adds in it. In the
#   loop of clu's own documentation (`metrics = update if metrics is None else metrics.merge(update)`) a
#   loss in bfloat16 stops adding at 128, while the count goes on: the mean of 2,000 batches of 0.5 is 0.06.
#   In float16 one batch of 262,144 values of 0.5 has an infinite total. From empty() the mean is 0.5.
# Hurt: the loss of a long evaluation in bfloat16 sinks with its length, as if the model were better, and two
#   runs that were measured over different numbers of batches are not comparable. Start with empty(), or
#   hand the values over in float32.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet clu==0.0.12 flax==0.12.0 jax==0.7.1 jaxlib==0.7.1 numpy==2.4.6
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P'
from importlib.metadata import version

import flax
import jax.numpy as jnp
from clu import metrics


@flax.struct.dataclass
class Metrics(metrics.Collection):
    loss: metrics.Average.from_output("loss")


def mean(dtype, batches, start):
    merged = start
    update = Metrics.single_from_model_output(loss=jnp.full((), 0.5, dtype))
    for _ in range(batches):
        merged = update if merged is None else merged.merge(update)
    return float(merged.compute()["loss"])


print(*(f"{name} {version(name)}" for name in ("clu", "flax", "jax")))
seen = {batches: mean(jnp.bfloat16, batches, None) for batches in (200, 500, 1000, 2000)}
print("mean of batches of 0.5 in bfloat16:", {batches: round(value, 3) for batches, value in seen.items()})
begun = mean(jnp.bfloat16, 2000, Metrics.empty())
full = mean(jnp.float32, 2000, None)
half = metrics.Average.from_model_output(jnp.full((262144,), 0.5, jnp.float16))
print("from empty():", begun, "- in float32:", full, "- total of one batch in float16:", half.total)
assert seen[200] == begun == full == 0.5
assert seen[500] < 0.3 and seen[1000] < 0.2 and seen[2000] < 0.1, "no longer so"
assert jnp.isinf(half.total), "no longer so"
P
