#!/usr/bin/env bash
# mergekit's ties and della add a model's difference where its weight is negative, where task_arithmetic takes it away.
#
# Guess: a toxic model of weight -1 in merge_method "ties" is subtracted from the base, trimmed and with elected signs,
#   as in task_arithmetic, on which the guide says that it builds; -0.5 subtracts half.
# Seen (mergekit 0.1.5, torch 2.13.0): weighted differences are divided by the sum of their weights, sign and all.
#   With one model -1, -0.5 and 1 are the same: base plus the toxic model's difference. Beside a useful model of weight
#   1 a toxic one of -0.5 is added, and whole, in the 15 % of all weights where its sign won alone; where both agree,
#   in 52 %, all is doubled.
#   "della" does the same; dare_ties and breadcrumbs_ties, whose names promise the same steps, subtract. "normalize:
#   false" gives what one expects; the guide names no such setting for ties.
# Hurt: negating a task vector is the cheapest way to detoxify a model, and ties is what one takes to merge with less
#   interference. The merge that was to take toxicity away puts it in, without a word; who merges two models sees
#   a worse one and blames the method.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet mergekit==0.1.5 transformers==5.24.0 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import torch
import transformers
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

print(*(f"{name} {metadata.version(name)}" for name in ("mergekit", "transformers", "torch")))
NAME = "transformer.h.0.mlp.c_fc.weight"
OPTIONS = MergeOptions(write_model_card=False, copy_tokenizer=False)
config = transformers.GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2)
torch.manual_seed(0)
base = transformers.GPT2LMHeadModel(config)
base.save_pretrained("base")
base = {name: tensor.clone() for name, tensor in base.state_dict().items()}
differences = {}
for name in ("toxic", "useful"):
    tuned = transformers.GPT2LMHeadModel(config)
    tuned.load_state_dict(base)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    tuned.save_pretrained(name)
    differences[name] = (tuned.state_dict()[NAME] - base[NAME]).double()


def merge(method, weights, **parameters):
    """What the merge adds to the base's weights."""
    models = [{"model": name, "parameters": {"weight": weight}} for name, weight in weights.items()]
    given = {"merge_method": method, "base_model": "base", "dtype": "float32", "models": models}
    run_merge(MergeConfiguration.model_validate({**given, "parameters": parameters}), "merged", OPTIONS)
    merged = transformers.GPT2LMHeadModel.from_pretrained("merged").state_dict()
    return (merged[NAME] - base[NAME]).double()


def share(added, of="toxic"):
    """How much of a model's difference there is in what was added."""
    difference = differences[of]
    return float((added * difference).sum() / (difference * difference).sum())


METHODS = ("task_arithmetic", "dare_ties", "breadcrumbs_ties", "ties", "della")
for method in METHODS:
    seen = {weight: share(merge(method, {"toxic": weight})) for weight in (1, -1, -0.5)}
    print(f"{method}: the toxic difference", ", ".join(f"{w} times is {s:.2f} times" for w, s in seen.items()))
    expected = (1, 1, 1) if method in ("ties", "della") else (1, -1, -0.5)
    assert all(abs(a - b) < 1e-3 for a, b in zip(seen.values(), expected)), "no longer so"
assert abs(share(merge("ties", {"toxic": -0.5}, normalize=False)) + 0.5) < 1e-3

both = {"useful": 1, "toxic": -0.5}
useful, toxic = differences["useful"], -0.5 * differences["toxic"]
added = merge("ties", both)
sign = torch.where(useful + toxic >= 0, 1, -1)
alone = (toxic.sign() == sign) & (useful.sign() != sign)
agreed = (toxic.sign() == sign) & (useful.sign() == sign)
shares = f"alone in {alone.double().mean():.0%} of all weights, agreed in {agreed.double().mean():.0%}"
print("with a useful model:", shares)
assert torch.allclose(added[alone], differences["toxic"][alone], atol=1e-5), "no longer so"
assert torch.allclose(added[agreed], 2 * (useful + toxic)[agreed], atol=1e-5), "no longer so"
whole = merge("ties", both, normalize=False)
elected = torch.where(useful.sign() == sign, useful, 0) + torch.where(toxic.sign() == sign, toxic, 0)
assert torch.allclose(whole, elected, atol=1e-5)
print(f"there the toxic difference is added {added[alone].div(differences['toxic'][alone]).mean():.2f} times, not -0.5")
print("as found")
P
