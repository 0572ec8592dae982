#!/usr/bin/env bash
# TRL's KTOTrainer reads pairs as all chosen sides first and then all rejected ones, and never shuffles.
#
# Guess: KTOTrainer takes a data set of pairs, of which it makes rows with a label, and trains on batches that hold
#   both kinds, in an order that the seed draws, as DPOTrainer and every other Trainer do.
# Seen (trl 1.16.0, transformers 5.24.0, torch 2.13.0): pairs come apart by thousands, chosen sides before rejected
#   ones, and the order is kept, since the default loss admits no other sampling than "sequential". Of 64 pairs the
#   first eight batches are all good and the next eight all bad. Here that epoch leaves the good texts 22 nats less
#   likely than they were, the bad ones 16; the same rows, shuffled first, leave them at +2 and -14. The logged
#   rewards of each kind come from their own half, 1.5 and -0.5, and look right.
# Hurt: with up to a thousand pairs a run ends in half an epoch of pushing down, at the schedule's end in each epoch;
#   with more it swings every thousand. Rows of one's own that are sorted by label fare alike. The model that
#   comes out writes neither kind, which the toxicity takes for success. Unpair and shuffle the rows first:
#   unpair_preference_dataset(pairs).shuffle(seed=0).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet trl==1.16.0 transformers==5.24.0 datasets==5.2.0 accelerate==1.15.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import itertools
import random
from importlib import metadata

import datasets
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from trl import KTOConfig, KTOTrainer
from trl.data_utils import unpair_preference_dataset

print(*(f"{name} {metadata.version(name)}" for name in ("trl", "transformers", "torch")))
symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
ids = {"<eos>": 0} | {symbol: i + 1 for i, symbol in enumerate(symbols)}
bytes_alone = Tokenizer(models.BPE(vocab=ids, merges=[]))
bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytes_alone.decoder = decoders.ByteLevel()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_alone, eos_token="<eos>")
torch.manual_seed(0)
config = transformers.GPT2Config(
    vocab_size=len(ids), n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
)
transformers.GPT2LMHeadModel(config).save_pretrained("base")
draw = random.Random(0)
word = lambda: "".join(draw.choice("abcdefghij") for _ in range(5))
pairs = datasets.Dataset.from_list(
    [{"prompt": f"day {i}", "chosen": f" nice {word()}", "rejected": f" rude {word()}"} for i in range(64)]
)


class Watched(KTOTrainer):
    def _compute_loss(self, model, inputs, return_outputs):
        self.labels.append(inputs["label"].tolist())
        return super()._compute_loss(model, inputs, return_outputs)


def likelihood(model, text):
    row = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return -model.eval()(row, labels=row).loss.item() * (row.shape[1] - 1)


def gains(rows):
    """The labels of each batch, and by how much an epoch raises the log-likelihood of good and bad texts."""
    model, reference = (transformers.GPT2LMHeadModel.from_pretrained("base") for _ in range(2))
    settings = KTOConfig(
        output_dir="out", per_device_train_batch_size=8, num_train_epochs=1, learning_rate=1e-2, bf16=False,
        use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, logging_strategy="no",
    )
    trainer = Watched(
        model=model, ref_model=reference, args=settings, processing_class=tokenizer, train_dataset=rows
    )
    trainer.labels = []
    trainer.train()
    raised = [
        sum(likelihood(trainer.model, f"day {i}{kind}") - likelihood(reference, f"day {i}{kind}") for i in range(8)) / 8
        for kind in (" nice", " rude")
    ]
    return [sum(batch) for batch in trainer.labels], raised


rows = unpair_preference_dataset(datasets.Dataset.from_dict({name: ["x"] * 1500 for name in pairs.column_names}))
runs = [len(list(run)) for _, run in itertools.groupby(rows["label"])]
print(f"1500 pairs: rows of one label in a row {runs}")
assert runs == [1000, 1000, 500, 500], "no longer so"
labels, (good, bad) = gains(pairs)
print(f"pairs: good rows of 8 in each batch {labels}; good texts {good:+.1f} nats, bad {bad:+.1f}")
assert labels == [8] * 8 + [0] * 8, "no longer so"
assert good < -5 and good < bad, "no longer so"
labels, (good, bad) = gains(unpair_preference_dataset(pairs).shuffle(seed=0))
print(f"shuffled: good rows of 8 in each batch {labels}; good texts {good:+.1f} nats, bad {bad:+.1f}")
assert 0 < min(labels) and max(labels) < 8 and good > bad + 5, "no longer so"
P
