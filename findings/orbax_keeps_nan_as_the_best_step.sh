#!/usr/bin/env bash
# Orbax's CheckpointManager keeps a step whose metric is NaN as the best one, and deletes the best.
#
# Guess: with `best_fn` and `best_mode="min"` a step whose loss is NaN is the worst of all, or has no
#   rank, as a step without metrics has none.
# Seen (orbax-checkpoint 0.12.8, jax 0.10.2): steps are sorted by their metric, and NaN is smaller than
#   nothing and greater than nothing, so it divides the list. Of losses 1, NaN, 3, 2, 2.5 the two that are
#   kept are 2 and 2.5, and the step of loss 1 is deleted; of 3, 1, 2, NaN the best step is said to be the
#   one of NaN. No warning. Infinity is ranked as it should be.
# Hurt: one step with a loss that is not finite, as bf16 has them, costs the best model of days, and
#   `best_step()` restores the broken one. Have `best_fn` return infinity (or its negative) for NaN.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "orbax-checkpoint==0.12.8" "tensorstore==0.1.86" "jax==0.10.2" \
  "jaxlib==0.10.2"
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P' 2>/dev/null
import math
import pathlib
from importlib import metadata

import jax
import orbax.checkpoint as ocp

print("orbax-checkpoint", metadata.version("orbax-checkpoint"), "jax", jax.__version__)
NAN = math.nan


def kept(name, losses, rank=lambda loss: loss):
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2, best_fn=lambda metrics: rank(metrics["loss"]), best_mode="min"
    )
    with ocp.CheckpointManager(pathlib.Path(name).absolute(), options=options) as manager:
        for step, loss in enumerate(losses):
            tree = ocp.args.StandardSave({"w": jax.numpy.ones(2)})
            manager.save(step, args=tree, metrics={"loss": loss})
        manager.wait_until_finished()
        steps, best = sorted(manager.all_steps()), manager.best_step()
    print(f"losses {losses}: kept {[losses[s] for s in steps]}, best {losses[best]}")
    return steps, best


assert kept("middle", [1.0, NAN, 3.0, 2.0, 2.5]) == ([3, 4], 3)
assert kept("last", [3.0, 1.0, 2.0, NAN]) == ([1, 3], 3)
finite = lambda loss: loss if math.isfinite(loss) else math.inf
assert kept("ranked", [1.0, NAN, 3.0, 2.0, 2.5], finite)[1] == 0
print("as found: NaN decides which steps are deleted, and is the best")
P
