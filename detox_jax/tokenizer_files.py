"""The tokenizer files of other libraries: read into a codec, with the tokens that bound a document.

A codec turns text into the tokenizer's own ids and back; `detox_jax.vocabulary` shifts them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import tokenizers
from etils import epath
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from detox_jax import atomic_files
from detox_jax.errors import UserError, in_one_line, shortened
from detox_jax.formats import jsonl

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILE = "tokenizer.json"
VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"
SENTENCEPIECE_FILE = "tokenizer.model"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
KEPT = (
    TOKENIZER_FILE,
    VOCAB_FILE,
    MERGES_FILE,
    SENTENCEPIECE_FILE,
    TOKENIZER_CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    ADDED_TOKENS_FILE,
    "chat_template.jinja",
)
CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"
# A model's own files. How it generates stays with the tokenizer: the tokens that end a text are
# named there. config.json does so only where no other file names a special token.
MODEL_FILES = (GENERATION_FILE, CONFIG_FILE)

# The classes of transformers that read `vocab.json` and `merges.txt`, by what they do to a text
# before the merges: GPT-2's cuts; NFC and GPT-2's cuts (from version 5 on; 4 read no such files of
# GPT-NeoX); NFC and Qwen's own cuts. Version 4 has `Fast` behind some names.
GPT2_CLASS = "GPT2Tokenizer"
_GPT2_CLASSES = (GPT2_CLASS, "RobertaTokenizer", "BartTokenizer")
_NEOX_CLASS, _QWEN_CLASS = "GPTNeoXTokenizer", "Qwen2Tokenizer"
_QWEN_TYPES = ("qwen2", "qwen3")  # whose tokenizer is Qwen's where no file names its class
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Boundaries that a class of transformers 5 has where no file names them; others have none.
_BOUNDARIES = ("bos_token", "eos_token")
_CLASS_TOKENS = {
    **dict.fromkeys((*_GPT2_CLASSES, _NEOX_CLASS), _BOUNDARIES),
    **dict.fromkeys(("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer"), _BOUNDARIES),
    _QWEN_CLASS: ("eos_token",),
}
_SPECIAL = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))

_OF_ANOTHER_MODEL = "the two belong to different models"


class Codec(Protocol):
    """Text to a tokenizer's own ids and back.

    Attributes:
      size: the largest id plus one.
    """

    size: int

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts, no special token added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens have none."""
        ...

    def token_to_id(self, token: str) -> int | None:
        """The id of a token's own spelling."""
        ...

    def id_to_token(self, token_id: int) -> str | None:
        """A token's own spelling."""
        ...

    def why_beyond(self, rows: int) -> str:
        """Why it has more tokens than a model has rows, and what to do."""
        ...

    def fingerprint(self, bos: int, eos: int) -> str:
        """A hash of all that decides ids and text."""
        ...


class TokenizersCodec:
    """A tokenizer of the `tokenizers` library: BPE, with or without bytes, or Unigram."""

    def __init__(self, tokenizer: tokenizers.Tokenizer):
        # Padding and truncation settings of a foreign tokenizer.json would change what is encoded.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts, encoded in parallel."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token's own spelling."""
        return self._tokenizer.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        """A token's own spelling."""
        return self._tokenizer.id_to_token(token_id)

    def why_beyond(self, rows: int) -> str:
        """See `why_beyond`."""
        return why_beyond(self._tokenizer, rows)

    def fingerprint(self, bos: int, eos: int) -> str:
        """Tokens and merges, and the rest of the pipeline where it is not GPT-2's."""
        state: dict[str, Any] = json.loads(self._tokenizer.to_str())
        relevant = [sorted(self._tokenizer.get_vocab().items()), state["model"].get("merges")]
        if not _is_gpt2_pipeline(state) or {bos, eos} != {self.token_to_id(END_OF_TEXT)}:
            parts = ("added_tokens", "normalizer", "pre_tokenizer", "decoder", "model")
            relevant += [[state[part] for part in parts], bos, eos]
        return hashlib.sha256(json.dumps(relevant).encode()).hexdigest()[:16]


