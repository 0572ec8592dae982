#!/usr/bin/env bash
# dolma's encode_batch by paragraphs takes a word off each text but the first, or puts a space in front of each line.
#
# Guess: dolma.tokenizer.Tokenizer(..., segment_before_tokenization=True) is the faster way to the same tokens: it
#   "segments documents by paragraph", which is "useful for tokenizers like Llama that are very slow on long documents",
#   and encode_batch gives each text what encode gives it.
# Seen (dolma 1.2.1, tokenizers 0.19.1): for a tokenizer that puts a space in front of a text, dolma puts one in front
#   of each paragraph but a text's first, and takes the token off again behind it, but from each paragraph other than
#   the batch's first. So the first token, mostly a whole word, is missing from each text but the first; encode
#   of one text is right. It sees the space only in a normalizer (Prepend) or as add_prefix_space. Metaspace, which
#   transformers gives to Llama today and T5 has, says prepend_scheme: there each line gains a space that the text has
#   not, in encode, in encode_batch and in tokenize_file, from which "dolma tokens" writes its files.
# Hurt: texts that were scored or filtered are not those that are trained on: "not" or "never" is gone from a
#   sentence's beginning, lines end with a space, perplexities of such tokens are of another text, and counts of tokens
#   hardly move. Nothing is said. Leave segment_before_tokenization off.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# dolma asks for an old s3fs; the pins of boto3 and aiobotocore spare pip a long search.
"$work/venv/bin/pip" install --quiet dolma==1.2.1 tokenizers==0.19.1 numpy==1.26.4 boto3==1.28.17 aiobotocore==2.5.4
cd "$work"
# dolma looks for nltk's data on the network at its import; it is not needed here.
http_proxy=http://127.0.0.1:1 https_proxy=http://127.0.0.1:1 "$work/venv/bin/python" - <<'P' 2>errors || {
import gzip
import json
from importlib import metadata

from dolma.tokenizer import Tokenizer, tokenize_file
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

print(*(f"{name} {metadata.version(name)}" for name in ("dolma", "tokenizers")))
TEXTS = [
    "nobody said why the bus was late",
    "never leave the tea alone\nshe said and went home",
    "the tea was cold\n\nthe bus was late\nnobody said why",
]


def trained(pre_tokenizer, decoder, alphabet=()):
    """A BPE whose tokens are words for the most part. The end of a text is token 0."""
    core = Core(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizer, decoder
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["</s>", "<unk>"], initial_alphabet=list(alphabet), show_progress=False
    )
    core.train_from_iterator(TEXTS * 5, trainer)
    return core


space = {"replacement": "▁", "prepend_scheme": "first"}
metaspace = trained(pre_tokenizers.Metaspace(**space), decoders.Metaspace(**space))
# Llama's older form of the same: a normalizer writes the spaces, two of which are a token.
older = json.loads(metaspace.to_str())
older["pre_tokenizer"] = None
older["model"]["vocab"]["▁▁"] = len(older["model"]["vocab"])
older["model"]["merges"].insert(0, "▁ ▁")
normalizer = Core.from_str(json.dumps(older))
normalizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
alphabet = pre_tokenizers.ByteLevel.alphabet()
cores = {
    "bytes behind a space": trained(pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel(), alphabet),
    "normalizer": normalizer,
    "Metaspace": metaspace,
}
seen = {}
for name, core in cores.items():
    whole = [core.encode(text, add_special_tokens=False).ids + [0] for text in TEXTS]
    assert [core.decode(row).strip() for row in whole] == TEXTS
    plain = Tokenizer(core, eos_token_id=0, pad_token_id=0)
    assert plain.encode_batch(TEXTS) == whole
    by_paragraph = Tokenizer(core, eos_token_id=0, pad_token_id=0, segment_before_tokenization=True)
    alone = [by_paragraph.encode(text) for text in TEXTS]
    together = by_paragraph.encode_batch(TEXTS)
    for way, rows in {"one by one": alone, "in a batch": together}.items():
        seen[name, way] = [core.decode(row) for row in rows]
        print(f"{name}, {way}:", *map(repr, seen[name, way]))
    if name != "Metaspace":
        assert [len(row) for row in together] == [len(whole[0])] + [len(row) - 1 for row in alone[1:]], "no longer so"

for name in list(cores)[:2]:
    assert [text.strip() for text in seen[name, "one by one"]] == TEXTS
    first, second, third = (text.strip() for text in seen[name, "in a batch"])
    assert first == TEXTS[0]
    assert second == TEXTS[1].removeprefix("never "), "no longer so"
    assert third == TEXTS[2].removeprefix("the "), "no longer so"
spaced = [TEXTS[0], TEXTS[1].replace("\n", " \n"), TEXTS[2].replace("\n\n", " \n\n").replace("late\n", "late \n")]
assert seen["Metaspace", "one by one"] == seen["Metaspace", "in a batch"] == spaced, "no longer so"

with gzip.open("texts.jsonl.gz", "wt") as file:
    for i, text in enumerate(TEXTS):
        file.write(json.dumps({"id": str(i), "text": text}) + "\n")
metaspace.save("tokenizer.json")
settings = {"eos_token_id": 0, "pad_token_id": 0, "segment_before_tokenization": True}
rows = [list(row.tokens) for row in tokenize_file("tokenizer.json", "texts.jsonl.gz", **settings)]
assert [metaspace.decode(row) for row in rows] == spaced, "no longer so"
print("as found")
P
  cat errors
  exit 1
}
