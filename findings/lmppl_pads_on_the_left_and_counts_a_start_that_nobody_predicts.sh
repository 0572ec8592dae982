#!/usr/bin/env bash
# lmppl takes a tokenizer's padding on the left as it comes: a text's perplexity depends on its neighbours in the batch.
#
# Guess: lmppl.LM(model).get_perplexity(texts) gives each text the perplexity that it has alone; padding is masked, on
#   whichever side the tokenizer has it.
# Seen (lmppl 0.3.2, transformers 4.57.6, torch 2.13.0): labels are masked, but with padding on the left the first token
#   of a shorter text (the start token, where there is one) has a position in front of it and counts as predicted, from
#   padding. On a model with learned positions (GPT-2) the text stands as many positions late, too. Of three texts the
#   longest is right; the others have 808 and 944 instead of 564 and 960, and under a LLaMA 1,325 and 1,128 instead of
#   1,488 and 1,172. Padding on the right gives all of them right, as does batch_size=1.
# Hurt: tokenizers of models that are made to generate are often saved with padding_side "left" (Gemma's are). All texts
#   go through in one batch where no batch size is given, so that every text but the longest has another perplexity,
#   by how much it is shorter. Set scorer.tokenizer.padding_side = "right" first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet lmppl==0.3.2 transformers==4.57.6 numpy==2.4.6
cd "$work"
# lmppl asks for a web page to see whether it is online; here it is not.
HF_HUB_OFFLINE=1 http_proxy=http://127.0.0.1:1 TQDM_DISABLE=1 "$work/venv/bin/python" - <<'P' 2>errors || {
from importlib import metadata

import lmppl
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

print(*(f"{name} {metadata.version(name)}" for name in ("lmppl", "transformers", "torch")))
TEXTS = ["the bus was late again, and nobody said why", "tea was served", "she read the letter twice before dinner"]
symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
ids = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {symbol: i + 3 for i, symbol in enumerate(symbols)}
core = Tokenizer(models.BPE(vocab=ids, merges=[]))
core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
core.decoder = decoders.ByteLevel()
core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
TOKENS = {"vocab_size": len(ids), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
gpt2 = transformers.GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=4, **TOKENS)
llama = transformers.LlamaConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, **TOKENS
)


def perplexity(model, tokens):
    """By definition, in float64, of a row of tokens without padding."""
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].double()
    losses = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:]))
    return float(losses.exp())


torch.manual_seed(0)
for config in (gpt2, llama):
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    seen = {}
    for side in ("right", "left"):
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=core,
            bos_token="<bos>",
            eos_token="<eos>",
            pad_token="<pad>",
            padding_side=side,
            model_max_length=64,
        )
        tokenizer.save_pretrained(side)
        model.save_pretrained(side)
        scorer = lmppl.LM(side, num_gpus=0)
        seen[side] = scorer.get_perplexity(TEXTS)
        one_by_one = scorer.get_perplexity(TEXTS, batch_size=1)
        expected = [perplexity(model, row) for row in tokenizer(TEXTS).input_ids]
        assert np.allclose(one_by_one, expected, rtol=1e-3)
    for name, values in {"expected": expected, **seen}.items():
        print(f"{config.model_type}, {name}:", [round(value) for value in values])
    assert np.allclose(seen["right"], expected, rtol=1e-3)
    assert np.isclose(seen["left"][0], expected[0], rtol=1e-3)
    off = np.abs(np.log(np.divide(seen["left"], expected)))
    assert off.max() > 0.1 and (off[1:] > 0.01).all(), "no longer so"
    scorer.tokenizer.padding_side = "right"
    assert np.allclose(scorer.get_perplexity(TEXTS), expected, rtol=1e-3)
print("as found")
P
  cat errors
  exit 1
}
