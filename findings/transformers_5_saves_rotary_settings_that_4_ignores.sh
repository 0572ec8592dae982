#!/usr/bin/env bash
# A LLaMA that transformers 5 saved is read by transformers 4 with other positions, and nothing is said.
#
# Guess: config.json of a model family that both versions know means the same to both, or the older one
#   refuses or warns of what it does not know.
# Seen (saved by 5.24.0, read by 4.57.6, torch 2.13.0): 5 writes rope_theta, scaling and the rotary share within
#   `rope_parameters` alone. 4 keeps that field and never reads it: LLaMA 3's base of 500,000 becomes 10,000
#   and its scaling none, GPT-NeoX's share of 1 becomes 1/4. Weights load without a missing or an
#   unexpected name. Logits differ by as much as they are large. GPT-2, without rotation, is read alike.
# Hurt: a detoxified model that was fine-tuned and saved by 5 is noise in an environment that still needs 4,
#   as that of AdapterHub's adapters 1.3.0 does (transformers ~=4.57.6), and its scores there are taken for
#   the model's. Fields of the old names in place of the new one (`rope_theta`, `rope_scaling`,
#   `rotary_pct`) are read by both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.24.0 numpy==2.4.6
cat > "$work/model.py" <<'P'
import json
import pathlib
import sys
from importlib import metadata

import torch
import transformers

ids = torch.arange(24)[None]
print("transformers", metadata.version("transformers"))
sizes = dict(vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
llama3 = {"rope_theta": 500_000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
rotary = {
    "llama": {"rope_theta": 500_000.0, "rope_type": "default"},
    "llama3": llama3,
    "gpt_neox": {"rope_theta": 10_000.0, "rope_type": "default", "partial_rotary_factor": 1.0},
    "gpt2": None,
}


def save(name):
    torch.manual_seed(0)
    if name == "gpt2":
        config = transformers.GPT2Config(vocab_size=32, n_embd=32, n_layer=2, n_head=2, n_positions=32)
    else:
        config = transformers.AutoConfig.for_model(
            name.removesuffix("3"), rope_parameters=rotary[name], **sizes
        )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(name)
    torch.save(model(ids).logits.detach(), f"{name}.pt")


def off(name):
    """How far logits are from those of the model that was saved, as a share of the largest."""
    model, loaded = transformers.AutoModelForCausalLM.from_pretrained(name, output_loading_info=True)
    assert not loaded["missing_keys"] and not loaded["unexpected_keys"]
    saved = torch.load(f"{name}.pt")
    return ((model.eval()(ids).logits - saved).abs().max() / saved.abs().max()).item()


if sys.argv[1] == "save":
    for name in rotary:
        save(name)
if sys.argv[1] == "old names":  # What both read, in place of what 5 writes.
    for name in set(rotary) - {"gpt2"}:
        file = pathlib.Path(name, "config.json")
        fields = json.loads(file.read_text())
        rope = fields.pop("rope_parameters")
        fields["rope_theta"] = rope.pop("rope_theta")
        if name == "gpt_neox":
            fields |= {"rotary_pct": rope["partial_rotary_factor"], "rotary_emb_base": fields["rope_theta"]}
        fields["rope_scaling"] = rope if name == "llama3" else None
        file.write_text(json.dumps(fields))
with torch.no_grad():
    shares = {name: off(name) for name in rotary}
print({name: round(share, 5) for name, share in shares.items()})
noise = {name for name, share in shares.items() if share > 1e-4}
assert noise == set(sys.argv[2:]), ("no longer so", noise)
P
cd "$work"
export HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES=""
run() { "$work/venv/bin/python" model.py "$@" 2>errors || { cat errors; exit 1; }; }
run save
"$work/venv/bin/pip" install --quiet transformers==4.57.6
run load llama llama3 gpt_neox
if grep -i "rope" errors; then echo "no longer without a word"; exit 1; fi
run "old names"
"$work/venv/bin/pip" install --quiet transformers==5.24.0
run load
echo "as found: transformers 4 reads what 5 saved with its own rotary defaults, without a word"
