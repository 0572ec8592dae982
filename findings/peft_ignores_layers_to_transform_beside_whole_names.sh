#!/usr/bin/env bash
# peft forgets layers_to_transform where target_modules holds a module's whole name.
#
# Guess: LoraConfig(target_modules=..., layers_to_transform=[0]) puts LoRA into layer 0 alone, however
#   the modules are named.
# Seen (peft 0.21.2, transformers 5.24.0, torch 2.13.0): with a list of last names it does, and beside a
#   regular expression it is refused. A module that the list names whole gets one whatever
#   layers_to_transform says, and adapter_config.json keeps the list that nobody obeyed.
# Hurt: who reads adapter_config.json and not the weights puts the update into other layers than it was
#   trained in; who wanted to train one layer trains all.
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
import transformers

print(*(f"{name} {metadata.version(name)}" for name in ("peft", "transformers", "torch")))


def layers(target_modules):
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, vocab_size=16
    )
    lora = peft.LoraConfig(target_modules=target_modules, layers_to_transform=[0])
    model = peft.get_peft_model(transformers.LlamaForCausalLM(config), lora)
    names = [name for name, _ in model.named_parameters() if "lora_A" in name]
    return sorted({int(name.split("layers.")[1].split(".")[0]) for name in names})


seen = {}
for how, target in {
    "list of last names": ["q_proj"],
    "pattern": r".*q_proj",
    "whole name": ["model.layers.1.self_attn.q_proj"],
}.items():
    try:
        seen[how] = layers(target)
    except ValueError as error:
        seen[how] = f"refused: {error}"[:80]
    print(f"layers_to_transform=[0], {how}: LoRA in layers {seen[how]}")
assert seen["list of last names"] == [0], "no longer so"
assert str(seen["pattern"]).startswith("refused"), "no longer so"
assert seen["whole name"] == [1], "no longer so"
P
