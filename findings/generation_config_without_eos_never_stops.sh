#!/usr/bin/env bash
# Guess: generation_config.json overrides what it names, and config.json's eos_token_id counts where it
#   names none; a model that writes its end token stops.
# Seen (transformers 5.24.0, torch 2.13.0): where the file is there at all, config.json's end token is
#   not looked at: eos_token_id is None, and a model that writes nothing but its end token (id 2 in
#   config.json) writes it up to the limit. Take the file away and it stops after one.
# Hurt: who keeps only sampling settings in generation_config.json, as the field names invite
#   ({"temperature": 0.6, "do_sample": true}): text runs on behind the end of a document, longer
#   outputs are scored for toxicity, length and perplexity, and no warning is printed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --extra-index-url https://download.pytorch.org/whl/cpu \
    "torch==2.13.0" "transformers==5.24.0"
cd "$work"
"$work/venv/bin/python" - <<'P'
import json
import os

import torch
import transformers

print("transformers", transformers.__version__, "torch", torch.__version__)
config = transformers.LlamaConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    bos_token_id=1,
    eos_token_id=2,
    attention_bias=True,
    mlp_bias=True,
)
model = transformers.LlamaForCausalLM(config)
with torch.no_grad():  # The last hidden state is one and the same vector, which row 2 answers to.
    model.model.embed_tokens.weight.fill_(1.0)
    for layer in model.model.layers:
        for name, parameter in layer.named_parameters():
            if "norm" not in name:
                parameter.zero_()
    model.lm_head.weight.zero_()
    model.lm_head.weight[2].fill_(1.0)
model.save_pretrained("model")
assert json.load(open("model/config.json"))["eos_token_id"] == 2
with open("model/generation_config.json", "w") as file:
    json.dump({"temperature": 0.6, "do_sample": True}, file)


def new_tokens():
    loaded = transformers.AutoModelForCausalLM.from_pretrained("model")
    ids = loaded.generate(torch.tensor([[1]]), max_new_tokens=12, do_sample=False)
    return loaded.generation_config.eos_token_id, ids[0, 1:].tolist()


beside = new_tokens()
os.remove("model/generation_config.json")
alone = new_tokens()
print("with generation_config.json that names no end:", beside)
print("without the file:", alone)
assert beside == (None, [2] * 12), beside
assert alone == (2, [2]), alone
print("as found: config.json's end token does not count beside a generation_config.json without one")
P
