#!/usr/bin/env bash
# Guess: make_sampler(temp, top_p) of mlx-lm draws as transformers does: the
#   temperature shapes the distribution, of which the smallest set with top_p of it is kept.
# Seen (mlx-lm 0.32.2, mlx 0.32.4 on a CPU; transformers 5.24.0): the set is that of temperature 1, whatever the
#   temperature, which then shapes what is left. Of tokens with 0.62, 0.3 and 0.08, at temperature 2 and top_p 0.9,
#   transformers draws the third in 17 % of the cases and mlx-lm never; at temperature 0.5 transformers keeps one
#   token of 0.62 and 0.38 where top_p is 0.7, and mlx-lm both.
# Hurt: continuations that were drawn at another temperature than 1 are not those that a paper's settings name. A
#   comparison of the toxicity of models over temperatures says less than there is: at high temperatures the rare
#   tokens are cut off all the same.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet 'mlx[cpu]==0.32.4' mlx-lm==0.32.2 transformers==5.24.0 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P'
from importlib.metadata import version

import mlx.core as mx
import numpy as np
import torch
from mlx_lm.sample_utils import make_sampler
from transformers import TemperatureLogitsWarper, TopPLogitsWarper


def of_mlx(probabilities, temperature, top_p):
    mx.random.seed(0)
    logits = mx.log(mx.array([probabilities] * 50_000))
    drawn = np.array(make_sampler(temp=temperature, top_p=top_p)(logits))
    return [round(float(np.mean(drawn == token)), 2) for token in range(len(probabilities))]


def of_transformers(probabilities, temperature, top_p):
    logits = torch.tensor([probabilities]).log()
    for warper in (TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)):
        logits = warper(None, logits)
    return [round(share, 2) for share in logits.softmax(-1)[0].tolist()]


print(*(f"{name} {version(name)}" for name in ("mlx-lm", "mlx", "transformers")))
seen = []
for case in (([0.62, 0.3, 0.08], 2.0, 0.9), ([0.62, 0.38], 0.5, 0.7)):
    seen.append((of_mlx(*case), of_transformers(*case)))
    print("probabilities {}, temperature {}, top_p {}:".format(*case), "mlx-lm {}, transformers {}".format(*seen[-1]))
assert seen[0][0][2] == 0 and seen[0][1][2] > 0.1, "no longer so"
assert seen[1][0][1] > 0.2 and seen[1][1] == [1.0, 0.0], "no longer so"
P
