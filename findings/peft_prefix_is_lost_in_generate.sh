#!/usr/bin/env bash
# Under transformers 5.24 peft's prefix tuning trains and scores with the prefix and generates without it.
#
# Guess: PeftModel.generate continues a text by the logits that calling the model gives: both read the
#   prefix, or the soft prompt, once, in front of the text.
# Seen (peft 0.21.2, transformers 5.24.0, torch 2.13.0, GPT-2 and LLaMA): transformers calls its cache `cache`
#   now, peft still hands over `past_key_values`, and where both are given transformers takes the first.
#   So generate() reads no prefix: prefixes that have nothing in common give one and the same text with the
#   same logits. Of prompt tuning the soft prompt is put in again before every token that is written: the
#   first is right, from the second on the model reads something else. With use_cache=False both are as
#   they should be for GPT-2. peft asks for any transformers. Of the prefix a FutureWarning says that
#   `past_key_values` is ignored, once; of the soft prompt nothing does.
# Hurt: loss and perplexity of a prefix trained against toxicity improve, and what it generates, which is
#   what is scored for toxicity, is the base's text (at shifted positions): the method "does nothing".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.24.0 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES="" "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import peft
import torch
import transformers

print(*(f"{name} {metadata.version(name)}" for name in ("peft", "transformers", "torch")))
NEW, VIRTUAL = 6, 4
never = dict(bos_token_id=None, eos_token_id=None, vocab_size=64)


def base(family):
    torch.manual_seed(0)
    if family == "GPT-2":
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **never)
    else:
        config = transformers.LlamaConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, **never
        )
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def of(family, kind, seed, **settings):
    """Of each new token: the logits of generate() and those of calling the model with the same text."""
    config = kind(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL)
    model = peft.get_peft_model(base(family), config).eval()
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    text = torch.arange(10, 16)[None]
    wrote = model.generate(
        input_ids=text, attention_mask=torch.ones_like(text), max_new_tokens=NEW, do_sample=False,
        output_scores=True, return_dict_in_generate=True, **settings,
    )
    assert wrote.sequences.shape == (1, text.shape[1] + NEW)
    called = model(wrote.sequences, attention_mask=torch.ones_like(wrote.sequences)).logits
    return torch.cat(wrote.scores), called[0, -NEW - 1 : -1]


def apart(one, other):
    return (one - other).abs().amax(dim=-1)


for family in ("GPT-2", "LLaMA"):
    generated, called = of(family, peft.PrefixTuningConfig, seed=1)
    generated_of_other, called_of_other = of(family, peft.PrefixTuningConfig, seed=2)
    print(f"{family}: two prefixes are apart by {apart(called, called_of_other)[0]:.2f} where the model is called,",
          f"by {apart(generated, generated_of_other).max():.2f} where it generates")
    assert apart(called, called_of_other)[0] > 0.1
    assert torch.equal(generated, generated_of_other), "no longer so"
    generated, called = of(family, peft.PromptTuningConfig, seed=1)
    errors = apart(generated, called)
    print(f"{family}: soft prompt, generate() is off by", [round(error, 2) for error in errors.tolist()])
    assert errors[0] < 1e-4 and errors[1:].min() > 0.1, "no longer so"
for kind in (peft.PrefixTuningConfig, peft.PromptTuningConfig):
    generated, called = of("GPT-2", kind, seed=1, use_cache=False)
    assert apart(generated, called).max() < 1e-4
print("as found: with its cache generate() does not read what was tuned; with use_cache=False it does")
P
