#!/usr/bin/env bash
# crowd-kit's BradleyTerry compares an array with itself to see whether it converged, and stops after two turns.
#
# Guess: BradleyTerry(n_iter=10000) finds the scores under which the comparisons that raters made are most likely, or
#   stops once scores move by less than tol.
# Seen (crowd-kit 1.4.2): the scores before and after a turn are one array, so that they never seem to move. Turn two
#   is the last whatever n_iter and tol are. Six models, each compared 100 times with its neighbours and now and then
#   with others: crowd-kit's order is a, d, b, c, e, f; choix and scipy agree on a, b, c, d, e, f, which is the true
#   one. Two turns of the algorithm in numpy give crowd-kit's scores, 10000 those of choix and scipy.
# Hurt: a ranking of models by raters (which of two continuations is less toxic?) tells as much of who met whom as of
#   who won. The best model loses to the worst 12% of the time by crowd-kit's scores, 1.1% by the likeliest ones. Use
#   choix, or a logistic regression.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet crowd-kit==1.4.2 choix==0.4.1 numpy==1.26.4 pandas==2.3.3 scipy==1.12.0
cd "$work"
"$work/venv/bin/python" - <<'P'
import warnings
from importlib import metadata

import choix
import numpy as np
import pandas as pd
from scipy.optimize import minimize

warnings.filterwarnings("ignore")
from crowdkit.aggregation import BradleyTerry

print(*(f"{name} {metadata.version(name)}" for name in ("crowd-kit", "choix", "scipy")))
models = list("abcdef")
strength = np.array([2, 1, 0.5, 0, -1, -2.5])
games = {(i, i + 1): 100 for i in range(5)} | {(0, 2): 10, (1, 4): 10, (3, 5): 10}
rows, pairs = [], []
for (i, j), count in games.items():
    wins = round(count / (1 + np.exp(strength[j] - strength[i])))
    for game in range(count):
        best, other = (i, j) if game < wins else (j, i)
        left, right = (i, j) if game % 2 else (j, i)
        rows.append(("rater", models[left], models[right], models[best]))
        pairs.append((best, other))
data = pd.DataFrame(rows, columns=["worker", "left", "right", "label"])


def surprise(values):
    return sum(np.log1p(np.exp(values[other] - values[best])) for best, other in pairs)


def show(name, chance):
    order = "".join(models[i] for i in np.argsort(-chance))
    against = chance[0] / (chance[0] + chance[-1])
    print(f"{name}: {chance.round(4).tolist()}, order {order}, a loses to f {1 - against:.4f}", end="")
    print(f", -log likelihood {surprise(np.log(chance)):.2f}")
    return order


fits = {}
for turns in (1, 2, 3, 10_000):
    fits[turns] = BradleyTerry(n_iter=turns, tol=1e-12).fit(data).scores_[models].to_numpy()
orders = {turns: show(f"crowd-kit, n_iter={turns}", fit) for turns, fit in fits.items()}
likely = [choix.opt_pairwise(6, pairs, tol=1e-10), minimize(surprise, np.zeros(6), tol=1e-10).x]
right = [np.exp(values) / np.exp(values).sum() for values in likely]
np.testing.assert_allclose(*right, rtol=1e-3)
assert show("choix", right[0]) == show("scipy", right[1]) == "abcdef"

# The algorithm that the documentation names (Hunter's), turn by turn.
won = np.zeros((6, 6))
np.add.at(won, tuple(np.transpose(pairs)), 1)
scores = np.ones(6)
for turn in range(1, 10_001):
    scores = won.sum(1) / ((won + won.T) / (scores[:, None] + scores)).sum(0)
    scores /= scores.sum()
    if turn == 2:
        np.testing.assert_allclose(fits[10_000], scores)
np.testing.assert_allclose(scores, right[1], rtol=1e-3)
assert (fits[2] == fits[3]).all() and (fits[2] == fits[10_000]).all() and not (fits[1] == fits[2]).all(), "no longer so"
assert orders[10_000] == "adbcef", "no longer so"
print("as found")
P
