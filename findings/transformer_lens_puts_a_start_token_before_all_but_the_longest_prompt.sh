#!/usr/bin/env bash
# TransformerLens puts a start token before all but a batch's longest prompt where prepend_bos=False says not to.
#
# Guess: generate(prompts, prepend_bos=False) continues each prompt as it stands, in a batch as alone; its docstring
#   advises it for texts in a chat template, which have their start token already.
# Seen (transformer-lens 4.3.0, transformers 5.23.0, torch 2.13.0): a batch is padded on the left and the mask is made
#   by the model's default_prepend_bos, not by the argument: where the padding token is the start token, as for GPT-2,
#   the last padding token stays visible and is counted in the positions. Each prompt but the longest goes on as with
#   prepend_bos=True, all of 15 prompts otherwise than alone. model(prompts, prepend_bos=False, padding_side="left")
#   gives those logits too, and its loss counts one token more for each text. Where the default is False (Pythia) the
#   argument True is lost the same way: the start token is masked as padding, in the longest prompt too.
# Hurt: prompts of a toxicity figure are drawn in batches, baselines often one by one or elsewhere. With GPT-2 the start
#   token changes what follows a lot, since such a prompt begins a text; which prompts have it hangs on the batch, and a
#   study of start tokens compares one with itself. Set model.cfg.default_prepend_bos as well.
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
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=END, eos_token=END, pad_token=END)
settings = transformers.GPT2Config(
    vocab_size=50,
    n_positions=64,
    n_embd=32,
    n_layer=2,
    n_head=4,
    initializer_range=0.3,
    bos_token_id=0,
    eos_token_id=0,
)
plain = transformers.GPT2LMHeadModel(settings).eval()
plain.save_pretrained("model")
tokenizer.save_pretrained("model")
lens = TransformerBridge.boot_transformers("model")
lengths = torch.randint(3, 20, (15,)).tolist() + [24]
prompts = [" ".join(words[i] for i in torch.randint(1, 50, (length,)).tolist()) for length in lengths]


@torch.no_grad()
def greedy(prompt, start):
    """Twelve tokens, by plain transformers."""
    tokens = [0] * start + inner.encode(prompt).ids
    for _ in range(12):
        tokens.append(plain(torch.tensor([tokens])).logits[0, -1].argmax().item())
    return tokens[-12:]


def by_lens(prompts, start):
    settings = {"do_sample": False, "stop_at_eos": False, "return_type": "tokens", "verbose": False}
    tokens = lens.generate(prompts, max_new_tokens=12, prepend_bos=start, **settings)
    return tokens[:, -12:].tolist()


@torch.no_grad()
def last(prompts, start, **settings):
    return lens(prompts, prepend_bos=start, **settings)[:, -1].double()


def report(name, got):
    """How many of the shorter prompts go on as they do by plain transformers without a start token, and with one."""
    counts = [sum(a == greedy(p, start) for a, p in zip(got, prompts[:15], strict=False)) for start in (0, 1)]
    print(f"{name}: {counts[0]} of 15 as without a start token, {counts[1]} as with one")
    return counts


alone = [by_lens([prompt], False)[0] for prompt in prompts]
together, started = by_lens(prompts, False), by_lens(prompts, True)
seen = report("alone, prepend_bos=False", alone)
assert seen[0] == 15 and seen[1] < 8 and together[15] == alone[15] == greedy(prompts[15], 0)
assert report("in a batch, prepend_bos=False", together) == [seen[1], 15], "no longer so"
assert report("in a batch, prepend_bos=True", started) == [seen[1], 15]

batch = last(prompts, False, padding_side="left")
for i, prompt in enumerate(prompts):
    expected = last([prompt], i != 15)
    assert torch.allclose(batch[i : i + 1], expected, atol=1e-4), "no longer so"
own = torch.cat([last([prompt], False) for prompt in prompts])
distance = 0.5 * (batch.softmax(-1) - own.softmax(-1)).abs().sum(-1)
print(f"the next token's distribution is off by {distance[:15].mean():.2f}, the longest prompt's by {distance[15]:.2f}")
lens.cfg.default_prepend_bos = False
assert report("in a batch, with the setting too", by_lens(prompts, False))[0] == 15
hidden = by_lens(prompts, True)
assert report("the setting False, prepend_bos=True", hidden)[0] == 15 and hidden[15] == alone[15], "no longer so"
print("as found")
P
