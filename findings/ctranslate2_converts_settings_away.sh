#!/usr/bin/env bash
# CTranslate2's converter writes a LLaMA or GPT-2 without the settings that it does not know, and says nothing.
#
# Guess: TransformersConverter gives a model with torch's logits, or refuses a config.json that has a setting which
#   the runtime cannot follow.
# Seen (ctranslate2 4.8.5, transformers 5.24.0, torch 2.13.0): head_dim, where it is not width / heads, and a
#   hidden_act other than SiLU are dropped for LLaMA; scale_attn_by_inverse_layer_idx, scale_attn_weights and
#   layer_norm_epsilon for GPT-2. Each converts, loads and generates without a word; logits that reach
#   7 are off by 0.8 to 4, and the likeliest next token is another one at many places. With the settings
#   that most models have, differences are of 1e-5.
# Hurt: pruned LLaMAs keep heads of 128 in a narrower model, and GPT-2s trained for stability scale attention
#   by layer: their continuations, toxicity and perplexity are those of a model that nobody trained.
#   Compare the logits of one text before anything is measured.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet ctranslate2==4.8.5 transformers==5.24.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import shutil
from importlib import metadata

import ctranslate2
import numpy as np
import torch
import transformers
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

print(*(f"{name} {metadata.version(name)}" for name in ("ctranslate2", "transformers", "torch")))
symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
ids = {"<eos>": 0} | {symbol: i + 1 for i, symbol in enumerate(symbols)}
bytes_alone = Tokenizer(models.BPE(vocab=ids, merges=[]))
bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytes_alone.decoder = decoders.ByteLevel()
tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=bytes_alone, bos_token="<eos>", eos_token="<eos>", unk_token="<eos>"
)
TOKENS = {"vocab_size": len(ids), "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}
TEXT = tokenizer("the bus was late again, and nobody said why", return_tensors="pt").input_ids


def llama(**settings):
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, **TOKENS, **settings
    )
    return transformers.LlamaForCausalLM(config)


def gpt2(**settings):
    config = transformers.GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=4, **TOKENS, **settings)
    return transformers.GPT2LMHeadModel(config)


def compared(make, settings):
    """The greatest difference of logits after the conversion, and where the likeliest token is another."""
    torch.manual_seed(0)
    model = make(**settings).eval()
    shutil.rmtree("torch", ignore_errors=True)
    model.save_pretrained("torch")
    tokenizer.save_pretrained("torch")
    TransformersConverter("torch").convert("converted", force=True)
    generator = ctranslate2.Generator("converted", device="cpu", compute_type="float32")
    logits = np.array(generator.forward_batch([tokenizer.convert_ids_to_tokens(TEXT[0])]))[0]
    with torch.no_grad():
        expected = model(TEXT).logits[0].numpy()
    others = (logits.argmax(-1) != expected.argmax(-1)).mean()
    return float(np.abs(logits - expected).max()), float(others)


kept = [(llama, {}), (llama, {"num_key_value_heads": 2}), (llama, {"rms_norm_eps": 0.1}), (gpt2, {})]
dropped = [
    (llama, {"head_dim": 16}),
    (llama, {"hidden_act": "gelu"}),
    (gpt2, {"scale_attn_by_inverse_layer_idx": True}),
    (gpt2, {"scale_attn_weights": False}),
    (gpt2, {"layer_norm_epsilon": 0.1}),
]
for make, settings in kept + dropped:
    difference, others = compared(make, settings)
    print(f"{make.__name__} {settings}: logits off by {difference:.1g}, another likeliest token at {others:.0%}")
    assert difference > 0.3 if (make, settings) in dropped else difference < 1e-3, "no longer so"
print("as found")
P