class SentencePieceCodec:
    """A SentencePiece model, run by SentencePiece itself."""

    def __init__(self, model: bytes):
        import sentencepiece

        self._model = model
        self._processor: Any = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(model)
        sp = self._processor
        self.size = sp.GetPieceSize()
        special = [i for i in range(self.size) if sp.IsControl(i) or sp.IsUnknown(i)]
        self._special_ids = {sp.IdToPiece(i): i for i in special}
        self._special = re.compile(f"({'|'.join(map(re.escape, self._special_ids))})")

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts; a special token spelt in a text is that token, as in transformers."""
        parts = [self._special.split(text) for text in texts]  # text, token, text, token, text
        encoded = iter(self._processor.EncodeAsIds([t for text in parts for t in text[::2]]))
        return [[i for part in text for i in self._ids(part, encoded)] for text in parts]

    def _ids(self, part: str, encoded: Iterator[list[int]]) -> list[int]:
        return [self._special_ids[part]] if part in self._special_ids else next(encoded)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; control and unknown tokens have none."""
        special = self._special_ids.values()
        return self._processor.DecodeIds([i for i in ids if i not in special])

    def token_to_id(self, token: str) -> int | None:
        """The id of a piece."""
        token_id = self._processor.PieceToId(token)
        return token_id if self._processor.IdToPiece(token_id) == token else None

    def id_to_token(self, token_id: int) -> str | None:
        """A piece."""
        return self._processor.IdToPiece(token_id)

    def why_beyond(self, rows: int) -> str:
        """Nothing can be added to a SentencePiece model."""
        return _OF_ANOTHER_MODEL

    def fingerprint(self, bos: int, eos: int) -> str:
        """Of the model's bytes and the two tokens."""
        return hashlib.sha256(self._model + f"{bos} {eos}".encode()).hexdigest()[:16]

    def own_id(self, name: str) -> int | None:
        """The model's own `bos` or `eos`, None where it has none."""
        token_id = {"bos": self._processor.bos_id, "eos": self._processor.eos_id}[name]()
        return token_id if token_id >= 0 else None


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """What a tokenizer directory holds.

    Attributes:
      codec: text to ids and back.
      bos: id of the token before a document; `eos` where the tokenizer has none of its own.
      eos: id of the token after a document.
      ends: ids of all tokens that end a text which a model writes, `eos` first.
      files: the files that a copy of the tokenizer needs, by name, byte for byte.
      source: where it came from, for messages.
    """

    codec: Codec
    bos: int
    eos: int
    ends: tuple[int, ...]
    files: dict[str, bytes]
    source: str


def why_beyond(tokenizer: tokenizers.Tokenizer, rows: int) -> str:
    """Why a tokenizer has more tokens than a model has rows, and what to do."""
    added = tokenizer.get_added_tokens_decoder()
    beyond = [i for i in tokenizer.get_vocab(with_added_tokens=True).values() if i >= rows]
    if not beyond or not all(i in added for i in beyond):
        return _OF_ANOTHER_MODEL
    return (
        f"all {len(beyond)} tokens beyond the {rows} were added to the tokenizer: call "
        "model.resize_token_embeddings(len(tokenizer)) before save_pretrained, unless the two "
        "belong to different models"
    )


