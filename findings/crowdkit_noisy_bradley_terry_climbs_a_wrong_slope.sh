#!/usr/bin/env bash
# crowd-kit's NoisyBradleyTerry follows a gradient that knows one comparison of each worker, and of the wrong worker.
#
# Guess: NoisyBradleyTerry finds scores, skills and biases under which the comparisons are likeliest, so that raters who
#   always take the left text have a skill near 0 and move the scores little.
# Seen (crowd-kit 1.4.2): the gradients of workers are written at one place too low and are set, not added up: each is
#   that of the worker's last comparison, and stands at the worker before; the first worker's bias replaces the
#   gradient of the last item's score; the last worker's skill has none and keeps its random start, 0.70 here,
#   whatever that worker did. L-BFGS-B stops where it cannot get on. With a numeric gradient, the same objective from
#   the same start gets far lower and tells apart raters who read from raters who do not.
# Hurt: who drops or weighs raters by skills_ keeps those who only click, who come out as skilled as the good ones, and
#   the rater whose name sorts last is judged by a random number. Scores of the models that were compared (which
#   continuation is less toxic?) are taken before the fit is done. Fit the model with another optimizer.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet crowd-kit==1.4.2 numpy==1.26.4 pandas==2.3.3 scipy==1.12.0
cd "$work"
"$work/venv/bin/python" - <<'P'
import warnings
from importlib import metadata

import numpy as np
import pandas as pd
from scipy.optimize import approx_fprime, minimize
from scipy.special import expit, logit

warnings.filterwarnings("ignore")
from crowdkit.aggregation import NoisyBradleyTerry

print(*(f"{name} {metadata.version(name)}" for name in ("crowd-kit", "scipy", "numpy")))
items, workers = np.array(list("abcde")), np.array([f"w{i}" for i in range(6)])
strength = np.array([1.5, 0.7, 0, -0.7, -1.5])
reads = np.array([1, 1, 1, 1, 0.05, 0.05])
random = np.random.default_rng(0)
pairs = np.array([random.choice(5, 2, replace=False) for _ in range(900)])
who = random.integers(6, size=900)
# Who does not read takes the left one nine times of ten.
takes_left = np.where(random.random(900) < reads[who], expit(strength[pairs[:, 0]] - strength[pairs[:, 1]]), 0.9)
left_won = random.random(900) < takes_left
best = np.where(left_won, pairs[:, 0], pairs[:, 1])
left, right = items[pairs.T]
data = pd.DataFrame({"worker": workers[who], "left": left, "right": right, "label": items[best]})


def cost(x):
    """Minus the documented log-likelihood, of [_, five scores, six biases, six skills] before the sigmoid."""
    scores, bias, skill = x[1:6], x[6:12][who], expit(x[12:][who])
    sign = np.where(left_won, 1, -1)
    gap = scores[pairs[:, 0]] - scores[pairs[:, 1]]
    return -np.log(skill * expit(sign * gap) + (1 - skill) * expit(sign * bias)).sum()


numbers = np.column_stack([pairs, best]) + 1
fixed = (numbers, who, 5, 6, 0)
start = np.random.RandomState(0).rand(18)
np.testing.assert_allclose(NoisyBradleyTerry._compute_log_likelihood(start, *fixed), cost(start))
slope, numeric = NoisyBradleyTerry._compute_gradient(start, *fixed), approx_fprime(start, cost, 1e-7)
for name, part in (("a to e", slice(1, 6)), ("biases", slice(6, 12)), ("skills", slice(12, 18))):
    print(f"gradient of {name}: {slope[part].round(2).tolist()}, numerically {numeric[part].round(2).tolist()}")
np.testing.assert_allclose(slope[1:5], numeric[1:5], atol=1e-3)
assert abs(slope[5] - numeric[5]) > 10 and abs(slope[6:] - numeric[6:]).max() > 5 and slope[17] == 0, "no longer so"

model = NoisyBradleyTerry(n_iter=10_000, tol=1e-12).fit(data)
found = np.concatenate([[0], *(logit(part.to_numpy()) for part in (model.scores_, model.biases_, model.skills_))])
better = minimize(cost, start, method="L-BFGS-B", options={"maxiter": 10_000, "maxfun": 1_000_000}).x
for name, x in (("crowd-kit", found), ("numeric gradient", better)):
    chance = expit(x[1] - x[5])
    print(f"{name}: cost {cost(x):.1f}, skills {expit(x[12:]).round(2).tolist()}, a better than e {chance:.3f}")
print(f"made with: skills {reads.tolist()}, a better than e {expit(strength[0] - strength[4]):.3f}")
assert cost(found) - cost(better) > 30, "no longer so"
assert abs(found[17] - start[17]) < 1e-6, "no longer so"
skills = expit(better[12:])
assert skills[:4].min() > skills[4:].max() + 0.3, "the reference does not tell raters apart"
assert expit(found[12:16]).min() < expit(found[16:]).max(), "no longer so"
print("as found")
P
