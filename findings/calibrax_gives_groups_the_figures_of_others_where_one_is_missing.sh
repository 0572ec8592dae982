#!/usr/bin/env bash
# calibrax's per-group figures slide to the names of other groups where one group has no text.
#
# Guess: ClasswiseWrapper(metric, class_names=names).compute(predictions, targets, labels) gives each named group the
#   metric of its own rows, leaves a group without rows out, and a mean over the groups that there are.
# Seen (calibrax 0.1.1, jax 0.10.2): names are handed out in the order of the labels that occur, not by label, and the
#   list of labels is filled up with its first one. Of five groups, the second without a text in the sample, it
#   gets the figure of the third, the third that of the fourth, and so on; the last gets that of the first,
#   which counts twice in the mean: 0.76 in place of 0.72. With all groups there, all is right.
# Hurt: error rates by identity group, the usual table of a toxicity model, name the wrong group as the one that is
#   treated worst, and a group that nobody measured has a figure. Small samples and filters do it.
#   (The lines are the same in 0.1.14.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet calibrax==0.1.1 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 numpy==2.3.5
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import numpy as np
from calibrax.metrics.functional import classification
from calibrax.metrics.wrappers import ClasswiseWrapper

print(*(f"{name} {metadata.version(name)}" for name in ("calibrax", "jax")))
NAMES = ["north", "east", "south", "west", "centre"]
ERRORS = 0.05, 0.1, 0.2, 0.3, 0.5
draw = np.random.default_rng(0)
groups = np.repeat(np.arange(len(NAMES)), 400)
targets = draw.integers(0, 2, groups.size)
wrong = draw.random(groups.size) < np.array(ERRORS)[groups]
predictions = np.where(wrong, 1 - targets, targets)
wrapper = ClasswiseWrapper(lambda given, true: float(classification.accuracy(given, true)), class_names=NAMES)


def both(kept):
    seen = wrapper.compute(predictions[kept], targets[kept], groups[kept])
    true = {NAMES[group]: float(1 - wrong[kept & (groups == group)].mean()) for group in np.unique(groups[kept])}
    true["mean"] = sum(true.values()) / len(true)
    return seen, true


for title, kept in (("all groups", groups >= 0), ("no text of east", groups != 1)):
    seen, true = both(kept)
    print(f"{title}:")
    for name in (*NAMES, "mean"):
        print(f"   {name:7} calibrax {seen[name]:.3f}, by hand {true.get(name, float('nan')):.3f}")
    if title == "all groups":
        assert all(abs(seen[name] - true[name]) < 1e-6 for name in true)
shift = {"north": "north", "east": "south", "south": "west", "west": "centre", "centre": "north"}
assert all(abs(seen[name] - true[source]) < 1e-6 for name, source in shift.items()), "no longer so"
assert "east" not in true and abs(seen["mean"] - true["mean"]) > 0.02, "no longer so"
P
