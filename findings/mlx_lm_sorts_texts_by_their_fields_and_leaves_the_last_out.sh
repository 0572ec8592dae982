#!/usr/bin/env bash
# Guess: mlx-lm's trainer makes batches of texts of like length ("Sort by length"), draws their order anew each
#   epoch, and trains on every text of the file, if not in every epoch.
# Seen (mlx-lm 0.32.2, mlx 0.32.4 on a CPU): what `mlx_lm.lora` hands to the trainer measures a record by its number
#   of fields, not by its tokens. Records of {"text"} alone stay in the order of the file, so that texts of 31 and of
#   255 tokens share a batch: 66 % of what is computed is padding, 2 % where the file is sorted. What is more than
#   whole batches is cut off that order before batches are shuffled: the same last records in every epoch, and those
#   with a field more than the others, such as a score, before all others.
# Hurt: up to a batch of texts is never learnt, however long one trains, and is left out of the validation loss,
#   which shows nothing; where two sources are put together and one carries a score, all that is left out is of that
#   one. Training takes up to three times as long. Give all records one set of fields, sort them by length before, and
#   make their number a multiple of the batch.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'mlx[cpu]==0.32.4' mlx-lm==0.32.2 transformers==5.24.0 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P'
import itertools
import types
from importlib.metadata import version

import numpy as np
from mlx_lm.tuner.datasets import CacheDataset, create_dataset
from mlx_lm.tuner.trainer import iterate_batches


class Words:
    """A tokenizer whose words are numbers."""

    eos_token_id = 1

    def encode(self, text):
        return [int(word) for word in text.split()]


def data_of(records):
    return CacheDataset(create_dataset(records, Words(), types.SimpleNamespace()))


def padding(batches):
    counted = [(batch.size, int(np.array(lengths)[:, 1].sum())) for batch, lengths in batches]
    return 1 - sum(tokens for _, tokens in counted) / sum(size for size, _ in counted)


print(*(f"{name} {version(name)}" for name in ("mlx-lm", "mlx")))
np.random.seed(0)
# 256 texts, each named by its first word; every fourth is long.
texts = [" ".join([str(i + 2), *["7"] * (253 if i % 4 == 0 else 29)]) for i in range(256)]
as_they_lie = padding(iterate_batches(data_of([{"text": text} for text in texts]), 4, 2048))
by_length = padding(iterate_batches(data_of([{"text": text} for text in sorted(texts, key=len)]), 4, 2048))
print(f"padding: {as_they_lie:.0%} of all tokens; of records that were sorted before {by_length:.0%}")

# 30 records, of which the first three carry a score.
records = [{"text": text} | ({"toxicity": 0.1} if i < 3 else {}) for i, text in enumerate(texts[:30])]
epochs, batches = 50, len(records) // 4
drawn = itertools.islice(iterate_batches(data_of(records), 4, 2048, loop=True), epochs * batches)
seen = {int(row[0]) - 2 for batch, _ in drawn for row in np.array(batch)}
print(f"of 30 records in {epochs} epochs never seen: {sorted(set(range(30)) - seen)}")
assert as_they_lie > 0.6 and by_length < 0.05, "no longer so"
assert set(range(30)) - seen == {1, 2}, "no longer so"
P
