#!/usr/bin/env bash
# A tokenizer that transformers saves after it cut a text cuts every text that another library gives it.
#
# Guess: truncation=True, max_length=32 is about that call; save_pretrained writes the tokenizer as it was loaded.
# Seen (transformers 5.24.0, tokenizers 0.23.3): the call leaves its truncation and padding in the tokenizer, and
#   save_pretrained writes them to tokenizer.json. transformers itself sets them aside at the next call, so
#   that nothing is seen there. `tokenizers`, which trainers, servers and JAX programs read the file with,
#   cuts each text at 32 tokens, and pads a batch to its longest text. A warm-up of one short text is enough.
# Hurt: a corpus encoded from the fine-tuned model's directory has 32 tokens of each document, prompts longer
#   than that lose their end, scores are of the first lines; nothing is said. The base model's directory is
#   right. Tokenizer.no_truncation() and no_padding() after reading help.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import json
import pathlib
from importlib import metadata

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

print(*(f"{name} {metadata.version(name)}" for name in ("transformers", "tokenizers")))
symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
ids = {"<eos>": 0} | {symbol: i + 1 for i, symbol in enumerate(symbols)}
bytes_alone = Tokenizer(models.BPE(vocab=ids, merges=[]))
bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytes_alone.decoder = decoders.ByteLevel()
transformers.PreTrainedTokenizerFast(
    tokenizer_object=bytes_alone, eos_token="<eos>", pad_token="<eos>"
).save_pretrained("base")
DOCUMENT = "the bus was late again, and nobody said why. " * 20


def lengths(directory):
    """Tokens of the document and of a short text in one batch, read by `tokenizers` and by transformers."""
    plain = Tokenizer.from_file(f"{directory}/tokenizer.json").encode_batch([DOCUMENT, "a bus"])
    auto = transformers.AutoTokenizer.from_pretrained(directory)([DOCUMENT, "a bus"]).input_ids
    return [len(encoding.ids) for encoding in plain], [len(row) for row in auto]


tokenizer = transformers.AutoTokenizer.from_pretrained("base")
tokenizer(["a bus"], truncation=True, max_length=32)
tokenizer.save_pretrained("cut")
tokenizer(["a bus", "the bus"], truncation=True, max_length=32, padding=True)
tokenizer.save_pretrained("padded")
found = {directory: lengths(directory) for directory in ("base", "cut", "padded")}
for directory, (plain, auto) in found.items():
    saved = json.loads(pathlib.Path(directory, "tokenizer.json").read_text())
    print(
        f"{directory}: tokenizers {plain}, transformers {auto}; in the file: "
        f"truncation {saved['truncation']}, padding {saved['padding']}"
    )
whole = [len(DOCUMENT), 5]
assert found["base"] == (whole, whole)
assert found["cut"] == ([32, 5], whole), "no longer so"
assert found["padded"] == ([32, 32], whole), "no longer so"
print("as found")
P
