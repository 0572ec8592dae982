#!/usr/bin/env bash
# levanter's tokenization writes a space before each end token, and start tokens into texts of 10,000 letters.
#
# Guess: format "text" gives the tokens of the text with a start and an end token around them ("Appends EOS token and
#   prepends BOS token if not already present").
# Seen (levanter 1.2.dev1644): where the tokenizer adds no end token itself (GPT-2, Llama), the string " </s>" is
#   added, and its space is a token of its own: each text ends in a space that it does not have, and where the
#   start token is added too, it begins with one. For a tokenizer with a Replace or Sequence normalizer (Gemma, or
#   Llama 2 with its own tokenizer.json) texts above 10,000 letters are cut, each piece is tokenized as a text of
#   its own, and the pieces are joined: a start token and a space stand in the middle of sentences.
#   marin-levanter 0.2.20, its successor, has still the space before the end (by its source).
# Hurt: a model that was trained so writes a space before it ends, and one that was not is charged for a token that
#   nobody wrote: losses, perplexities and bits per byte do not compare with those of other programs, most of
#   all for short texts. In validation long texts break off at places that no other program cuts. Tokenize
#   by hand and train from the ids.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.7.2 jaxlib==0.7.2 numpy==2.4.6 equinox==0.13.8 chex==0.1.91 optax==0.2.6 \
  jaxtyping==0.3.11 jmp==0.0.4 transformers==4.57.6 datasets==4.8.0 fsspec==2025.10.0 filelock==3.20.0 \
  protobuf==6.33.1 safetensors==0.6.2 tensorstore==0.1.86 ray==2.60.0 draccus==0.11.6 deepdiff==9.1.0 lenses==1.2.0 \
  gitpython==3.2.1 dataclasses-json==0.6.7 async-lru==2.4.0 rich==15.0.0 tqdm-loggable==0.4.1 braceexpand==0.1.7 \
  pytimeparse==1.1.10 humanfriendly==10.0 tblib==3.2.2 msgpack==1.2.4
"$work/venv/bin/pip" install --quiet --no-deps levanter==1.2.dev1644 haliax==1.4.dev453 aqtp==0.9.0 flax==0.11.2
cd "$work"
JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
from importlib.metadata import version

from levanter.data.text import TextLmDatasetFormat, preprocessor_for_format
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

print(*(f"{name} {version(name)}" for name in ("levanter", "tokenizers", "transformers")))
SENTENCES = ["it is late and the sun is low", "the sun is late"] * 4


def like_gpt2():
    """Bytes, no normalizer, nothing added around a text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=letters, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|end|>", eos_token="<|end|>")


def like_llama2():
    """A normalizer that makes spaces visible, and a start token before each text."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    made.train_from_iterator(SENTENCES, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def of_levanter(tokenizer, text):
    return preprocessor_for_format(TextLmDatasetFormat(), tokenizer)([{"text": text}])[0]["input_ids"]


def around(tokenizer, text):
    """The tokens of the text, with the start and the end around them."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]


gpt2, llama2 = like_gpt2(), like_llama2()
short = "it is late"
for name, tokenizer in (("gpt2", gpt2), ("llama2", llama2)):
    found, wanted = of_levanter(tokenizer, short), around(tokenizer, short)
    print(f"{name}: {tokenizer.convert_ids_to_tokens(found)}, expected {tokenizer.convert_ids_to_tokens(wanted)}")
    assert len(found) > len(wanted) and tokenizer.decode(found[-2:-1]).strip() == "", "no longer so"
assert gpt2.decode(of_levanter(gpt2, short)) == f"<|end|> {short} <|end|>", "no longer so"
assert gpt2.decode(around(gpt2, short)) == f"<|end|>{short}<|end|>"
assert of_levanter(llama2, short)[0] == llama2.bos_token_id, "its own start token is not written twice"

text = " ".join(["the sun is late and it is low"] * 1100)
found, wanted = of_levanter(llama2, text), around(llama2, text)
starts = [place for place, token in enumerate(found) if token == llama2.bos_token_id]
print(f"llama2, {len(text)} letters: {len(found)} tokens, expected {len(wanted)}; start tokens at {starts}:")
for place in starts[1:]:
    print("  ", llama2.convert_ids_to_tokens(found[place - 4 : place + 5]))
assert len(text) > 30_000 and len(starts) == 4 and wanted.count(llama2.bos_token_id) == 1, "no longer so"
P
