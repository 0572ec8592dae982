#!/usr/bin/env bash
# pyvene reads a list of two positions as "from the first to the second" and steers at the second alone.
#
# Guess: unit_locations={"base": [3, 4]} intervenes at positions 3 and 4, as [3, 4, 5] does at three and [3] at one; the
#   guide gives heads in such a list, "base": [h for h in range(12)].
# Seen (pyvene 0.1.8, transformers 5.24.0, torch 2.13.0): each list of just two whole numbers is taken for a pair,
#   source position and base position, even under the key "base", where there is no source. A vector added at [3, 4] is
#   added at 4 alone, [4, 3] at 3 alone; of two heads to be put to zero the first lives on; with the key "sources->base"
#   what stands at 4 becomes what the source has at 3, and 3 keeps its own. One position or three to six are all right.
#   The guide shows pairs as tuples (6, 3), for sources only; the logits equal those of one position to the last bit.
# Hurt: to steer away from toxicity at the last two tokens of a prompt, or to ablate a pair of heads, is the most usual
#   span there is: half of the vector goes missing, and in a sweep over spans of one to five tokens two alone does
#   nothing new; one concludes that the second place is what matters. Give [[[3, 4]] * batch].
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
    n_layer=3,
    n_head=4,
    initializer_range=0.2,
    bos_token_id=0,
    eos_token_id=0,
)
model = transformers.GPT2LMHeadModel(settings).eval()
texts = {"input_ids": torch.randint(1, 50, (5, 8))}
sources = {"input_ids": torch.randint(1, 50, (5, 8))}
direction = torch.randn(32)
LAYER = 1


@torch.no_grad()
def edited(module, edit):
    """The logits where plain PyTorch edits what goes out of a module (or into it)."""

    def after(_, __, output):
        states = (output[0] if isinstance(output, tuple) else output).clone()
        edit(states)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    def before(_, arguments):
        states = arguments[0].clone()
        edit(states)
        return (states, *arguments[1:])

    heads = module is model.transformer.h[LAYER].attn.c_proj
    handle = module.register_forward_pre_hook(before) if heads else module.register_forward_hook(after)
    try:
        return model(**texts).logits
    finally:
        handle.remove()


def steered(positions):
    def edit(states):
        states[:, positions] += direction

    return edited(model.transformer.h[LAYER], edit)


def without(heads):
    def edit(states):
        for head in heads:
            states[..., head * 8 : head * 8 + 8] = 0

    return edited(model.transformer.h[LAYER].attn.c_proj, edit)


states = {}
for name, inputs in (("texts", texts), ("sources", sources)):
    with torch.no_grad():
        states[name] = model(**inputs, output_hidden_states=True).hidden_states[LAYER + 1]


def swapped(positions):
    def edit(own):
        for base, source in positions:
            own[:, base] = states["sources"][:, source]

    return edited(model.transformer.h[LAYER], edit)


def same(a, b):
    return torch.allclose(a, b, atol=1e-5)


EXPECTED = {tuple(p): steered(p) for p in ([3], [4], [3, 4], [4, 3], [3, 4, 5], [2, 3, 4, 5], [1, 2, 3, 4, 5, 6])}
HEADS = {tuple(h): without(h) for h in ([1], [2], [1, 2], [0, 1, 2])}
SWAPS = {(3, 4): swapped([(3, 3), (4, 4)]), (3, 4, 5): swapped([(3, 3), (4, 4), (5, 5)])}
ONE = swapped([(4, 3)])
assert not same(EXPECTED[3, 4], EXPECTED[4,]) and not same(HEADS[1, 2], HEADS[2,]) and not same(SWAPS[3, 4], ONE)


@torch.no_grad()
def logits(intervention, locations, given=None, **where):
    wrapped = pyvene.IntervenableModel({"layer": LAYER, **where, **intervention}, model=model)
    return wrapped(texts, given, unit_locations=locations)[1].logits


adds = {"intervention": pyvene.AdditionIntervention(source_representation=direction, embed_dim=32)}
zeros = {"intervention_type": pyvene.ZeroIntervention}
for positions, expected in EXPECTED.items():
    locations = list(positions)
    got = logits(adds, {"base": locations}, component="block_output")
    nested = logits(adds, {"base": [[locations] * 5]}, component="block_output")
    assert same(nested, expected)
    print(f"a vector added at {locations}: {'there' if same(got, expected) else 'elsewhere'}", end="")
    if len(locations) == 2:
        assert same(got, EXPECTED[positions[1:]]) and not same(got, expected), "no longer so"
        far = ((got - expected).norm() / (expected - model(**texts).logits).norm()).item()
        print(f", as at {locations[1:]}; {far:.0%} of its effect on the logits goes missing", end="")
    else:
        assert same(got, expected)
    print()
for heads, expected in HEADS.items():
    where = {"component": "head_attention_value_output", "unit": "h"}
    got = logits(zeros, {"base": list(heads)}, **where)
    print(f"heads {list(heads)} put to zero: {'they are' if same(got, expected) else 'only the last is'}")
    assert same(got, expected) if len(heads) != 2 else same(got, HEADS[heads[1:]]), "no longer so"
vanilla = {"intervention_type": pyvene.VanillaIntervention}
for positions, expected in SWAPS.items():
    got = logits(vanilla, {"sources->base": list(positions)}, [sources], component="block_output")
    how = "there" if same(got, expected) else "4 has the source's 3"
    print(f"states of a source put at {list(positions)}: {how}")
    assert same(got, expected) if len(positions) == 3 else same(got, ONE), "no longer so"
print("as found")
P
