#!/usr/bin/env bash
# transformers' guidance_scale reads negative prompts of a batch at GPT-2's wrong positions.
#
# Guess: generate(guidance_scale=..., negative_prompt_ids=..., negative_prompt_attention_mask=...) writes for each
#   row of a batch what it writes for that row alone, as generate without guidance does for padded prompts.
# Seen (transformers 5.24.0, torch 2.13.0): the pass over negative prompts gets the mask and no positions. On a
#   model with learned positions (GPT-2) the tokens of a shorter negative prompt, padded on the left, stand
#   as many positions late as there is padding. Of 20 pairs of prompts the rows whose negative prompt
#   is padded all come out as other texts, those without padding as they do alone. LLaMA's
#   rotary positions are relative, and there all rows agree.
# Hurt: detoxification by a negative prompt ("a rude text:") on GPT-2, the model of most papers: results hang
#   on which rows share a batch, and are not those of batch size 1. Nothing is said. Negative prompts of
#   one length, or a batch of one, help.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.24.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import torch
import transformers

print(*(f"{name} {metadata.version(name)}" for name in ("transformers", "torch")))
torch.manual_seed(0)
TOKENS = {"vocab_size": 257, "bos_token_id": 0, "eos_token_id": None, "pad_token_id": 0, "initializer_range": 0.3}
models = {
    "GPT-2": transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=2, **TOKENS)
    ),
    "LLaMA": transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, **TOKENS
        )
    ),
}


def padded(rows):
    """Ids [rows, longest] with 0 on the left, and their mask."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])


def written(model, prompts, negative=None):
    ids, mask = padded(prompts)
    settings = {}
    if negative:
        negative_ids, negative_mask = padded(negative)
        settings = {
            "guidance_scale": 1.5,
            "negative_prompt_ids": negative_ids,
            "negative_prompt_attention_mask": negative_mask,
        }
    return model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=12, **settings)[:, -12:]


def row(length):
    return torch.randint(1, 257, [length]).tolist()


pairs = [([row(6), row(6)], [row(12), row(3)]) for _ in range(20)]
agree = {}
for name, model in models.items():
    model.eval()
    for kind in ("no guidance", "longest negative prompt", "padded negative prompt"):
        same = []
        for prompts, negative in pairs:
            if kind == "no guidance":  # Here it is the prompts that are padded.
                prompts, negative = negative, None
            number = 0 if kind.startswith("longest") else 1
            alone = written(model, prompts[number:][:1], negative and negative[number:][:1])[0]
            same.append(torch.equal(alone, written(model, prompts, negative)[number]))
        agree[name, kind] = sum(same) / len(same)
        print(f"{name}, {kind}: {agree[name, kind]:.0%} of the texts are those of the row alone")
assert all(agree["LLaMA", kind] > 0.9 for _, kind in agree)
assert agree["GPT-2", "no guidance"] > 0.9 and agree["GPT-2", "longest negative prompt"] > 0.9
assert agree["GPT-2", "padded negative prompt"] < 0.3, "no longer so"
print("as found")
P
