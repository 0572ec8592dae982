#!/usr/bin/env bash
# EasyDeL's greedy packing returns one row a text: of a text that fills several, all but the last are thrown away.
#
# Guess: PackedShardedSource (PackStage of the data pipeline, whose default strategy is "greedy") cuts the stream of
#   texts into rows of seq_length; each token is in one of them.
# Seen (easydel 0.3.0): the packer fills a row, begins the next, and hands back only the last that a text has filled. Of
#   texts of 37, 5 and 20 tokens in rows of 8, 23 of 62 tokens come out, and nothing is said: 13 of the first, 2 of the
#   second, which shared a row with the third, and 8 of the third. strategy="pool" loses as many; "first_fit" makes a
#   row of 38 tokens beside a mask of 8. pack_pre_tokenized, another function of the same file, cuts as guessed.
#   Texts that are shorter than a row come out whole.
# Hurt: texts that were tokenized with a longer max_length than the packing's seq_length (books, long threads, a data
#   set that was tokenized before) are reduced to their ends. The model is trained on a part of the corpus that nobody
#   chose, with fewer steps than counted; the toxicity of "the corpus" is that of the ends. Cut texts to seq_length - 1
#   before they are packed, or use pack_pre_tokenized.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet easydel==0.3.0 jax==0.9.2 jaxlib==0.9.2 transformers==5.5.4 pillow==13.0.0
cd "$work"
JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import inspect
from importlib import metadata

import numpy as np
from easydel.data.core.config import PackStageConfig
from easydel.data.transforms.pack import PackedShardedSource, pack_pre_tokenized

print("easydel", metadata.version("easydel"))
assert PackStageConfig().strategy == "greedy"
assert inspect.signature(PackedShardedSource).parameters["strategy"].default == "greedy"
END, LENGTH = 1, 8


class Texts:
    shard_names = ("texts",)

    def __init__(self, lengths):
        self.texts = [list(range(100 * text, 100 * text + length)) for text, length in enumerate(lengths, 1)]

    def open_shard(self, name):
        return ({"input_ids": text} for text in self.texts)


def kept(lengths, strategy):
    """The rows that come out, and which of the texts' tokens are in them."""
    texts = Texts(lengths)
    source = PackedShardedSource(texts, LENGTH, END, strategy=strategy, shuffle=False)
    rows = list(source.open_shard(source.shard_names[0]))
    tokens = {int(token) for row in rows for token in row["input_ids"]}
    return rows, [sorted(tokens & set(text)) for text in texts.texts]


for lengths in ((7, 7, 7), (37, 5, 20)):
    for strategy in ("greedy", "pool"):
        rows, found = kept(lengths, strategy)
        shown = ", ".join(f"{len(part)} of {length}" for part, length in zip(found, lengths, strict=True))
        print(f"{strategy}, texts of {lengths} tokens in rows of {LENGTH}: {shown} kept in {len(rows)} rows")
        if max(lengths) < LENGTH:
            assert [len(part) for part in found] == list(lengths)
        else:
            assert sum(map(len, found)) == 23
            first = found[0]
            assert first == list(range(124, 124 + len(first)))  # of the first text nothing before its last full row
            assert [len(part) for part in found] == {"greedy": [13, 2, 8], "pool": [8, 5, 10]}[strategy]
rows, found = kept((37, 5, 20), "first_fit")
print("first_fit:", [(row["input_ids"].shape[0], row["attention_mask"].shape[0]) for row in rows], "tokens and mask")
assert (rows[0]["input_ids"].shape[0], rows[0]["attention_mask"].shape[0]) == (38, LENGTH)
stream = ({"tokens": text} for text in Texts((37, 5, 20)).texts)
cut = np.concatenate([row["input_ids"] for row in pack_pre_tokenized(stream, LENGTH, END, 1, False, 1)()])
print("pack_pre_tokenized:", int((cut >= 100).sum()), "of 62 in full rows")
assert (cut >= 100).sum() == 62
print("as found")
P
