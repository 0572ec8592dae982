#!/usr/bin/env bash
# Guess: a directory's tokenizer.json is the tokenizer: whoever reads it with the tokenizers library (as
#   servers in Rust do) has the ids and texts that AutoTokenizer has, and added_tokens_decoder of
#   tokenizer_config.json repeats what stands there.
# Seen (transformers 5.24.0, tokenizers 0.23.3): where the two differ in a token's flags, AutoTokenizer
#   takes those of tokenizer_config.json, without a line: an end of turn that tokenizer.json has as
#   ordinary and the config as special with rstrip is left out of decoded text by the one and written by
#   the other, and a space behind it is eaten by the one and a token to the other. save_pretrained then
#   writes the config's flags into tokenizer.json, so that the same model, loaded and saved, is another
#   one for whoever reads that file alone.
# Hurt: who fine-tunes with transformers and serves from tokenizer.json: ids that the model was not trained
#   with behind every turn, and marks in the texts that are scored; and who makes a token special by an
#   edit of one of the two files.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "transformers==5.24.0" "tokenizers==0.23.3"
cd "$work"
"$work/venv/bin/python" - <<'P'
import json
import os

import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
MARK = "<|im_end|>"
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
made = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
made.decoder = decoders.ByteLevel()
made.add_tokens([AddedToken(MARK, special=False, normalized=False)])
number = made.token_to_id(MARK)
os.makedirs("a")
made.save("a/tokenizer.json")
flags = {"lstrip": False, "rstrip": True, "single_word": False, "normalized": False, "special": True}
config = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "added_tokens_decoder": {str(number): {"content": MARK, **flags}},
}
with open("a/tokenizer_config.json", "w") as file:
    json.dump(config, file)


def read(text, directory):
    alone = tokenizers.Tokenizer.from_file(f"{directory}/tokenizer.json")
    auto = transformers.AutoTokenizer.from_pretrained(directory)
    ids = alone.encode(text).ids, auto.encode(text)
    texts = alone.decode(ids[0]), auto.decode(ids[0], skip_special_tokens=True)
    print(f"{directory}: tokenizer.json alone {ids[0]} {texts[0]!r}, AutoTokenizer {ids[1]} {texts[1]!r}")
    return ids, texts, auto


ids, texts, auto = read(f"a{MARK} b", "a")
assert len(ids[0]) == 4 and len(ids[1]) == 3 and ids[0] != ids[1]
assert texts == (f"a{MARK} b", "a b")
auto.save_pretrained("b")
ids, texts, _ = read(f"a{MARK} b", "b")
assert ids[0] == ids[1] and len(ids[0]) == 3 and texts == ("ab", "ab")
print("as found: the flags of added_tokens_decoder stand over tokenizer.json, and are saved into it")
P