def byte_level(model: models.Model) -> tokenizers.Tokenizer:
    """A tokenizer with GPT-2's pre-tokenizer and decoder."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore
    return tokenizer


def read(path: str) -> TokenizerFiles:
    """Reads `tokenizer.json`, else `vocab.json` and `merges.txt`, else `tokenizer.model`.

    Two files of merges are read as the class that `tokenizer_config.json` or `config.json` names
    reads them in transformers 5, as GPT-2's where neither does.

    The tokens that bound a document are those that `tokenizer_config.json` or
    `special_tokens_map.json` names, else `<|endoftext|>`, else those of `generation_config.json` or
    `config.json`, else the SentencePiece model's own. A text that a model writes also ends at the
    tokens that `generation_config.json` lists, or `config.json` where there is no such file.

    Raises:
      UserError: if the directory holds none of them, a file cannot be read as a tokenizer, its
        special tokens contradict its vocabulary, it names no end of a document, or its class is
        one whose merges are not read.
    """
    atomic_files.require_place(path)
    files = _read_files(epath.Path(path))
    settings = settings_of(files, f"{path}/")
    try:
        codec = _codec(path, files, settings)
    except UserError:
        raise
    except Exception as error:  # `tokenizers` raises bare Exception for a malformed file.
        raise UserError(f"{path}: not a readable vocabulary: {in_one_line(error)}") from None
    eos, eos_file = _boundary("eos", codec, settings, path)
    if eos is None:
        raise UserError(
            f"{path}: the tokenizer has no {END_OF_TEXT} token, and no file names another end of "
            f'a document; name its "eos_token" in {TOKENIZER_CONFIG_FILE}'
        )
    bos, bos_file = _boundary("bos", codec, settings, path)
    ends, ends_file = _ends(eos, settings, path)
    class_file = tokenizer_class(settings)[1] if is_of_merges(files) else None
    names_kept = {*KEPT, GENERATION_FILE, eos_file, bos_file, ends_file, class_file}
    files = {name: content for name, content in files.items() if name in names_kept}
    return TokenizerFiles(codec, eos if bos is None else bos, eos, ends, files, path)


def _read_files(directory: epath.Path) -> dict[str, bytes]:
    """The files of a tokenizer that are there, by name."""
    names = [*KEPT, *MODEL_FILES]
    if not atomic_files.is_local(directory):
        # A bucket is asked twice for each that is missing, and once for all that are there.
        listed = {file.name for file in directory.iterdir()} if directory.is_dir() else set()
        names = [name for name in names if name in listed]
    return {name: (directory / name).read_bytes() for name in names if (directory / name).exists()}


_SETTINGS = (TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE, *MODEL_FILES)
Settings = dict[str, dict[str, Any]]


def settings_of(files: Mapping[str, bytes], where: str = "") -> Settings:
    """The files that hold settings, by name.

    Args:
      files: of a tokenizer, by name.
      where: stands before a name in errors.
    """
    return {
        name: jsonl.json_object(content, where + name)
        for name, content in files.items()
        if name in _SETTINGS
    }


def is_of_merges(files: Mapping[str, bytes]) -> bool:
    """Whether a tokenizer is read from `vocab.json` and `merges.txt`."""
    return TOKENIZER_FILE not in files and VOCAB_FILE in files and MERGES_FILE in files


def tokenizer_class(settings: Settings) -> tuple[str | None, str | None]:
    """The class of transformers that a tokenizer is of, and the file that says so.

    `AutoTokenizer` looks at the same fields in the same order.
    """
    for file in (TOKENIZER_CONFIG_FILE, CONFIG_FILE):
        name = settings.get(file, {}).get("tokenizer_class")
        if name is not None:
            return str(name), file
    if settings.get(CONFIG_FILE, {}).get("model_type") in _QWEN_TYPES:
        return _QWEN_CLASS, CONFIG_FILE
    return None, None


def special_tokens(files: Mapping[str, bytes], bos: str | None, eos: str | None) -> dict[str, str]:
    """The special tokens, as `special_tokens_map` of transformers 5 names and spells them.

    What no file names is the class's own, if it has one; a null in a file is no token.

    Args:
      files: of the tokenizer, by name.
      bos: how a `bos_token` is spelt that is the class's own, or of a class that is not named.
      eos: the same of `eos_token`.
    """
    settings = settings_of(files)
    of_class, _ = tokenizer_class(settings)
    own = _CLASS_TOKENS.get(of_class.removesuffix("Fast"), ()) if of_class else _BOUNDARIES
    sources = [settings.get(file, {}) for file in (TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE)]
    spelt: dict[str, Any] = {}
    for name in _SPECIAL:
        named = [_content(fields[name]) for fields in sources if name in fields]
        if not named and name in own:
            named = [{"bos_token": bos, "eos_token": eos}[name]]
        spelt[name] = next((token for token in named if token is not None), None)
    return {name: token for name, token in spelt.items() if isinstance(token, str)}


def _codec(path: str, files: dict[str, bytes], settings: Settings) -> Codec:
    if TOKENIZER_FILE in files:
        tokenizer = tokenizers.Tokenizer.from_str(files[TOKENIZER_FILE].decode())
    elif is_of_merges(files):
        tokenizer = _merges_tokenizer(files, settings, path)
    elif SENTENCEPIECE_FILE in files:
        codec = SentencePieceCodec(files[SENTENCEPIECE_FILE])
        for token_id, token, _ in _added_tokens(settings, path):
            if codec.token_to_id(token.content) != token_id:
                raise UserError(
                    f"{path}: {token.content!r} was added to the SentencePiece model; save the "
                    f"tokenizer with transformers' save_pretrained, which writes {TOKENIZER_FILE}"
                )
        return codec
    else:
        raise UserError(
            f"{path}: no vocabulary; expected {TOKENIZER_FILE}, {VOCAB_FILE} and {MERGES_FILE}, "
            f"or {SENTENCEPIECE_FILE}"
        )
    add_tokens(tokenizer, settings, path)
    return TokenizersCodec(tokenizer)


def add_tokens(tokenizer: tokenizers.Tokenizer, settings: Settings, path: str) -> None:
    """Adds the tokens that a tokenizer's settings declare.

    As in transformers 4 and 5, what `added_tokens_decoder` of `tokenizer_config.json` says of a
    token (whether it is special, normalized, takes the spaces beside it) stands over what
    `tokenizer.json` says.

    Raises:
      UserError: if one would get another id than they say, or cannot be read.
    """
    known = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    declared = sorted(_added_tokens(settings, path), key=lambda entry: entry[0])
    others = [
        token
        for _, token, has_flags in declared
        if token.content not in known or (has_flags and known[token.content] != token)
    ]
    tokenizer.add_tokens(others)  # At once: every call makes anew what finds them in a text.
    if tokenizer.normalizer is not None and any(token.content in known for token in others):
        # tokenizers 0.23 keeps the spelling of a token that is normalized no more.
        tokenizer.normalizer = tokenizer.normalizer
    for token_id, token, _ in declared:
        if tokenizer.token_to_id(token.content) != token_id:
            raise UserError(
                f"{path}: {token.content!r} is id {tokenizer.token_to_id(token.content)} in the "
                f"vocabulary, but its settings say {token_id}; take all files from one tokenizer"
            )


def _added_tokens(
    settings: Settings, path: str
) -> Iterator[tuple[int, tokenizers.AddedToken, bool]]:
    """The tokens that the settings add, with their ids, and whether they say more of them."""
    config = settings.get(TOKENIZER_CONFIG_FILE, {})
    special = _special_spellings(settings)
    try:
        decoder = config.get("added_tokens_decoder", {})
        for token_id, fields in decoder.items():
            fields = {name: value for name, value in fields.items() if name != "__type"}
            content = fields.pop("content")
            if content in special:
                fields["special"] = True
            yield int(token_id), tokenizers.AddedToken(content, **fields), True
        declared = {token["content"] for token in decoder.values()}
        for content, token_id in settings.get(ADDED_TOKENS_FILE, {}).items():
            if content not in declared:
                is_special = content in special
                token = tokenizers.AddedToken(
                    content, special=is_special, normalized=not is_special
                )
                yield int(token_id), token, False
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: added tokens that cannot be read: {error!r}") from None


def _special_spellings(settings: Settings) -> set[str]:
    """The tokens that the settings call special, by a name or in a list."""
    found: list[Any] = []
    for file in (TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE):
        fields = settings.get(file, {})
        found += [fields.get(name) for name in _SPECIAL]
        for name in ("additional_special_tokens", "extra_special_tokens"):
            listed = fields.get(name)
            found += listed if isinstance(listed, list) else []
    return {token for token in map(_content, found) if isinstance(token, str)}


def _merges_tokenizer(
    files: dict[str, bytes], settings: Settings, path: str
) -> tokenizers.Tokenizer:
    """A byte-level BPE, its texts cut as the class that the settings name cuts them."""
    name, file = tokenizer_class(settings)
    kind = (name or GPT2_CLASS).removesuffix("Fast")
    if kind not in (*_GPT2_CLASSES, _NEOX_CLASS, _QWEN_CLASS):
        raise UserError(
            f"{path}/{file}: how {shortened(repr(name), 60)}, its tokenizer_class, reads "
            f"{VOCAB_FILE} and {MERGES_FILE} is not known here; save the tokenizer with "
            f"transformers' save_pretrained, which writes {TOKENIZER_FILE}; in a checkpoint that "
            f'an earlier version made name "{GPT2_CLASS}", as which that read it'
        )
    vocab: dict[str, int] = json.loads(files[VOCAB_FILE])
    tokenizer = byte_level(models.BPE(vocab, read_merges(files[MERGES_FILE])))
    spaced = bool(settings.get(TOKENIZER_CONFIG_FILE, {}).get("add_prefix_space"))
    if kind in (_NEOX_CLASS, _QWEN_CLASS):
        tokenizer.normalizer = normalizers.NFC()  # type: ignore
    if kind == _QWEN_CLASS:
        cuts = pre_tokenizers.Split(Regex(_QWEN_SPLIT), "isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=spaced, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cuts, to_bytes])  # type: ignore
    elif spaced:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # type: ignore
    names = [
        _content(settings.get(file, {}).get(f"{name}_token"))
        for file in (TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE)
        for name in ("bos", "eos", "unk", "pad")
    ]
    spelt = [name for name in names if isinstance(name, str)]
    special = dict.fromkeys(name for name in (END_OF_TEXT, *spelt) if name in vocab)
    tokenizer.add_special_tokens(list(special))  # type: ignore
    return tokenizer


def read_merges(content: bytes) -> list[tuple[str, str]]:
    """The pairs of `merges.txt`, whose first line may name a version."""
    lines = content.decode().split("\n")
    if lines[0].startswith("#version"):
        lines = lines[1:]
    pairs: Any = [tuple(line.rstrip("\r").split(" ")) for line in lines if line.strip()]
    return pairs


def _content(token: Any) -> Any:
    """A token's spelling: files hold either the string or an object around it."""
    return token.get("content") if isinstance(token, dict) else token


