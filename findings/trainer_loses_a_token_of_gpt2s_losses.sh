#!/usr/bin/env bash
# transformers' Trainer divides GPT-2's loss by tokens that nobody predicts: its perplexity is too low.
#
# Guess: eval_loss is the model's mean loss by predicted token, so that exp(eval_loss) is the perplexity,
#   for every causal language model alike.
# Seen (transformers 5.24.0, torch 2.13.0): for LLaMA and GPT-NeoX it is what model(**batch).loss says.
#   For GPT2LMHeadModel the sum is divided by all labels, the first of each row among them, which has no
#   prediction: rows of 20 tokens give 19/20 of the loss. Trainer leaves the first out where the name of
#   the class ends in ForCausalLM; GPT-2's does not, though its loss is the same. The logged loss of
#   training and its gradients are scaled alike.
# Hurt: at the 20 tokens of a continuation, a perplexity of 64 is reported as 52, and of 5 tokens as
#   28. GPT-2 beats any other family in a table of Trainer's figures, short texts seem more fluent than
#   long ones, and what was measured by hand does not compare.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.24.0 accelerate==1.15.0 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES="" "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import math
from importlib import metadata

import torch
import transformers

print(*(f"{name} {metadata.version(name)}" for name in ("transformers", "torch")))
torch.manual_seed(0)
ROWS, WORDS = 8, 64
sizes = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=WORDS)
gpt2 = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=64, vocab_size=WORDS)
models = {
    "GPT-2": transformers.GPT2LMHeadModel(gpt2),
    "LLaMA": transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)),
    "GPT-NeoX": transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes)),
}


def ratio(model, length):
    """Trainer's eval_loss by the loss that the model itself gives of the same one batch."""
    ids = torch.randint(WORDS, (ROWS, length))
    rows = [{"input_ids": row, "labels": row} for row in ids.tolist()]
    arguments = transformers.TrainingArguments(
        "out", per_device_eval_batch_size=ROWS, report_to=[], use_cpu=True
    )
    trainers = transformers.Trainer(model, arguments, eval_dataset=rows).evaluate()["eval_loss"]
    with torch.no_grad():
        models_own = model.eval()(input_ids=ids, labels=ids).loss.item()
    print(f"{name}, rows of {length:2} tokens: loss {models_own:.3f}, eval_loss {trainers:.3f};",
          f"perplexity {math.exp(models_own):.1f}, exp(eval_loss) {math.exp(trainers):.1f}")
    return trainers / models_own


for name, model in models.items():
    for length in (5, 20, 40):
        expected = (length - 1) / length if name == "GPT-2" else 1
        assert abs(ratio(model, length) - expected) < 1e-4, "no longer so"
print("as found: Trainer's losses of GPT-2 are too low by one token a row")
P
