"""Ids of fixed texts here and in transformers' `AutoTokenizer`, which may not be the same.

transformers 5 builds normalizer, pre-tokenizer and decoder anew for some classes (GPT2Tokenizer,
GPTNeoXTokenizer, GemmaTokenizer, Qwen2Tokenizer) and passes over what `tokenizer.json` says of
them, and may lose the start token of its post-processor. This package follows `tokenizer.json`,
as transformers 4 did and as the model was trained; so a difference is told, and is no error.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import tokenizers

from detox_jax import tokenizer_files
from detox_jax.tokenizer_files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from detox_jax.vocabulary import Vocabulary

_TEXTS = (
    "Hello world",
    " one leading space",
    "two  spaces,   three",
    "a space behind ",
    "1234567890 and 3.14, 2,000 or 7",
    "UPPER lower MiXeD",
    "It's they'LL we've",
    "one\ntwo\n\nthree\r\n",
    "\ttab",
    "naïve café, Zürich",
    "cafe\u0301 \ufb01 \u2460 \u00a0",  # Not composed, or with another form that looks alike.
    "日本語 и русский",
    "🙂!?...--",
)


def compare(vocabulary_dir: str, directory: str) -> int:
    """Prints how many of the texts have other ids, or other text of their ids, in transformers.

    Args:
      vocabulary_dir: of the checkpoint.
      directory: from which `AutoTokenizer` loads.

    Returns:
      How many differ; all of them where transformers cannot load the tokenizer.
    """
    transformers: Any = importlib.import_module("transformers")
    texts = [*_TEXTS, *_around_end(Vocabulary.load(vocabulary_dir))]
    try:
        theirs = transformers.AutoTokenizer.from_pretrained(directory)
    except Exception as error:  # Anything: it runs the class that tokenizer_config.json names.
        reason = (str(error) or repr(error)).strip().splitlines()[0]
        print(
            f"warning: {directory}: AutoTokenizer cannot load it, and no ids were compared: "
            f"{reason}",
            file=sys.stderr,
        )
        return len(texts)
    differences = _differences(vocabulary_dir, theirs, texts)
    if not differences:
        print(f"ids of {len(texts)} texts equal those of AutoTokenizer")
        return 0
    print(
        f"warning: {directory}: {len(differences)} of {len(texts)} texts are read otherwise by "
        f"AutoTokenizer ({type(theirs).__name__}, transformers {transformers.__version__}), as "
        f"{differences[0]}; {TOKENIZER_FILE} is followed here. If the model was trained so, "
        f'"tokenizer_class": "PreTrainedTokenizerFast" in {TOKENIZER_CONFIG_FILE} has '
        "transformers follow it too",
        file=sys.stderr,
    )
    return len(differences)


def _around_end(vocabulary: Vocabulary) -> list[str]:
    end = vocabulary.id_to_token(vocabulary.eos_id)
    return [f"a{end}b", f"a {end} b", ""]


def _differences(vocabulary_dir: str, theirs: Any, texts: list[str]) -> list[str]:
    """What differs, one line for each text that does."""
    vocabulary = Vocabulary.load(vocabulary_dir)
    files = tokenizer_files.read(vocabulary_dir).files
    around = _around(files[TOKENIZER_FILE]) if TOKENIZER_FILE in files else None
    found = []
    for text in texts:
        ours = [i - 1 for i in vocabulary.encode(text)]
        ids = list(theirs.encode(text, add_special_tokens=False))
        if ours != ids:
            found.append(f"{text!r}: {ours} here, {ids} there")
            continue
        decoded = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if vocabulary.decode([i + 1 for i in ids]) != decoded:
            found.append(f"{ids}: {vocabulary.decode([i + 1 for i in ids])!r} here, {decoded!r}")
        elif not text and around is not None and around != theirs.encode(""):
            found.append(f"around a text: {around} here, {theirs.encode('')} there")
    return found


def _around(content: bytes) -> list[int]:
    """The ids that the post-processor of `tokenizer.json` puts around a text."""
    return tokenizers.Tokenizer.from_str(content.decode()).encode("", add_special_tokens=True).ids
