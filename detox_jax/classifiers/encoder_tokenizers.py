"""Tokenizers of encoders built from the vocabulary files of older Hugging Face directories.

A directory without `tokenizer.json` has the files of its tokenizer's class instead, and the class
says the rest: what is normalised, where words end, which tokens stand around a text. Here they are
built as transformers 5 builds them, so that ids are equal. They are built here, and not by it, so
that a published classifier scores without it, and gives the same scores whichever version of it is
installed: ids decide scores, and a fingerprint knows only the files.

    vocab.txt                    BERT, DistilBERT: WordPiece
    vocab.json and merges.txt    RoBERTa: byte-level BPE
    sentencepiece.bpe.model      XLM-R: Unigram, ids of fairseq, one beside SentencePiece's own
    spm.model                    DeBERTa-v2 and v3: Unigram

Another class with a file of the same name reads text otherwise, as BertJapaneseTokenizer does with
its vocab.txt: a directory that names one is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import tokenizers
from etils import epath
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors

from detox_jax import tokenizer_files
from detox_jax.errors import UserError, in_one_line, shortened
from detox_jax.formats import jsonl
from detox_jax.tokenizer_files import (
    ADDED_TOKENS_FILE,
    CONFIG_FILE,
    MERGES_FILE,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    VOCAB_FILE,
)

WORD_PIECE_FILE = "vocab.txt"
_XLM_FILE, _DEBERTA_FILE = "sentencepiece.bpe.model", "spm.model"
_SETTINGS_FILES = (TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE)
_SPACE = "\u2581"  # SentencePiece's sign for a space.
_CONTROL, _USER_DEFINED = 3, 4  # Types of SentencePiece's pieces.


class _Settings:
    """What tokenizer_config.json and special_tokens_map.json say; defaults are the class's."""

    def __init__(self, values: tokenizer_files.Settings, where: str):
        self.values, self.where = values, where
        self.config = values.get(TOKENIZER_CONFIG_FILE, {})

    def flag(self, name: str, default: bool | None) -> Any:
        value = self.config.get(name, default)
        if value not in (True, False, default):
            raise UserError(
                f"{self.where}/{TOKENIZER_CONFIG_FILE}: {name} is {value!r}; true or false"
            )
        return value

    def token(self, name: str, default: str) -> tokenizers.AddedToken:
        """A special token, such as `cls_token`, as it is spelt and with what it strips."""
        for file in (TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE):
            value = self.values.get(file, {}).get(name)
            if isinstance(value, str):
                return tokenizers.AddedToken(value, special=True, normalized=False)
            if isinstance(value, dict):
                return self._from_fields(name, value, file)
        return tokenizers.AddedToken(default, special=True, normalized=False)

    def _from_fields(self, name: str, value: dict[str, Any], file: str) -> tokenizers.AddedToken:
        fields = {key: field for key, field in value.items() if key not in ("__type", "special")}
        try:
            return tokenizers.AddedToken(fields.pop("content"), special=True, **fields)
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.where}/{file}: {name} cannot be read: {error!r}") from None


def build(directory: epath.Path) -> tuple[tokenizers.Tokenizer, list[epath.Path]] | None:
    """The tokenizer of a directory without `tokenizer.json`, and the files that decide its ids.

    Returns:
      None where the directory has no vocabulary of a kind that is known.

    Raises:
      UserError: if a file cannot be read, the tokenizer is of a class that reads text otherwise, or
        a special token is not in the vocabulary.
    """
    names = next(
        (files for files in _BUILDERS if all((directory / file).exists() for file in files)), None
    )
    if names is None:
        return None
    _check_class(directory, names)
    also = [name for name in _SETTINGS_FILES if (directory / name).exists()]
    where = str(directory)
    settings = _Settings(
        {
            name: jsonl.json_object((directory / name).read_bytes(), f"{where}/{name}")
            for name in also
        },
        where,
    )
    contents = [(directory / name).read_bytes() for name in names]
    try:
        tokenizer = _BUILDERS[names](contents, settings)
    except UserError:
        raise
    except Exception as error:  # `tokenizers` raises bare Exception, protobuf its own.
        raise UserError(
            f"{directory / names[0]}: not a readable vocabulary: {in_one_line(error)}"
        ) from None
    return tokenizer, [directory / name for name in (*names, *also)]


def class_of(directory: epath.Path) -> tuple[str | None, str | None]:
    """The class of transformers that a directory's tokenizer is of, and the file that names it.

    Raises:
      UserError: for a file that is no JSON object.
    """
    files = [directory / name for name in (TOKENIZER_CONFIG_FILE, CONFIG_FILE)]
    contents = {file.name: file.read_bytes() for file in files if file.exists()}
    name, file = tokenizer_files.tokenizer_class(
        tokenizer_files.settings_of(contents, f"{directory}/")
    )
    return (name and name.removesuffix("Fast")), file


def _check_class(directory: epath.Path, names: tuple[str, ...]) -> None:
    """Refuses vocabulary files of a class that reads text otherwise than their builder."""
    name, file = class_of(directory)
    if name is not None and name not in _CLASSES[names]:
        raise UserError(
            f"{directory}/{file}: how {shortened(repr(name), 60)}, its tokenizer_class, reads "
            f"{' and '.join(names)} is not known here; save the tokenizer with transformers' "
            f"save_pretrained where that writes {TOKENIZER_FILE}, or take another classifier"
        )


