#!/usr/bin/env bash
# MLstatkit's Delong_test answers p = 0 for two scores that rank all texts alike: as significant as it gets.
#
# Guess: Delong_test(labels, scores, others) of scores that rank the texts alike, with one AUC both, has p = 1, or no
#   p-value at all; not one below 0.05.
# Seen (MLstatkit 0.1.91): the difference's variance is 0, so it falls back to a bootstrap, whose two-sided p is twice
#   the smaller of the shares of draws with a difference "<= 0" and "> 0". Where all differences are 0 the second is
#   0: z = 0.0, p = 0.0, with equal AUCs and equal intervals. One pair of texts that changes places gives p = 0.48.
# Hurt: a classifier of toxicity and what became of it after scaling by a temperature, Platt's sigmoid, a bias or an
#   export rank alike, and that nothing changed is what one tests. A table of p-values has them as the surest
#   differences, and they pass every correction for many tests. Look at both AUCs, or at info["method"].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mlstatkit==0.1.91 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 tqdm==4.70.1
cd "$work"
"$work/venv/bin/python" - <<'P'
from importlib import metadata

import numpy as np
from MLstatkit import Delong_test
from sklearn.metrics import roc_auc_score

print(*(f"{name} {metadata.version(name)}" for name in ("mlstatkit", "scikit-learn", "numpy")))
draw = np.random.default_rng(0)
labels = (draw.random(200) < 0.3).astype(int)
logits = draw.normal(size=200) + labels
toxicity = 1 / (1 + np.exp(-logits))
calibrated = 1 / (1 + np.exp(-(logits / 2 - 0.5)))
assert (np.argsort(toxicity) == np.argsort(calibrated)).all()
assert roc_auc_score(labels, toxicity) == roc_auc_score(labels, calibrated)


def ask(name, scores):
    z, p, *_, auc, other, info = Delong_test(labels, toxicity, scores, n_boot=500, random_state=0)
    print(f"{name}: AUC {auc:.4f} and {other:.4f}, z = {z:.2f}, p = {p:.2f} ({info['method']})")
    return z, p


assert ask("calibrated", calibrated) == (0, 0), "no longer so"
assert ask("the same scores", toxicity.copy()) == (0, 0), "no longer so"

# One toxic text and the clean one behind it change places: the smallest difference that there is.
order = np.argsort(toxicity)
place = next(i for i in range(199) if labels[order[i]] == 0 and labels[order[i + 1]] == 1)
swapped = toxicity.copy()
swapped[order[[place, place + 1]]] = toxicity[order[[place + 1, place]]]
z, p = ask("one pair swapped", swapped)
assert p > 0.05
different = toxicity + 0.2 * draw.normal(size=200)
z, p = ask("with noise", different)
assert 0 < p < 0.999
print("as found")
P
