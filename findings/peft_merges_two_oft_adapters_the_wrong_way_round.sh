#!/usr/bin/env bash
# peft's merge of two OFT adapters multiplies them in the opposite order of its forward pass: another model is saved.
#
# Guess: with two adapters active, merge_and_unload() gives a model that answers as the one with adapters does, to
#   rounding. LoRA and HRA do so here, and a single OFT adapter does.
# Seen (peft 0.21.2, torch 2.13.0): OFT's forward turns the input by the first adapter and then by the second, which is
#   x R1 R2 W'. Its merge multiplies each adapter to the weight's outer side in the same order of names, which is
#   x R2 R1 W'. Rotations do not commute: of a small Llama with two adapters the merged model's log-probabilities are
#   0.42 nats off on the average, where both adapters together move them by 1.04. Named in reverse, merging is exact.
# Hurt: an adapter against toxicity stacked on one for a domain is judged as adapters, then merged for use (or the
#   other way round): figures and weights belong to different models and nothing says so. Give merge_and_unload the
#   active adapters' names in reverse.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.5.4 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import copy
from importlib.metadata import version

import numpy as np
import torch
from peft import HRAConfig, LoraConfig, OFTConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
torch.manual_seed(0)
base = LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, initializer_range=0.2,
)).eval()
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = {
    "LoRA": LoraConfig(r=4, target_modules=TARGETS),
    "HRA": HRAConfig(r=4, target_modules=TARGETS),
    "OFT": OFTConfig(oft_block_size=4, r=0, target_modules=TARGETS, use_cayley_neumann=False),
}
ids = torch.randint(64, (8, 16))


@torch.no_grad()
def scores(model):
    logits = model(ids).logits.double().log_softmax(-1)
    return logits[:, :-1].gather(-1, ids[:, 1:, None])


def with_adapters(kind, names):
    """The base with these adapters, as if each had been trained, and all of them active."""
    model = get_peft_model(copy.deepcopy(base), KINDS[kind], adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, KINDS[kind])
    for key, parameter in sorted(model.named_parameters()):
        if any(f".{name}" in key for name in names):
            seed = 1 + ("second" in key)
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            parameter.data += 0.1 * noise
    model.base_model.set_adapter(names)
    return model.eval()


def off(one, other):
    return float((one - other).abs().mean())


plain = scores(base)
for kind in KINDS:
    model = with_adapters(kind, ["first", "second"])
    active = scores(model)
    merged = scores(copy.deepcopy(model).merge_and_unload(safe_merge=True))
    print(f"{kind}: adapters move a log-probability by {off(active, plain):.3f}, merging by {off(merged, active):.6f}")
    if kind != "OFT":
        assert off(merged, active) < 1e-4
alone = with_adapters("OFT", ["first"])
single = off(scores(alone.merge_and_unload()), scores(with_adapters("OFT", ["first"])))
reverse = off(scores(copy.deepcopy(model).merge_and_unload(adapter_names=["second", "first"])), active)
print(f"OFT: one adapter merged is {single:.6f} off, two named in reverse {reverse:.6f}")
assert single < 1e-4 and reverse < 1e-4
assert off(merged, active) > 0.1, "no longer so"

# One layer by hand.
layer = model.base_model.model.model.layers[0].self_attn.q_proj
first, second = (layer.get_delta_weight(name).detach().double().numpy() for name in ("first", "second"))
weight = layer.get_base_layer().weight.detach().double().numpy()
x = torch.randn(5, 32, generator=torch.Generator().manual_seed(3))
said = layer(x).detach().numpy()
layer.merge()
after = layer(x).detach().numpy()
x = x.double().numpy()
assert max(np.abs(r.T @ r - np.eye(32)).max() for r in (first, second)) < 1e-5
assert np.abs(said - x @ first @ second @ weight.T).max() < 1e-4
assert np.abs(after - x @ second @ first @ weight.T).max() < 1e-4, "no longer so"
print(f"a layer: active is x R1 R2 W', merged x R2 R1 W', up to {np.abs(after - said).max():.3f} apart")
print("as found")
P
