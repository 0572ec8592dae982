#!/usr/bin/env bash
# Guess: AutoTokenizer gives the ids that the directory's tokenizer.json gives, whichever class
#   tokenizer_config.json names, so that a tokenizer of N tokens fits an embedding of N rows.
# Seen (transformers 5.24.0, tokenizers 0.23.3): under "tokenizer_class": "GPTNeoXTokenizer" the same
#   272 tokens become 273: "<|padding|>" is appended as id 272, is the pad token, and no row of the
#   model's embedding is its own, so that the first padded batch is out of range; and the start token
#   that the post-processor of tokenizer.json puts before a text is gone. GPT2Tokenizer keeps the start
#   token and appends nothing; PreTrainedTokenizerFast follows the file.
# Hurt: who trains a tokenizer, names the class of the model's family beside it, as examples do, and
#   pads: IndexError on CPU, an assert on a GPU, or a row of another token where the embedding is padded;
#   and every figure measured without the start token that the model was trained with.
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
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
END = "<|endoftext|>"
seen = {}
for name in ("PreTrainedTokenizerFast", "GPT2Tokenizer", "GPTNeoXTokenizer"):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=272,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat, the dog ran to the river"] * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, 0)]
    )
    os.makedirs(name)
    tokenizer.save(f"{name}/tokenizer.json")
    config = {"tokenizer_class": name, "bos_token": END, "eos_token": END, "unk_token": END}
    with open(f"{name}/tokenizer_config.json", "w") as file:
        json.dump(config, file)
    loaded = transformers.AutoTokenizer.from_pretrained(name)
    starts = loaded.encode("the cat")[:1] == [0]
    seen[name] = (len(loaded) - tokenizer.get_vocab_size(), starts, loaded.pad_token_id)
    print(f"{name}: {len(loaded)} tokens of {tokenizer.get_vocab_size()}, starts with the start "
          f"token: {starts}, pad id {loaded.pad_token_id}")
size = tokenizer.get_vocab_size()
assert seen["PreTrainedTokenizerFast"] == (0, True, None), seen
assert seen["GPT2Tokenizer"] == (0, True, None), seen
assert seen["GPTNeoXTokenizer"] == (1, False, size), seen
print("as found: the class GPTNeoXTokenizer adds a token beyond the vocabulary and drops the start token")
P
