#!/usr/bin/env bash
# calibrax's Matthews correlation of a perfect classifier is -0.72 where there are a hundred thousand texts.
#
# Guess: matthews_corrcoef(predictions, targets), "1.0 = perfect, -1.0 = inverse", is scikit-learn's of the same arrays,
#   whatever their length.
# Seen (calibrax 0.1.1, jax 0.10.2): the counts of the table are multiplied as int32. Of balanced texts, half of them
#   toxic, a perfect classifier has 1 at 90 000 and -0.72 at 100 000; one that errs in 5 of 100 has 0.90
#   at 90 000 and -0.82 at 100 000; one that errs in 20 of 100 is right at both, so the order of the three is
#   turned round. Accuracy and F1 of the same arrays are right. Nothing is said.
# Hurt: on the size of a real test set the best classifier is the last of the table, and a threshold chosen by it is
#   the worst. (The lines are the same in 0.1.14.)
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
seen = {}
for texts in (90_000, 100_000):
    targets = np.arange(texts) % 2
    for errors in (0, 0.05, 0.2):
        wrong = np.random.default_rng(0).random(texts) < errors
        predictions = np.where(wrong, 1 - targets, targets)
        figure = float(classification.matthews_corrcoef(predictions, targets))
        true = float(metrics.matthews_corrcoef(targets, predictions))
        f1 = float(classification.f1_score(predictions, targets))
        accuracy = float(classification.accuracy(predictions, targets))
        seen[texts, errors] = figure, true
        print(f"{texts} texts, {errors:.0%} wrong: calibrax {figure:+.3f}, scikit-learn {true:+.3f}; F1 {f1:.3f}")
        assert abs(f1 - metrics.f1_score(targets, predictions)) < 1e-4
        assert abs(accuracy - metrics.accuracy_score(targets, predictions)) < 1e-5
assert all(abs(figure - true) < 1e-3 for (texts, _), (figure, true) in seen.items() if texts == 90_000)
assert seen[100_000, 0][0] < -0.5 and seen[100_000, 0.05][0] < -0.5 < 0.5 < seen[100_000, 0.2][0], "no longer so"
P
