#!/usr/bin/env bash
# torchmetrics' fleiss_kappa takes the text with most raters for the rule: raters that others lack count as discord.
#
# Guess: fleiss_kappa(counts) of a table of "the number of raters that chose each category" is 1 where all raters of
#   each text agree, whether a text has three raters or five; or a table with unequal rows is refused, as statsmodels
#   refuses it.
# Seen (torchmetrics 1.9.0, torch 2.13.0): each row is divided by the pairs of the row with most raters. Three of three
#   raters who agree have 0.2 agreement where some other text has five raters. Unanimous tables: half of the texts with
#   three and half with five raters have 0.41, one text with ten among texts with three has -0.04. Nothing is said; the
#   example in its documentation has unequal rows itself. A table on which all chose one category has 0.
# Hurt: texts rated for toxicity have unequal numbers of raters nearly always, since answers are filtered and doubtful
#   texts are shown to more people. Agreement looks like chance, and a single text with many raters is enough. Take the
#   same number of raters from each text, or Krippendorff's alpha.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet torchmetrics==1.9.0 numpy==2.4.6 krippendorff==0.9.0
cd "$work"
"$work/venv/bin/python" - <<'P'
from importlib import metadata

import krippendorff
import numpy as np
import torch
from torchmetrics.functional.nominal import fleiss_kappa
from torchmetrics.nominal import FleissKappa

print(*(f"{name} {metadata.version(name)}" for name in ("torchmetrics", "krippendorff", "torch")))


def unanimous(raters):
    """Counts of "clean" and "toxic" for texts by turns, on which all of so many raters agree."""
    return torch.tensor([[n, 0] if i % 2 else [0, n] for i, n in enumerate(raters)])


def compared(name, counts):
    kappa = float(fleiss_kappa(counts))
    alpha = krippendorff.alpha(value_counts=counts.numpy(), level_of_measurement="nominal")
    print(f"{name}: kappa {kappa:.2f}, Krippendorff's alpha {alpha:.2f}")
    return kappa, alpha


five = compared("five raters each", unanimous([5] * 40))
halves = compared("three raters, or five", unanimous([3] * 20 + [5] * 20))
one = compared("three raters, one text ten", unanimous([10] + [3] * 39))
assert np.allclose(five, 1, atol=1e-3)
assert halves[1] == one[1] == 1 and halves[0] < 0.5 and one[0] < 0.05, "no longer so"

# The same answers, now with one of five raters at odds with the others on every third text.
odd = torch.tensor([[4, 1] if i % 3 == 0 else [0, 5] if i % 3 == 1 else [5, 0] for i in range(60)])
fewer = torch.cat([odd[:30], (odd[30:] * 2 + 2) // 5])
whole = compared("five raters, some at odds", odd)
cut = compared("half of them with two raters", fewer)
assert abs(whole[0] - whole[1]) < 0.02 and cut[0] < cut[1] - 0.3, "no longer so"

counted = FleissKappa()
counted.update(unanimous([3] * 20))
counted.update(unanimous([5] * 20))
print("class, one batch with three raters and one with five:", round(float(counted.compute()), 2))
assert counted.compute() < 0.5, "no longer so"
print("as found")
P
