#!/usr/bin/env bash
# peft's add_weighted_adapter(combination_type="linear") is no linear combination of the adapters' updates.
#
# Guess: weights of 1 and -1 give the update of the first adapter minus that of the second, whichever
#   combination_type makes it, up to the error of a low rank.
# Seen (peft 0.21.2, transformers 5.24.0, torch 2.13.0, LoRA): "cat", and "svd" of full rank, give it. "linear" adds
#   the A's to each other and the B's to each other, each times the root of its weight, so that its product holds
#   each adapter's B times the other's A as well. For two adapters of random weights what it adds to the
#   sum of their updates is about as large as the sum. One adapter alone comes out right, and no warning is given.
# Hurt: taking a toxic adapter away from another one, or averaging adapters of several seeds, gives a model that is
#   off by as much as the adapters change it, and the method is blamed. "linear" is the one whose name says
#   what is wanted, and it keeps the rank; "svd" with svd_rank keeps a rank as well.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.24.0
cd "$work"
"$work/venv/bin/python" - <<'P'
from importlib import metadata

import peft
import torch
import transformers

print(*(f"{name} {metadata.version(name)}" for name in ("peft", "transformers", "torch")))
torch.manual_seed(0)
RANK = 4
config = transformers.LlamaConfig(
    hidden_size=64, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=16
)
lora = peft.LoraConfig(r=RANK, target_modules=["q_proj"], init_lora_weights=False)
model = peft.get_peft_model(transformers.LlamaForCausalLM(config), lora, adapter_name="base")
model.add_adapter("toxic", lora)
layer = model.base_model.model.model.layers[0].self_attn.q_proj


def off(kind, weights):
    """How far the combined update is from the combination of the updates, relative to that."""
    name = f"{kind} {weights}".replace(".", "_")
    model.add_weighted_adapter(
        ["base", "toxic"], list(weights), name, combination_type=kind, svd_rank=2 * RANK
    )
    parts = zip(weights, ("base", "toxic"), strict=True)
    meant = sum(weight * layer.get_delta_weight(part) for weight, part in parts)
    return ((layer.get_delta_weight(name) - meant).norm() / meant.norm()).item()


for weights in ((1.0, -1.0), (0.5, 0.5), (1.0, 0.0)):
    found = {kind: off(kind, weights) for kind in ("cat", "svd", "linear")}
    print(f"weights {weights}: off by", {kind: f"{value:.1g}" for kind, value in found.items()})
    assert max(found["cat"], found["svd"]) < 1e-5
    assert found["linear"] < 1e-5 if 0 in weights else found["linear"] > 0.5, "no longer so"
print("as found")
P
