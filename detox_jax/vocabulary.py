"""Byte-level BPE vocabularies with padding at id 0; verb `train_vocabulary`.

seqio and T5X take id 0 for padding, GPT-2's id 0 is "!". So every tokenizer's ids are shifted up by
one here: padding is id 0 and nothing else is, and an embedding has one row more than the
tokenizer has tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tokenizers
from etils import epath
from tokenizers import decoders, models, pre_tokenizers, trainers

from detox_jax import records
from detox_jax.errors import UserError

PAD_ID = 0
END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILE = "tokenizer.json"
_SHIFT = 1


class BPEVocabulary:
    """Text to ids and back, with ids shifted so that 0 is free for padding.

    Attributes:
      vocab_size: number of ids, the padding id included.
      eos_id: the id of `<|endoftext|>`, which starts and ends every document.
      fingerprint: hash of the tokens and merges; equal vocabularies have equal fingerprints.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, source: str):
        eos = tokenizer.token_to_id(END_OF_TEXT)
        if eos is None:
            raise UserError(f"{source}: the tokenizer has no {END_OF_TEXT} token")
        # Padding and truncation settings of a foreign tokenizer.json would change what is encoded.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.source = source
        self.eos_id = eos + _SHIFT
        self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1 + _SHIFT
        self.fingerprint = _fingerprint(tokenizer)

    @classmethod
    def load(cls, path: str) -> BPEVocabulary:
        """Reads a directory with `tokenizer.json`, or with GPT-2's `vocab.json` and `merges.txt`.

        Raises:
          UserError: if the directory holds neither, or a file cannot be read as a tokenizer.
        """
        directory = epath.Path(path)
        vocab, merges = directory / "vocab.json", directory / "merges.txt"
        try:
            if (directory / TOKENIZER_FILE).exists():
                tokenizer = tokenizers.Tokenizer.from_str((directory / TOKENIZER_FILE).read_text())
            elif vocab.exists() and merges.exists():
                tokenizer = _gpt2_tokenizer(json.loads(vocab.read_text()), merges.read_text())
            else:
                raise UserError(
                    f"{path}: no vocabulary; expected {TOKENIZER_FILE}, "
                    "or vocab.json and merges.txt"
                )
        except UserError:
            raise
        except Exception as error:  # `tokenizers` raises bare Exception for a malformed file.
            raise UserError(f"{path}: not a readable vocabulary: {error}") from None
        return cls(tokenizer, str(path))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BPEVocabulary:
        """Trains a byte-level BPE; `vocab_size` counts padding and `<|endoftext|>` too.

        Raises:
          UserError: if `vocab_size` leaves no room for the 256 bytes.
        """
        smallest = 256 + 1 + _SHIFT
        if vocab_size < smallest:
            raise UserError(
                f"vocab_size is {vocab_size}; a byte-level BPE needs at least {smallest}"
            )
        tokenizer = tokenizers.Tokenizer(models.BPE())
        _make_byte_level(tokenizer)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - _SHIFT,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator((_clean(text) for text in texts), trainer)
        return cls(tokenizer, "trained")

    def save(self, path: str) -> None:
        """Writes `tokenizer.json` (unshifted ids, as every other library reads it)."""
        directory = epath.Path(path)
        directory.mkdir(parents=True, exist_ok=True)
        records.write_bytes(
            directory / TOKENIZER_FILE, self._tokenizer.to_str(pretty=False).encode()
        )

    def encode(self, text: str) -> list[int]:
        """The ids of a text, no end-of-text added."""
        return [i + _SHIFT for i in self._tokenizer.encode(_clean(text)).ids]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, encoded in parallel."""
        encodings = self._tokenizer.encode_batch_fast([_clean(text) for text in texts])
        return [[i + _SHIFT for i in encoding.ids] for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; padding, end-of-text and ids beyond the vocabulary have none."""
        kept = [int(i) - _SHIFT for i in ids if PAD_ID < int(i) < self.vocab_size]
        return self._tokenizer.decode(kept, skip_special_tokens=True)

    def id_to_token(self, token_id: int) -> str | None:
        """The token's own spelling (byte-level characters), or None for padding."""
        return self._tokenizer.id_to_token(token_id - _SHIFT) if token_id > PAD_ID else None


def _clean(text: str) -> str:
    # A lone surrogate has no UTF-8 form and `tokenizers` refuses it; it becomes U+FFFD.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _make_byte_level(tokenizer: tokenizers.Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore


def _gpt2_tokenizer(vocab: dict[str, int], merges_text: str) -> tokenizers.Tokenizer:
    lines = merges_text.splitlines()
    if lines and lines[0].startswith("#version"):
        lines = lines[1:]
    merges = [tuple(line.split(" ")) for line in lines if line]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges))  # type: ignore
    _make_byte_level(tokenizer)
    if END_OF_TEXT in vocab:
        tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def _fingerprint(tokenizer: tokenizers.Tokenizer) -> str:
    state: dict[str, Any] = json.loads(tokenizer.to_str())
    relevant = [sorted(tokenizer.get_vocab().items()), state["model"].get("merges")]
    return hashlib.sha256(json.dumps(relevant).encode()).hexdigest()[:16]


def train_vocabulary(documents: str, output_dir: str, vocab_size: int) -> None:
    """Trains a BPE vocabulary on the texts of `documents` and writes it to `output_dir`.

    Args:
      documents: JSON Lines documents: a file, glob or directory.
      output_dir: where `tokenizer.json` and its manifest go.
      vocab_size: number of ids, padding and end-of-text included.

    Raises:
      UserError: if the documents cannot be read or the size is too small.
    """
    settings = {"documents": records.describe_input(documents), "vocab_size": vocab_size}
    output = records.OutputDirectory(output_dir, "train_vocabulary", settings)
    if output.complete:
        return

    def texts() -> Iterator[str]:
        for document in records.read_documents(documents):
            yield document.text

    vocabulary = BPEVocabulary.train(texts(), vocab_size)
    vocabulary.save(output_dir)
    output.finish(fingerprint=vocabulary.fingerprint, actual_vocab_size=vocabulary.vocab_size)
    print(f"{output_dir}: {vocabulary.vocab_size} ids, fingerprint {vocabulary.fingerprint}")
