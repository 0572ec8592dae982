#!/usr/bin/env bash
# unitxt's Perplexity is a probability, 1 the best, and counts neither "!" nor where a text stands behind its padding.
#
# Guess: Perplexity.compute's "perplexity" of a text behind a source is exp of the mean loss of the text's tokens, from
#   1 up, lower is better, as its description says, and that of a text alone is that of a text in a batch.
# Seen (unitxt 1.26.10, transformers 5.24.0, torch 2.13.0): it is the geometric mean of the tokens' probabilities, the
#   reciprocal: 0.0011 for a perplexity of 880. Losses are summed over all tokens, but divided by how many have an
#   index above 0; GPT-2's 0 is "!". Three "!" among 18 tokens make 1 / 4,521 of 1,112, and a text of nothing else has
#   0. And a batch's texts stand behind their padded sources: with GPT-2's positions all but the text of the longest
#   source are read too late, with a gap in front: 1 / 1,116 in place of 1 / 880.
# Hurt: who compares models by it, or a detoxified one with its base, takes the worse for the better, and averages of
#   reciprocals (of several references the best) turn to no mean perplexity. Exclamations, which toxic texts are
#   full of, and the neighbours in the batch move it. Set batch_size=1 and count the tokens oneself.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet unitxt==1.26.10 transformers==5.24.0 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from unitxt.metrics import Perplexity

print(*(f"{name} {metadata.version(name)}" for name in ("unitxt", "transformers", "torch")))
SOURCES = ["she said that", "the bus was late and nobody of us knew why, so"]
TEXTS = [" tea was served", " we walked home in the rain"]
# GPT-2's own order: the printable characters first, so that "!" has the index 0.
symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
ids = {symbol: i for i, symbol in enumerate(symbols)} | {"<|endoftext|>": len(symbols)}
assert ids["!"] == 0
core = Tokenizer(models.BPE(vocab=ids, merges=[]))
core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
core.decoder = decoders.ByteLevel()
named = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=128, **named)
tokenizer.save_pretrained("gpt2")
torch.manual_seed(0)
ends = {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|endoftext|>"]}
sizes = {"vocab_size": len(ids), "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4}
config = transformers.GPT2Config(initializer_range=0.3, **sizes, **ends)
model = transformers.GPT2LMHeadModel(config).eval()
model.save_pretrained("gpt2")
metric = Perplexity(source_template="{reference}", target_template="{prediction}", model_name="gpt2")


def ask(sources, texts):
    found = metric.compute(references=[[source] for source in sources], predictions=texts, task_data=[{}] * len(texts))
    return np.array([row["perplexity"] for row in found])


def perplexity(source, text):
    """By definition, in float64, without padding."""
    before, after = tokenizer(source).input_ids, tokenizer(text).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([before + after])).logits[0].double()
    losses = torch.nn.functional.cross_entropy(logits[len(before) - 1 : -1], torch.tensor(after), reduction="none")
    return float(losses.mean().exp()), losses.numpy()


expected = np.array([perplexity(*pair)[0] for pair in zip(SOURCES, TEXTS)])
alone = np.concatenate([ask([source], [text]) for source, text in zip(SOURCES, TEXTS)])
print("described as:", " ".join(Perplexity.__doc__.split()[8:16]))
print("perplexities:", expected.round(), "- unitxt, one by one:", alone.round(6))
assert np.allclose(alone, 1 / expected, rtol=1e-3), "no longer so"

text = TEXTS[0] + "!" * 3
value, losses = perplexity(SOURCES[0], text)
seen = ask(SOURCES[:1], [text])[0]
print(f"with three '!' of {len(losses)} tokens: {value:.0f}, in unitxt 1 / {1 / seen:.0f}")
assert np.isclose(seen, np.exp(-losses.sum() / (len(losses) - 3)), rtol=1e-3), "no longer so"
assert 1 / seen > 2 * value
assert ask(SOURCES[:1], ["!!!"])[0] == 0, "no longer so"

together = ask(SOURCES, TEXTS)
print("both in one batch: 1 /", (1 / together).round())
assert np.isclose(together[1], alone[1], rtol=1e-3)
assert abs(np.log(together[0] / alone[0])) > 0.1, "no longer so"
print("as found")
P
