#!/usr/bin/env bash
# TransformerLens generates each token but the first from the token before it alone, with transformers 5.24.
#
# Guess: generate(prompt) continues the prompt: greedily it writes what transformers' own generate writes, and what it
#   writes itself with use_past_kv_cache=False; its cache only saves time.
# Seen (transformer-lens 4.3.0 with transformers 5.24.0 and 5.23.0, torch 2.13.0; both the newest at the time, and what
#   "pip install transformer-lens" brings, since it asks for transformers>=5.9.0): transformers 5.24 hands its cache to
#   the attention layers as `cache`, and TransformerLens' layers look for `past_key_values`, take its absence for "no
#   cache" and never fill it. From the second new token on nothing but the newest token and its position is seen: all
#   that stands before has no influence. A FutureWarning says that a name is old, no more; the logits of a forward pass
#   are right. GPT-2 and Llama both. With 5.23.0, or with use_past_kv_cache=False, all is well.
# Hurt: continuations are what toxicity is measured on, under steering hooks too, and generate() is how one draws them.
#   They have lost the prompt, a small model's look as bad as before, and the figure is that of bigrams for all prompts,
#   so that a detoxified model and its base hardly differ. `return_type="logits_and_cache"`, fed back, does the same.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformer-lens==4.3.0 transformers==5.24.0 numpy==2.4.6
"$work/venv/bin/pip" install --quiet --no-deps --target "$work/before" transformers==5.23.0
cd "$work"
cat > see.py <<'P'
import sys
from importlib import metadata

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge

print("transformer-lens", metadata.version("transformer-lens"), "transformers", transformers.__version__)
LOST = sys.argv[1] == "lost"
END = "<|endoftext|>"
words = [END] + [f"w{i}" for i in range(1, 50)]
inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=END))
inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=END, eos_token=END, pad_token=END)
ends = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": 50, "initializer_range": 0.3}
gpt2 = transformers.GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=4, **ends)
llama = transformers.LlamaConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64, **ends
)
NEW = 12


def scored(model, prompt, new):
    """The mean log-probability that the model gives to the new tokens behind the prompt."""
    tokens = torch.tensor([prompt + new])
    chances = model(tokens).logits[0, :-1].double().log_softmax(-1)
    return chances[-NEW:].gather(1, tokens[0, -NEW:, None]).mean().item()


@torch.no_grad()
def compare(name, model, lens, prompts):
    right, forgetful, likely = 0, 0, []
    for prompt in prompts:
        tokens = torch.tensor([prompt])
        settings = {"max_new_tokens": NEW, "do_sample": False}
        settings_of_lens = {**settings, "return_type": "tokens", "verbose": False, "stop_at_eos": False}
        mask = torch.ones_like(tokens)
        expected = model.generate(tokens, attention_mask=mask, **settings, eos_token_id=None, pad_token_id=0)
        expected = expected[0, -NEW:].tolist()
        slow = lens.generate(tokens, use_past_kv_cache=False, **settings_of_lens)[0, -NEW:].tolist()
        got = lens.generate(tokens, **settings_of_lens)[0, -NEW:].tolist()
        assert slow == expected and torch.allclose(lens(tokens), model(tokens).logits, atol=1e-4)
        alone = expected[:1]  # From the second on: the newest token alone, at its place.
        for place in range(len(prompt), len(prompt) + NEW - 1):
            logits = model(torch.tensor([alone[-1:]]), position_ids=torch.tensor([[place]])).logits
            alone.append(logits[0, -1].argmax().item())
        right, forgetful = right + (got == expected), forgetful + (got == alone)
        likely.append([scored(model, prompt, new) for new in (expected, got)])
    means = torch.tensor(likely).mean(0).tolist()
    print(f"{name}: of {len(prompts)} prompts {right} go on as by transformers, {forgetful} as from the last token;")
    print(f"  mean log-probability of the new tokens {means[0]:.2f} by transformers, {means[1]:.2f} by TransformerLens")
    assert (right == 0 and forgetful == len(prompts)) if LOST else right == len(prompts), "no longer so"
    assert means[1] < means[0] - 1 if LOST else means[1] == means[0], "no longer so"


for name, settings in (("gpt2", gpt2), ("llama", llama)):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(settings).eval()
    model.save_pretrained(name)
    tokenizer.save_pretrained(name)
    lens = TransformerBridge.boot_transformers(name)
    compare(name, model, lens, torch.randint(1, 50, (20, 10)).tolist())
print("as found" if LOST else "as expected")
P
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES=""
PYTHONPATH="$work/before" "$work/venv/bin/python" see.py kept 2>errors || { cat errors; exit 1; }
"$work/venv/bin/python" see.py lost 2>errors || { cat errors; exit 1; }