def _id_of(token: Any, codec: Codec) -> int | None:
    """The id of a token as a file spells it; None of what is no spelling of any."""
    try:
        return codec.token_to_id(token) if isinstance(token, str) else None
    except UnicodeEncodeError:  # half a character
        return None


def _boundary(
    name: str, codec: Codec, settings: Settings, path: str
) -> tuple[int | None, str | None]:
    """The id of `bos` or `eos` and the file that names it."""
    # A wrong end raises nothing: documents are packed with it, and no sample ever stops. So it is
    # read where it is written and never guessed. A model's own files come last: they may name what
    # ends a turn of a conversation, where the tokenizer's name what ends a text.
    for file in (TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE):
        token = _content(settings.get(file, {}).get(f"{name}_token"))
        if token is None:
            continue
        token_id = _id_of(token, codec)
        if token_id is None:
            raise UserError(f"{path}/{file}: its {name}_token {token!r} is not in the vocabulary")
        return token_id, file
    if (end := codec.token_to_id(END_OF_TEXT)) is not None:
        return end, None
    for file in MODEL_FILES:
        token_id = settings.get(file, {}).get(f"{name}_token_id")
        token_id = token_id[0] if isinstance(token_id, list) and token_id else token_id
        if token_id is None:
            continue
        if not isinstance(token_id, int) or not 0 <= token_id < codec.size:
            raise UserError(
                f"{path}/{file}: its {name}_token_id {token_id!r} is not among the vocabulary's "
                f"{codec.size} ids"
            )
        return token_id, file
    return (codec.own_id(name) if isinstance(codec, SentencePieceCodec) else None), None


