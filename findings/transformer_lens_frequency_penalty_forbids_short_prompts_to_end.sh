#!/usr/bin/env bash
# TransformerLens' frequency penalty counts a batch's padding as ends: answers to short prompts may not end.
#
# Guess: generate(prompts, freq_penalty=0.5) takes 0.5 off a token's logit for each time that it "has been generated so
#   far", so that each prompt's answers are drawn as they are for the prompt alone.
# Seen (transformer-lens 4.3.0, transformers 5.23.0, torch 2.13.0): what is counted is the whole row, prompt and padding
#   on its left too. Where padding, start and end are one token, as in GPT-2 and other models without a padding token,
#   the end loses 0.5 for each place by which the batch's longest prompt is longer. A prompt of 3 words whose answers
#   end at once in 38 of 100 draws alone does so never beside a prompt of 30 words; with a penalty of 0.1 in 5 rather
#   than 47. The formula with the padding counted gives the figures seen.
# Hurt: toxicity is measured on continuations drawn in batches of prompts of all lengths. Answers to short prompts run
#   on to max_new_tokens where alone they would have ended, and longer texts are more often toxic somewhere; the figure
#   hangs on the longest prompt of the batch. Draw with batches of one length, or without the penalty.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformer-lens==4.3.0 transformers==5.23.0 numpy==2.4.6
cd "$work"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES=""
"$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge

print(*(f"{name} {metadata.version(name)}" for name in ("transformer-lens", "transformers", "torch")))
torch.manual_seed(0)
END = "<|endoftext|>"
words = [END] + [f"w{i}" for i in range(1, 50)]
inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=END))
inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=END, eos_token=END)
settings = transformers.GPT2Config(
    vocab_size=50,
    n_positions=64,
    n_embd=32,
    n_layer=2,
    n_head=4,
    initializer_range=0.1,
    bos_token_id=0,
    eos_token_id=0,
)
plain = transformers.GPT2LMHeadModel(settings).eval()
with torch.no_grad():  # The end is what most answers begin with.
    end = plain.transformer.wte.weight[0]
    plain.transformer.ln_f.bias += 4 * end / (end @ end)
plain.save_pretrained("model")
tokenizer.save_pretrained("model")
lens = TransformerBridge.boot_transformers("model")
DRAWS = 1000
SHORT = " ".join(words[1:4])


@torch.no_grad()
def ending(counts, penalty):
    """The chance that the short prompt's answer is at once at its end, where so many ends are counted in its row."""
    tokens = torch.tensor([[0] + inner.encode(SHORT).ids])
    logits = plain(tokens).logits[0, -1].double()
    seen = torch.bincount(tokens[0], minlength=50)
    seen[0] = counts
    return (logits - penalty * seen).softmax(-1)[0].item()


def drawn(prompts, penalty):
    torch.manual_seed(1)
    settings = {"stop_at_eos": False, "return_type": "tokens", "verbose": False}
    tokens = lens.generate(prompts, max_new_tokens=1, freq_penalty=penalty, **settings)
    return (tokens[:DRAWS, -1] == 0).double().mean().item()


for length in (3, 8, 30):
    other = " ".join(words[4 : 4 + length])
    print(f"beside a prompt of {length} words")
    for penalty in (0.0, 0.1, 0.5):
        alone, batch = drawn([SHORT] * DRAWS, penalty), drawn([SHORT] * DRAWS + [other], penalty)
        expected, counted = ending(1, penalty), ending(1 + length - 3, penalty)
        print(f"  penalty {penalty}: ends {alone:.3f} alone ({expected:.3f}), {batch:.3f} in the batch ({counted:.3f})")
        assert abs(alone - expected) < 0.05 and abs(batch - counted) < 0.05, "no longer so"
        assert expected > 0.3 and (penalty == 0 or length < 30 or counted < expected / 3), "no longer so"
print("as found")
P
