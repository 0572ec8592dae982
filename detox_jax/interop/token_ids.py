"""Ids of fixed texts here and in transformers' `AutoTokenizer`, which may not be the same.

transformers 5 builds normalizer, pre-tokenizer and decoder anew for some classes (GPT2Tokenizer,
GPTNeoXTokenizer, GemmaTokenizer, Qwen2Tokenizer) and passes over what `tokenizer.json` says of
them, and may lose the start token of its post-processor. This package follows `tokenizer.json`,
as transformers 4 did and as the model was trained; so a difference is told, and is no error.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Sequence
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


@dataclasses.dataclass(frozen=True)
class _Reading:
    """What a tokenizer makes of one text: ids without and with those around it, and back."""

    ids: list[int]
    text: str
    around: list[int] | None


def compare(vocabulary_dir: str, directory: str) -> int:
    """Prints how many of the texts have other ids, or other text of their ids, in transformers.

    Args:
      vocabulary_dir: of the checkpoint.
      directory: from which `AutoTokenizer` loads.

    Returns:
      How many differ; all of them where transformers cannot use the tokenizer.
    """
    transformers: Any = importlib.import_module("transformers")
    vocabulary = Vocabulary.load(vocabulary_dir)
    end = vocabulary.id_to_token(vocabulary.eos_id)
    texts = (*_TEXTS, f"a{end}b", f"a {end} b", "")
    ours = _our_readings(vocabulary_dir, vocabulary, texts)
    try:
        auto = transformers.AutoTokenizer.from_pretrained(directory)
        theirs = [_their_reading(auto, text) for text in texts]
    except Exception as error:  # Anything: it runs the class that tokenizer_config.json names.
        reason = (str(error) or repr(error)).strip().splitlines()[0]
        _warn(f"{directory}: AutoTokenizer cannot read it, and no ids were compared: {reason}")
        return len(texts)
    triples = zip(texts, ours, theirs, strict=True)
    differences = [found for triple in triples if (found := _difference(*triple))]
    if differences:
        _warn(
            f"{directory}: {len(differences)} of {len(texts)} texts are read otherwise by "
            f"AutoTokenizer ({type(auto).__name__}, transformers {transformers.__version__}), as "
            f"{differences[0]}; {TOKENIZER_FILE} is followed here. If the model was trained so, "
            f'"tokenizer_class": "PreTrainedTokenizerFast" in {TOKENIZER_CONFIG_FILE} has '
            "transformers follow it too"
        )
    else:
        print(f"ids of {len(texts)} texts equal those of AutoTokenizer")
    return len(differences)


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _our_readings(
    vocabulary_dir: str, vocabulary: Vocabulary, texts: Sequence[str]
) -> list[_Reading]:
    files = tokenizer_files.read(vocabulary_dir).files
    pipeline = None
    if TOKENIZER_FILE in files:  # Its post-processor says what stands around a text.
        pipeline = tokenizers.Tokenizer.from_str(files[TOKENIZER_FILE].decode())
        pipeline.no_padding()
    around = pipeline and pipeline.encode("", add_special_tokens=True).ids
    return [
        _Reading([i - 1 for i in ids], vocabulary.decode(ids), around)
        for ids in vocabulary.encode_batch(texts)
    ]


def _their_reading(auto: Any, text: str) -> _Reading:
    ids = list(auto.encode(text, add_special_tokens=False))
    back = auto.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return _Reading(ids, back, list(auto.encode("")))


def _difference(text: str, ours: _Reading, theirs: _Reading) -> str | None:
    """The first difference in words."""
    if ours.ids != theirs.ids:
        return f"{text!r}: ids {ours.ids} here, {theirs.ids} there"
    if ours.text != theirs.text:
        return f"ids {ours.ids}: {ours.text!r} here, {theirs.text!r} there"
    if ours.around is not None and ours.around != theirs.around:
        return f"the ids around a text: {ours.around} here, {theirs.around} there"
    return None
