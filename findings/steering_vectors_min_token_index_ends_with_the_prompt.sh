#!/usr/bin/env bash
# steering-vectors' min_token_index counts within each forward pass: under generate() new tokens are not steered.
#
# Guess: SteeringVector.apply(model, min_token_index=n) adds the vector from the sequence's token n on: a prompt of
#   five tokens and n=5 is "leave the prompt alone and steer what is written", n=3 both from token 3 on.
# Seen (steering-vectors 0.12.2, transformers 4.57.6, torch 2.13.0): generate() keeps keys and values, so each
#   pass behind the prompt's holds one token, which is number 0. Any min_token_index of 1 or more steers
#   nothing of what is written: with n=5 the text is the unsteered one, whatever the multiplier. With
#   use_cache=False the same call steers.
# Hurt: a detoxification by activation vectors that spares the prompt is the base model, or has the
#   vector in the prompt's last tokens alone; a sweep over multipliers is flat, and the table says that steering
#   does not work. Use use_cache=False, or min_token_index=0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet steering-vectors==0.12.2 transformers==4.57.6
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import torch
import transformers
from steering_vectors import SteeringVector

print(*(f"{name} {metadata.version(name)}" for name in ("steering-vectors", "transformers", "torch")))
torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2,
    bos_token_id=0, eos_token_id=None, pad_token_id=0, initializer_range=0.3,
)
model = transformers.LlamaForCausalLM(config).eval()
vector = SteeringVector({2: torch.randn(32)}, "decoder_block")
prompts = torch.randint(1, 257, [20, 5])


def written(**settings):
    return model.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=16, **settings
    )[:, 5:]


def steered(index, multiplier, **settings):
    """The share of 20 prompts whose text is another one under the vector."""
    with vector.apply(model, multiplier=multiplier, min_token_index=index):
        texts = written(**settings)
    return (texts != plain).any(1).float().mean().item()


plain = written()
assert torch.equal(plain, written(use_cache=False))
changed = {
    (index, cached): [steered(index, multiplier, use_cache=cached) for multiplier in (1, 10, 100)]
    for index in (0, 5)
    for cached in (True, False)
}
for (index, cached), shares in changed.items():
    print(
        f"min_token_index={index}, use_cache={cached}: multipliers 1, 10 and 100 change "
        f"{', '.join(f'{share:.0%}' for share in shares)} of the texts"
    )
assert changed[0, True][-1] == changed[0, False][-1] == 1
assert changed[5, True] == [0, 0, 0], "no longer so"
assert changed[5, False][-1] > 0.9
print("as found")
P
