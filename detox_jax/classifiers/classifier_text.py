"""Text to ids as transformers makes them, special tokens and truncation included."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tokenizers
from etils import epath

from detox_jax.classifiers import encoder_tokenizers
from detox_jax.errors import UserError, in_one_line
from detox_jax.formats import jsonl
from detox_jax.tokenizer_files import (
    CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    why_beyond,
)

_SIDES = ("right", "left")
# Settings that classes such as RoBERTa's keep in their file and never read.
_CASE = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
_CASELESS_TYPES = {"roberta": "RobertaTokenizer", "xlm-roberta": "XLMRobertaTokenizer"}
_CASELESS = (
    *_CASELESS_TYPES.values(),
    "BartTokenizer",
    "CamembertTokenizer",
    "GPT2Tokenizer",
    "PreTrainedTokenizer",
    "TokenizersBackend",
)


class ClassifierTokenizer:
    """The tokenizer of a classifier: `tokenizer.json`, else its class's own vocabulary files.

    Attributes:
      files: all that decides an id.
      max_length: to which texts are cut, special tokens included.
      num_special: tokens that are added to a text.
    """

    def __init__(
        self, directory: epath.Path, vocab_size: int, longest: int, max_length: int | None
    ):
        """Reads the tokenizer.

        Args:
          directory: of the classifier.
          vocab_size: ids that the model knows.
          longest: text that the model can read, in tokens.
          max_length: to cut at; the least of the tokenizer's `model_max_length` and `longest` where
            None.

        Raises:
          UserError: if there is no readable tokenizer, its settings contradict it, it is another
            model's, or `max_length` is out of range.
        """
        config_file = directory / TOKENIZER_CONFIG_FILE
        tokenizer, self.files = _open(directory)
        config: dict[str, Any] = {}
        if config_file.exists():
            config = jsonl.json_object(config_file.read_bytes(), str(config_file))
        if self.files[0].name == TOKENIZER_FILE:  # Others are built as the settings say.
            said = config if _reads_case(directory) else _without_case(config)
            _check_agreement(json.loads(tokenizer.to_str()), said, str(config_file))
        top = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if top >= vocab_size:
            raise UserError(
                f"{self.files[0]}: has {top + 1} tokens, but the model knows {vocab_size}; "
                f"{why_beyond(tokenizer, vocab_size)}"
            )
        self.num_special = tokenizer.num_special_tokens_to_add(False)
        self.max_length = _max_length(config, longest, max_length, self.num_special, directory)
        side = config.get("truncation_side") or (tokenizer.truncation or {}).get("direction")
        if side not in (None, *_SIDES):
            raise UserError(f"{config_file}: truncation_side is {side!r}; one of right, left")
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length, direction=side or "right")
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts, special tokens included, cut to `max_length`."""
        # A lone surrogate has no UTF-8 form, which the library asks for.
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(clean)]


def _open(directory: epath.Path) -> tuple[tokenizers.Tokenizer, list[epath.Path]]:
    """The tokenizer, and all files that decide its ids."""
    file, config_file = directory / TOKENIZER_FILE, directory / TOKENIZER_CONFIG_FILE
    if file.exists():
        try:
            tokenizer = tokenizers.Tokenizer.from_str(file.read_text())
        except Exception as error:  # `tokenizers` raises bare Exception for a malformed file.
            raise UserError(f"{file}: not a readable tokenizer: {in_one_line(error)}") from None
        return tokenizer, [path for path in (file, config_file) if path.exists()]
    built = encoder_tokenizers.build(directory)
    if built is None:
        raise UserError(
            f"{directory}: has no tokenizer: neither {TOKENIZER_FILE} nor vocab.txt, vocab.json "
            "and merges.txt, sentencepiece.bpe.model or spm.model; download them as well"
        )
    return built


def _reads_case(directory: epath.Path) -> bool:
    """Whether the tokenizer's class reads the settings of `_CASE` at all."""
    name, _ = encoder_tokenizers.class_of(directory)
    if name is None and (file := directory / CONFIG_FILE).exists():
        model_type = jsonl.json_object(file.read_bytes(), str(file)).get("model_type")
        name = _CASELESS_TYPES.get(str(model_type))
    return name not in _CASELESS


def _without_case(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _CASE}


def _check_agreement(state: dict[str, Any], config: dict[str, Any], where: str) -> None:
    """Refuses settings by which transformers would change what tokenizer.json says."""
    parts = {part["type"]: part for part in _parts(state["normalizer"])}
    bert, lowers = parts.get("BertNormalizer", {}), "Lowercase" in parts
    splits = {part["type"]: part for part in _parts(state["pre_tokenizer"])}
    said = {"do_lower_case": bert["lowercase"] if bert else lowers}
    if bert:
        # Where it is null accents go with the case.
        strips = bert["strip_accents"]
        said["strip_accents"] = bert["lowercase"] if strips is None else strips
        said["tokenize_chinese_chars"] = bert["handle_chinese_chars"]
    if "ByteLevel" in splits:
        said["add_prefix_space"] = splits["ByteLevel"]["add_prefix_space"]
    for name, value in said.items():
        # Null leaves it to tokenizer.json.
        if config.get(name) not in (None, value):
            raise UserError(
                f"{where}: {name} is {config[name]}, but {TOKENIZER_FILE} has {value}; write both "
                "anew with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
            )


def _parts(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer, or the parts of a sequence of them."""
    if part is None:
        return []
    return part.get("normalizers") or part.get("pretokenizers") or [part]


def _max_length(
    config: dict[str, Any],
    longest: int,
    max_length: int | None,
    num_special: int,
    directory: epath.Path,
) -> int:
    if max_length is None:
        # Where it is unlimited transformers writes 10^30.
        return min(longest, int(config.get("model_max_length") or longest))
    if not num_special < max_length <= longest:
        raise UserError(
            f"{directory}: max_length is {max_length}; the model reads from {num_special + 1} to "
            f"{longest} tokens"
        )
    return max_length