def _finish(
    tokenizer: tokenizers.Tokenizer,
    settings: _Settings,
    tokens: Mapping[str, str],
    around: tuple[str, str],
) -> tokenizers.Tokenizer:
    """Makes tokens special, and puts two of them around every text.

    Args:
      tokenizer: without special tokens.
      settings: what the files say.
      tokens: names and default spellings of the class's special tokens.
      around: names of the first and the last token of a text.
    """
    tokenizer_files.add_tokens(tokenizer, settings.values, settings.where)
    declared = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    special = {name: settings.token(name, spelling) for name, spelling in tokens.items()}
    for name in (*around, "unk_token"):
        if tokenizer.token_to_id(special[name].content) is None:
            raise UserError(
                f"{settings.where}: its {name} {special[name].content!r} is not in the vocabulary; "
                "take all files from one tokenizer"
            )
    tokenizer.add_special_tokens([t for t in special.values() if t.content not in declared])
    first, last = (special[name].content for name in around)
    pairs = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore
        single=[first, "$A", last], special_tokens=list(dict.fromkeys(pairs))
    )
    return tokenizer


_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def _word_pieces(contents: list[bytes], settings: _Settings) -> tokenizers.Tokenizer:
    lines = contents[0].decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    vocabulary = {token: i for i, token in enumerate(lines)}
    unknown = settings.token("unk_token", "[UNK]").content
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(  # type: ignore
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        strip_accents=settings.flag("strip_accents", None),
        lowercase=settings.flag("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore
    return _finish(tokenizer, settings, _BERT_TOKENS, ("cls_token", "sep_token"))


_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}


def _byte_pairs(contents: list[bytes], settings: _Settings) -> tokenizers.Tokenizer:
    vocabulary: dict[str, int] = json.loads(contents[0])
    merges = tokenizer_files.read_merges(contents[1])
    tokenizer = tokenizer_files.byte_level(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(  # type: ignore
        add_prefix_space=settings.flag("add_prefix_space", False)
    )
    return _finish(tokenizer, settings, _ROBERTA_TOKENS, ("cls_token", "sep_token"))


def _xlm_pieces(contents: list[bytes], settings: _Settings) -> tokenizers.Tokenizer:
    proto = _sentencepiece(contents[0])
    special = [settings.token(n, _ROBERTA_TOKENS[n]).content for n in _FAIRSEQ_FIRST]
    # Fairseq has four tokens where SentencePiece has <unk>, <s> and </s>, and <mask> at the end.
    pieces = [(token, 0.0) for token in special]
    pieces += [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    pieces += [(settings.token("mask_token", "<mask>").content, 0.0)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    if charsmap := proto.normalizer_spec.precompiled_charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)  # type: ignore
    scheme = "always" if settings.flag("add_prefix_space", True) else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme),
        ]
    )
    return _finish(tokenizer, settings, _ROBERTA_TOKENS, ("bos_token", "eos_token"))


_FAIRSEQ_FIRST = ("bos_token", "pad_token", "eos_token", "unk_token")
_DEBERTA_TOKENS = {**_BERT_TOKENS, "bos_token": "[CLS]", "eos_token": "[SEP]"}


def _deberta_pieces(contents: list[bytes], settings: _Settings) -> tokenizers.Tokenizer:
    proto = _sentencepiece(contents[0])
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    unknown = proto.trainer_spec.unk_id
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=False))
    lower = [normalizers.Lowercase()] if settings.flag("do_lower_case", False) else []
    # Transformers 5 takes this in place of the normalisation that the file holds.
    tokenizer.normalizer = normalizers.Sequence(  # type: ignore
        [
            *lower,
            normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
            normalizers.NFC(),
            normalizers.Strip(left=False, right=True),
        ]
    )
    split = settings.flag("split_by_punct", False)
    scheme = "always" if settings.flag("add_prefix_space", True) else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore
        [
            *([pre_tokenizers.Punctuation(behavior="isolated")] if split else []),
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme),
        ]
    )
    added_tokens = [
        tokenizers.AddedToken(piece.piece, normalized=False, special=piece.type == _CONTROL)
        for piece in proto.pieces
        if piece.type in (_CONTROL, _USER_DEFINED)
    ]
    tokenizer.add_tokens(added_tokens)
    return _finish(tokenizer, settings, _DEBERTA_TOKENS, ("cls_token", "sep_token"))


def _sentencepiece(content: bytes) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore
    proto.ParseFromString(content)
    if len(proto.pieces) <= 3:
        raise ValueError("it holds no pieces")
    return proto


_BUILDERS: dict[tuple[str, ...], Callable[[list[bytes], _Settings], tokenizers.Tokenizer]] = {
    (WORD_PIECE_FILE,): _word_pieces,
    (VOCAB_FILE, MERGES_FILE): _byte_pairs,
    (_XLM_FILE,): _xlm_pieces,
    (_DEBERTA_FILE,): _deberta_pieces,
}
# The classes that they build; where no file names one it is that of the model.
_CLASSES: dict[tuple[str, ...], tuple[str, ...]] = {
    (WORD_PIECE_FILE,): ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"),
    (VOCAB_FILE, MERGES_FILE): ("RobertaTokenizer", "BartTokenizer"),
    (_XLM_FILE,): ("XLMRobertaTokenizer",),
    (_DEBERTA_FILE,): ("DebertaV2Tokenizer",),
}