def _ends(eos: int, settings: Settings, path: str) -> tuple[tuple[int, ...], str | None]:
    """`eos` and what else ends a text, and the file that names the others.

    As in transformers, config.json counts only where there is no generation_config.json.
    """
    file = next((name for name in MODEL_FILES if name in settings), None)
    listed = settings.get(file or "", {}).get("eos_token_id")
    listed = listed if isinstance(listed, list) else [] if listed is None else [listed]
    for token_id in listed:
        if not isinstance(token_id, int) or isinstance(token_id, bool):
            raise UserError(f"{path}/{file}: its eos_token_id {token_id!r} is no id of a token")
    # Ids below 0, which some files hold, are no token's.
    ends = tuple(dict.fromkeys([eos, *(token_id for token_id in listed if token_id >= 0)]))
    return ends, file if len(ends) > 1 else None


def _is_gpt2_pipeline(state: dict[str, Any]) -> bool:
    """Whether tokens and merges alone decide the ids: GPT-2's byte-level BPE and nothing else."""
    model, split = state["model"], state["pre_tokenizer"] or {}
    options = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    flags = ("fuse_unk", "byte_fallback", "ignore_merges")
    return (
        model["type"] == "BPE"
        and not any(model.get(option) for option in (*options, *flags))
        and not state["normalizer"]
        and split.get("type") == "ByteLevel"
        and not split.get("add_prefix_space")
        and split.get("use_regex", True)
    )
