#!/usr/bin/env bash
# calibrax's AUC and average precision follow the order of rows where scores tie: any value from 0 to 1 for one score.
#
# Guess: roc_auc(predictions, targets), "1.0 = perfect separation, 0.5 = random", counts a tie as half, as everywhere,
#   and does not change when rows are permuted.
# Seen (calibrax 0.1.1, jax 0.10.2): rows are sorted by score and each row is a step of its own, so tied rows count
#   in the order they came in. Of texts that all have the same score the AUC is 1 with the toxic ones first,
#   0 with them last. Of scores in fifths, as a judge gives them, that are right more often than not, the AUC is
#   0.90 in one order of rows, 0.68 in the other and 0.79 by scikit-learn; average precision 0.90, 0.68
#   and 0.74. Scores without ties are measured right.
# Hurt: test sets are often written class by class. Coarse scores (a judge's marks, rounded files, bf16) then look
#   far better or worse than they are, and a shuffled copy of a file has another AUC. (The same in 0.1.14.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet calibrax==0.1.1 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 numpy==2.3.5 \
    scikit-learn==1.8.0
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import numpy as np
from calibrax.metrics.functional import classification
from sklearn import metrics

print(*(f"{name} {metadata.version(name)}" for name in ("calibrax", "jax")))
draw = np.random.default_rng(0)
toxic = np.repeat([1, 0], 500)
fine = draw.normal(size=1000) * 0.17 + 0.4 + 0.2 * toxic
marks = np.clip(np.round(fine * 5) / 5, 0, 1)


def figures(scores, order):
    scores, labels = scores[order], toxic[order]
    return (
        float(classification.roc_auc(scores, labels)),
        float(metrics.roc_auc_score(labels, scores)),
        float(classification.average_precision(scores, labels)),
        float(metrics.average_precision_score(labels, scores)),
    )


first, last = np.arange(1000), np.arange(1000)[::-1]
seen = {}
for name, scores in (("no ties", fine), ("marks", marks), ("one score", np.full(1000, 0.5))):
    for place, order in (("toxic first", first), ("toxic last", last)):
        seen[name, place] = figures(scores, order)
        print("{}, {}: AUC {:.2f}, scikit-learn {:.2f}; average precision {:.2f}, {:.2f}".format(
            name, place, *seen[name, place]))  # fmt: skip
for place in ("toxic first", "toxic last"):
    assert np.allclose(seen["no ties", place][::2], seen["no ties", place][1::2], atol=1e-3)
assert seen["one score", "toxic first"][0] > 0.99 and seen["one score", "toxic last"][0] < 0.01, "no longer so"
assert seen["marks", "toxic first"][0] > seen["marks", "toxic last"][0] + 0.1, "no longer so"
assert seen["marks", "toxic first"][2] > seen["marks", "toxic last"][2] + 0.1, "no longer so"
P
