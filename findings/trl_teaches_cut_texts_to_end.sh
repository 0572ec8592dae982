#!/usr/bin/env bash
# TRL's DPOTrainer writes end-of-text behind both sides of a pair, also of texts that were cut.
#
# Guess: what a pair holds as text is what is trained on; continuations that were cut at 20 tokens, as
#   RealToxicityPrompts' protocol cuts them, teach nothing of how to end.
# Seen (trl 1.16.0, transformers 5.24.0, torch 2.13.0): the prepared rows end in the tokenizer's
#   end-of-text, behind half a word too; no field of DPOConfig is about it. Twenty steps on eight such
#   pairs raise the probability of end-of-text at the cut, in the middle of a word, fourfold.
# Hurt: a model detoxified on its own continuations learns to stop where they were cut, and after nontoxic
#   text above all; shorter texts are less toxic, and the table calls that detoxification.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet trl==1.16.0 transformers==5.24.0 datasets==5.2.0 accelerate==1.15.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib import metadata

import datasets
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from trl import DPOConfig, DPOTrainer

print(*(f"{name} {metadata.version(name)}" for name in ("trl", "transformers", "torch")))
symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
ids = {"<eos>": 0} | {symbol: i + 1 for i, symbol in enumerate(symbols)}
bytes_alone = Tokenizer(models.BPE(vocab=ids, merges=[]))
bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytes_alone.decoder = decoders.ByteLevel()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_alone, eos_token="<eos>")
torch.manual_seed(0)
config = transformers.GPT2Config(
    vocab_size=len(ids), n_positions=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
)
transformers.GPT2LMHeadModel(config).save_pretrained("base")
model, reference = (transformers.GPT2LMHeadModel.from_pretrained("base") for _ in range(2))


def ends(model):
    """The probability of end-of-text where the chosen side was cut."""
    row = tokenizer("day 3 the bus was la", return_tensors="pt").input_ids
    with torch.no_grad():
        return torch.softmax(model.eval()(row).logits[0, -1], -1)[0].item()


pairs = [
    {"prompt": f"day {i}", "chosen": " the bus was la", "rejected": " it was a mess "}
    for i in range(8)
]
settings = DPOConfig(
    output_dir="out", per_device_train_batch_size=4, max_steps=20, learning_rate=3e-3, bf16=False,
    use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
)
before = ends(model)
trainer = DPOTrainer(
    model=model, ref_model=reference, args=settings, processing_class=tokenizer,
    train_dataset=datasets.Dataset.from_list(pairs),
)
row = trainer.train_dataset[0]
chosen, rejected = (tokenizer.decode(row[f"{side}_ids"]) for side in ("chosen", "rejected"))
about_it = [name for name in vars(settings) if "eos" in name or "end_of" in name]
trainer.train()
after = ends(trainer.model)
print(f"{chosen!r} {rejected!r}; settings about it: {about_it}")
print(f"end-of-text at the cut: {before:.4f} before, {after:.4f} after")
assert chosen == " the bus was la<eos>" and rejected == " it was a mess <eos>", "no longer so"
assert not about_it, "there is a setting now"
assert after > 2 * before, "no longer so"
P
