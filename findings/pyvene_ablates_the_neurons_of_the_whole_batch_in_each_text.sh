#!/usr/bin/env bash
# pyvene ablates in each text of a batch what was asked for any of its texts, where subspaces differ but are of one
# size.
#
# Guess: subspaces=[[[0, 1], [2, 3], ...]], a list for each example of the batch, puts neurons 0 and 1 of the first text
#   to zero and 2 and 3 of the second; the result is that of the texts one by one.
# Seen (pyvene 0.1.8, transformers 5.24.0, torch 2.13.0): where all lists have one length they become an index by
#   position, not by text. At one position each text loses the neurons of all texts: with two each and 32 texts, 41 of
#   the 128. At as many positions as there are texts, the first text's neurons go at the first position of every text,
#   the second's at the second. Any other number of positions fails. Lists of unequal lengths, or all equal, are right.
#   All interventions in the model's own basis share the code (Zero-, Vanilla-, Addition-, SubtractionIntervention).
# Hurt: to switch off, or to steer, the neurons that light up for toxic words, each text has its own "top k", of one
#   length. What ablating two neurons does grows with the batch, to twice the truth here, so that a few neurons look as
#   if all hung on them; figures change with the batch size, for all texts at once. Give batches of one text.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.24.0 accelerate==1.15.0 matplotlib==3.11.2 \
  sentencepiece==0.2.3 numpy==2.4.6
"$work/venv/bin/pip" install --quiet --no-deps pyvene==0.1.8
cd "$work"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import pyvene
import torch
import transformers

print(*(f"{name} {metadata.version(name)}" for name in ("pyvene", "transformers", "torch")))
torch.manual_seed(0)
settings = transformers.GPT2Config(
    vocab_size=50,
    n_positions=32,
    n_embd=32,
    n_inner=128,
    n_layer=2,
    n_head=4,
    initializer_range=0.3,
    bos_token_id=0,
    eos_token_id=0,
)
model = transformers.GPT2LMHeadModel(settings).eval()
texts = torch.randint(1, 50, (32, 8))
neurons_of = model.transformer.h[1].mlp.act


@torch.no_grad()
def logits(rows, edit=None):
    """Plain PyTorch: the logits, and the activations of the second layer's neurons, which `edit` may change."""
    seen = []

    def after(_, __, output):
        seen.append(output.clone())
        if edit is not None:
            edit(seen[0])
        return seen[0]

    handle = neurons_of.register_forward_hook(after)
    try:
        return model(input_ids=rows).logits, seen[0]
    finally:
        handle.remove()


def ablated(rows, chosen):
    """What is to come out: text i loses its own neurons, chosen[i], at the last position."""

    def edit(activations):
        for i, neurons in enumerate(chosen):
            activations[i, -1, neurons] = 0

    return logits(rows, edit)[0]


wrapped = pyvene.IntervenableModel(
    {"layer": 1, "component": "mlp_activation", "intervention_type": pyvene.ZeroIntervention}, model=model
)


@torch.no_grad()
def by_pyvene(rows, chosen, positions=7):
    return wrapped({"input_ids": rows}, unit_locations={"base": positions}, subspaces=[chosen])[1].logits


plain, activations = logits(texts)
mean, deviation = activations.mean((0, 1)), activations.std((0, 1))
top = ((activations[:, -1] - mean) / deviation).topk(2).indices.tolist()
print(f"two neurons for each of 32 texts, {len({n for pair in top for n in pair})} of 128 in all")
expected = ablated(texts, top)


def effect(got):
    return (got - plain)[:, -1].norm(dim=-1).mean().item()


seen = {}
for size in (1, 2, 8, 32):
    parts = [slice(i, i + size) for i in range(0, 32, size)]
    got = torch.cat([by_pyvene(texts[part], top[part]) for part in parts])
    union = torch.cat([ablated(texts[p], [sorted({n for pair in top[p] for n in pair})] * size) for p in parts])
    seen[size] = effect(got) / effect(expected)
    print(f"batches of {size}: the logits move {seen[size]:.2f} times as far as they should")
    assert torch.allclose(got, union, atol=1e-4), "no longer so"
    assert torch.allclose(got, expected, atol=1e-4) == (size == 1), "no longer so"
assert seen[32] > 1.8 and seen[32] > seen[8] > 1.2 > seen[2] > 1.02, "no longer so"

alike, uneven = [[5, 9]] * 32, [pair[: 1 + i % 2] for i, pair in enumerate(top)]
for name, chosen in (("the same two for all texts", alike), ("one or two", uneven)):
    right = torch.allclose(by_pyvene(texts, chosen), ablated(texts, chosen), atol=1e-4)
    print(f"{name}: {'as it should be' if right else 'not as it should be'}")
    assert right


def by_place(activations):
    for place, neurons in zip((5, 6, 7), top[:3], strict=True):
        activations[:, place, neurons] = 0


def by_text(activations):
    for i, neurons in enumerate(top[:3]):
        activations[i, 5:8, neurons] = 0


three = by_pyvene(texts[:3], top[:3], [5, 6, 7])
assert torch.allclose(three, logits(texts[:3], by_place)[0], atol=1e-4), "no longer so"
assert not torch.allclose(three, logits(texts[:3], by_text)[0], atol=1e-2), "no longer so"
print("three texts and three positions: each position has the neurons of one text, in all three texts")
print("as found")
P
