#!/usr/bin/env bash
# WordPieceTrainer of tokenizers gives one corpus other ids, and at times other pieces, in each process.
#
# Guess: training a tokenizer has no randomness: the same texts and settings give the same tokenizer.json, as they
#   do for BPE.
# Seen (tokenizers 0.23.3): the letters within words ("##e") get their ids in the order of a hash table that has
#   another seed in each process. Six trainings gave six tables of ids, and since ties between pairs are broken by
#   ids, the set of pieces is not always one either. BPE is the same in all six. There is no seed to set.
# Hurt: a classifier retrained "with the same seed" is another one; weights read beside a tokenizer that was trained
#   again take each other's letters, in the right shapes and without a word; hosts of one job that each train the
#   tokenizer train on different ids. Train once and copy the file, or hand the sorted "##" letters to the trainer
#   as special tokens, which fixes their ids, and build the tokenizer from the vocabulary that comes out.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tokenizers==0.23.3
cat > "$work/train.py" <<'P'
import hashlib
import json
import random
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

SETTINGS = {"vocab_size": 1_000, "show_progress": False, "special_tokens": ["[UNK]"]}
draw = random.Random(0)
words = ["".join(draw.choice("abcdefghij") for _ in range(draw.randint(2, 9))) for _ in range(3_000)]
texts = [" ".join(draw.choice(words) for _ in range(30)) for _ in range(2_000)]
model, trainer = {
    "WordPiece": (models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(**SETTINGS)),
    "BPE": (models.BPE(unk_token="[UNK]"), trainers.BpeTrainer(**SETTINGS)),
    "WordPiece, letters given": (
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(
            **SETTINGS | {"special_tokens": ["[UNK]", *(f"##{letter}" for letter in "abcdefghij")]}
        ),
    ),
}[sys.argv[1]]
tokenizer = Tokenizer(model)
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.train_from_iterator(texts, trainer)
vocabulary = tokenizer.get_vocab()
for what in (vocabulary, sorted(vocabulary), [tokenizer.encode(text).ids for text in texts[:200]]):
    print(hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8], end=" ")
P
cd "$work"
"$work/venv/bin/python" - <<'P'
import subprocess
import sys
from importlib import metadata

print("tokenizers", metadata.version("tokenizers"))
found = {}
for kind in ("BPE", "WordPiece", "WordPiece, letters given"):
    runs = [
        subprocess.run([sys.executable, "train.py", kind], check=True, capture_output=True, text=True).stdout.split()
        for _ in range(6)
    ]
    tables, pieces, encoded = found[kind] = [len(set(column)) for column in zip(*runs)]
    print(f"{kind}: six trainings of one corpus: {tables} tables of ids, {pieces} sets of pieces, {encoded} encodings")
assert found["BPE"] == found["WordPiece, letters given"] == [1, 1, 1]
assert found["WordPiece"][0] > 2 and found["WordPiece"][2] > 2, "no longer so"
print("as found")
P
