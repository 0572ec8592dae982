#!/usr/bin/env bash
# netcal's MMCE calls a calibrated scorer of clean texts worst of all, and one that has it the wrong way round best.
#
# Guess: MMCE().measure(X, y) with X of one dimension, "1-D for binary classification", is the calibration error of
#   probabilities of y=1, as ECE().measure(X, y) is: near 0 for a calibrated scorer.
# Seen (netcal 1.4.0, torch 2.13.0): it takes X itself for the confidence in the label that it predicts, 0 below 0.5,
#   and not 1 - X. A clean text of probability 0.02 is "right at a confidence of 0.02", off by 0.98. A calibrated scorer
#   of 2,000 texts, 4 % of them toxic, has 0.88 in place of 0.003; the same scores with all labels turned round have
#   0.002 in place of 0.88. A scorer of mostly toxic texts is right, and so are two columns, [1 - X, X]. ECE, ACE
#   and MCE of the same package take one dimension as it is meant.
# Hurt: the more of the texts are clean, the worse a calibrated scorer looks; who picks a calibration by MMCE (Platt,
#   temperature) takes the one that pushes scores of clean texts up. Give it two columns.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
# What netcal asks for besides (pyro-ppl, gpytorch, tensorboard, matplotlib) its metrics do not import.
"$work/venv/bin/pip" install --quiet numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 tqdm==4.67.1
"$work/venv/bin/pip" install --quiet --no-deps netcal==1.4.0
cd "$work"
"$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import numpy as np
from netcal.metrics import ECE, MMCE

print(*(f"{name} {metadata.version(name)}" for name in ("netcal", "torch", "numpy")))
draw = np.random.default_rng(0)


def mmce(scores, labels):
    """The definition in netcal's description, of the predicted label's confidence."""
    confidence = np.maximum(scores, 1 - scores)
    off = ((scores > 0.5) == labels) - confidence
    kernel = np.exp(-2.5 * np.abs(confidence[:, None] - confidence))
    return np.sqrt(off @ kernel @ off) / scores.size


seen = {}
for name, (a, b) in {"4 % toxic": (0.5, 12), "half toxic": (1, 1), "96 % toxic": (12, 0.5)}.items():
    scores = draw.beta(a, b, size=2_000)
    calibrated = (draw.random(scores.size) < scores).astype(int)
    for kind, labels in {"calibrated": calibrated, "turned round": 1 - calibrated}.items():
        one, two = MMCE().measure(scores, labels), MMCE().measure(np.stack([1 - scores, scores], 1), labels)
        seen[name, kind] = mmce(scores, labels), one, ECE(bins=15).measure(scores, labels)
        print(f"{name}, {kind}: MMCE {seen[name, kind][0]:.4f}, netcal {one:.4f}, two columns {two:.4f}", end="; ")
        print(f"netcal's ECE {seen[name, kind][2]:.4f}")
        assert np.isclose(two, seen[name, kind][0])
right, one, ece = seen["4 % toxic", "calibrated"]
assert right < 0.01 and ece < 0.02 and one > 0.8, "no longer so"
right, one, ece = seen["4 % toxic", "turned round"]
assert right > 0.8 and ece > 0.8 and one < 0.01, "no longer so"
assert seen["half toxic", "calibrated"][1] > 10 * seen["half toxic", "calibrated"][0], "no longer so"
assert np.isclose(*seen["96 % toxic", "calibrated"][:2])
print("as found")
P
