"""Vocabularies with padding at id 0; verb `train_vocabulary`.

seqio and T5X take id 0 for padding, GPT-2's id 0 is "!". So every tokenizer's ids are shifted up by
one here: padding is id 0 and nothing else is, and an embedding has one row more than the
tokenizer has tokens.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from tokenizers import models, pre_tokenizers, trainers

from detox_jax import (
    atomic_files,
    output_settings,
    outputs,
    preview,
    records,
    terminal,
    tokenizer_files,
)
from detox_jax import bad_records as bad_records_lib
from detox_jax.errors import UserError
from detox_jax.kinds import Count
from detox_jax.preview import Step
from detox_jax.tokenizer_files import END_OF_TEXT as END_OF_TEXT
from detox_jax.tokenizer_files import TOKENIZER_FILE

PAD_ID = 0
ID_SHIFT = 1  # from a tokenizer's own ids to ours
_LINE_BREAK = "\n"
_LONGEST_WORD = 1000  # characters; longer ones are trained on in parts
_ENDLESS = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}|\s{{{_LONGEST_WORD + 1},}}")
FREE = ("output_dir", "check_only")  # of train_vocabulary, see `output_settings`


class Vocabulary:
    """Text to ids and back, with ids shifted so that 0 is free for padding.

    Byte-level BPE is what is trained here; other subword models can be loaded.

    Attributes:
      vocab_size: number of ids, the padding id included.
      bos_id: the id that starts every document: `<|endoftext|>` in GPT-2's vocabulary and in those
        trained here, `<s>` in LLaMA's.
      eos_id: the id that ends every document: `<|endoftext|>`, `</s>`.
      end_ids: the ids at which a text that a model writes ends, `eos_id` first: an imported model's
        generation_config.json may list more, such as the end of a turn.
      source: where it was read, for messages.
      fingerprint: hash of what decides the ids; equal vocabularies have equal fingerprints.
    """

    def __init__(self, files: tokenizer_files.TokenizerFiles):
        self._codec = files.codec
        self._files = files.files
        self.source = files.source
        self.bos_id = files.bos + ID_SHIFT
        self.eos_id = files.eos + ID_SHIFT
        self.end_ids = tuple(end + ID_SHIFT for end in files.ends)
        self.vocab_size = files.codec.size + ID_SHIFT
        self.fingerprint = files.codec.fingerprint(files.bos, files.eos)

    @classmethod
    def load(cls, path: str) -> Vocabulary:
        """Reads `tokenizer.json`, `vocab.json` and `merges.txt`, or `tokenizer.model`.

        Raises:
          UserError: if the directory holds none, or a file cannot be read as a tokenizer.
        """
        return cls(tokenizer_files.read(path))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Vocabulary:
        """Trains a byte-level BPE; `vocab_size` counts padding and `<|endoftext|>` too.

        Raises:
          UserError: if `vocab_size` leaves no room for the 256 bytes.
        """
        _require_bytes(vocab_size)
        tokenizer = tokenizer_files.byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - ID_SHIFT,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        pieces = (_clean(piece) for text in texts for piece in _bounded(text))
        tokenizer.train_from_iterator(pieces, trainer)
        codec = tokenizer_files.TokenizersCodec(tokenizer)
        end = codec.token_to_id(END_OF_TEXT)
        assert end is not None
        content = {TOKENIZER_FILE: tokenizer.to_str(pretty=False).encode()}
        return cls(tokenizer_files.TokenizerFiles(codec, end, end, (end,), content, "trained"))

    def save(self, path: str, alone: bool = False) -> None:
        """Writes the tokenizer's own files as they were read (unshifted ids), byte for byte.

        Args:
          path: of the directory.
          alone: whether it is a vocabulary's alone: what another one left there is removed, for
            `load` would read it too, such as its chat template.
        """
        directory = epath.Path(path)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            atomic_files.write_bytes(directory / name, content)
        # Where it was read all is its own, what `load` makes no use of too.
        if alone and atomic_files.real_path(path) != atomic_files.real_path(self.source):
            others = {*tokenizer_files.KEPT, *tokenizer_files.MODEL_FILES} - self._files.keys()
            for file in directory.iterdir():
                if file.name in others:
                    atomic_files.remove(file)

    def ending_at(self, end_ids: tuple[int, ...]) -> Vocabulary:
        """The same, for texts that end at other tokens, such as a chat template's end of a turn."""
        changed = copy.copy(self)
        changed.end_ids = end_ids
        return changed

    @property
    def files(self) -> Mapping[str, bytes]:
        """The tokenizer's own files that `save` writes, by name."""
        return self._files

    @property
    def files_sha256(self) -> str:
        """Of the files that `save` writes; they hold more than what decides the ids."""
        digest = hashlib.sha256()
        for name, content in sorted(self._files.items()):
            digest.update(f"{name} {len(content)}\n".encode() + content)
        return digest.hexdigest()

    def require_tokens(self, ids: np.ndarray, what: str, padded: bool = False) -> None:
        """Refuses ids that no row of an embedding has: XLA reads another in their place, or NaN.

        Args:
          ids: of a task that a user may have written.
          what: holds them, for the error; in the plural.
          padded: whether padding may be among them.

        Raises:
          UserError: naming the first that is no token.
        """
        least = PAD_ID if padded else PAD_ID + 1
        wrong = ids[(ids < least) | (ids >= self.vocab_size)]
        if wrong.size:
            raise UserError(
                f"{what} hold {wrong[0]}, which is no token: the vocabulary has the ids from "
                f"{least} to {self.vocab_size - 1} (docs/TRAINING.md)"
            )

    def leaves_spare(self, rows: int) -> bool:
        """Whether some of a model's rows stand for no token, as those of an imported one may."""
        return self.vocab_size < rows

    def why_beyond(self, rows: int) -> str:
        """Why it has more tokens than a model has rows, and what to do."""
        return self._codec.why_beyond(rows)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, no special token added."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, encoded in parallel."""
        encoded = self._codec.encode_batch([_clean(text) for text in texts])
        return [[i + ID_SHIFT for i in ids] for ids in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; padding, special tokens and ids beyond the vocabulary have none."""
        tokens = [int(i) - ID_SHIFT for i in ids if PAD_ID < int(i) < self.vocab_size]
        return self._codec.decode(tokens)

    def decode_continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """The text that `ids` add to that of `prompt`.

        Tokenizers like LLaMA's spell a space as part of the word behind it, and drop it at the
        start of a text: decoded by itself, a continuation would lose the space before it.

            prompt "the cat", ids "▁sat"     " sat", where `decode(ids)` is "sat"
        """
        before, both = self.decode(prompt), self.decode([*prompt, *ids])
        return both[len(os.path.commonprefix([before, both])) :]

    def encode_continuations(self, prompts: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts that go on from prompts, the inverse of `decode_continuation`.

        A text is encoded by itself where its ids then spell it behind its prompt, as those of
        byte-level BPE do; else together with its prompt, where the prompt keeps its ids; else
        behind a line break, which joins with nothing.
        """
        before, alone = self.encode_batch(prompts), self.encode_batch(texts)
        both = self.encode_batch([p + text for p, text in zip(prompts, texts, strict=True)])
        line_break = self.encode(_LINE_BREAK)
        behind = self.encode_batch([_LINE_BREAK + text for text in texts])
        encoded = []
        for text, *ways in zip(texts, before, alone, both, behind, strict=True):
            prompt, by_itself, joined, broken = ways
            if self.decode_continuation(prompt, by_itself) == text:
                encoded.append(by_itself)
            elif joined[: len(prompt)] == prompt:
                encoded.append(joined[len(prompt) :])
            else:
                encoded.append(broken[len(line_break) :])
        return encoded

    def id_to_token(self, token_id: int) -> str | None:
        """The token's own spelling (byte-level characters), or None for padding."""
        return self._codec.id_to_token(token_id - ID_SHIFT) if token_id > PAD_ID else None


def _bounded(text: str) -> Iterator[str]:
    """The text, or its parts where a word, or white space, is longer than any word is.

    `tokenizers` counts the pairs inside of a word again after every merge in it, so that the time
    for one of megabytes, such as an image in Base64, grows with the square of its length.
    """
    start = 0
    for run in _ENDLESS.finditer(text):
        for cut in range(run.start() + _LONGEST_WORD, run.end(), _LONGEST_WORD):
            yield text[start:cut]
            start = cut
    yield text[start:]


def _clean(text: str) -> str:
    # A lone surrogate has no UTF-8 form and `tokenizers` refuses it; it becomes U+FFFD.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def train_vocabulary(
    documents: str,
    output_dir: str,
    vocab_size: Count,
    bad_records: bad_records_lib.BadRecords = bad_records_lib.REFUSE,
    check_only: bool = False,
) -> list[Step] | None:
    """Trains a BPE vocabulary on the texts of `documents` and writes it to `output_dir`.

    Args:
      documents: JSON Lines documents: a file, glob or directory.
      output_dir: where `tokenizer.json` and its manifest go.
      vocab_size: number of ids, padding and end-of-text included.
      bad_records: what becomes of documents that cannot be read.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: if the documents cannot be read or the size is too small.
    """
    arguments = locals()
    _require_bytes(vocab_size)

    def settings() -> dict[str, Any]:
        """What decides the vocabulary."""
        return output_settings.of_verb(
            train_vocabulary,
            arguments,
            free=FREE,
            instead={
                "documents": {"documents": records.describe_input(documents)},
                "bad_records": bad_records_lib.settings(bad_records),
            },
        )

    if check_only:
        preview.checked_output(output_dir)
        is_done = outputs.check(output_dir, "train_vocabulary", settings)
        counts = {}
        aside = bad_records_lib.opened(bad_records, writes=False)
        if not isinstance(documents, preview.Coming) and not is_done:
            counts = {"documents": sum(1 for _ in records.read_documents(documents, aside))}
        return [Step("train_vocabulary", output_dir, counts)]
    aside = bad_records_lib.opened(bad_records)
    output = outputs.OutputDirectory(output_dir, "train_vocabulary", settings())
    if output.complete:
        return None

    def texts() -> Iterator[str]:
        for document in records.read_documents(documents, aside):
            yield document.text

    with terminal.stage(f"count words and merge pairs, up to {vocab_size:,} ids"):
        vocabulary = Vocabulary.train(texts(), vocab_size)
    vocabulary.save(output_dir)
    output.finish(
        fingerprint=vocabulary.fingerprint,
        actual_vocab_size=vocabulary.vocab_size,
        **bad_records_lib.counts(aside),
    )
    print(f"{output_dir}: {vocabulary.vocab_size} ids, fingerprint {vocabulary.fingerprint}")
    return None


def _require_bytes(vocab_size: int) -> None:
    smallest = 256 + 1 + ID_SHIFT
    if vocab_size < smallest:
        raise UserError(f"VOCAB_SIZE is {vocab_size}; a byte-level BPE needs at least {smallest}")
