"""`detox_jax.vocabulary.Vocabulary` as a `seqio.Vocabulary`."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from detox_jax.errors import UserError
from detox_jax.vocabulary import Vocabulary

PATH_VARIABLE = "DETOX_JAX_VOCABULARY"
_ANY_WORD = "a"  # in a prompt's place


def padded(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Ids of several texts as one array.

    Args:
      rows: the ids of each.

    Returns:
      `ids_NL`, int32, padded with 0 on the right, and `lengths_N`, int32.
    """
    lengths_N = np.array([len(ids) for ids in rows], np.int32)
    ids_NL = np.zeros((len(rows), lengths_N.max(initial=0)), np.int32)
    for row, ids in zip(ids_NL, rows, strict=True):
        row[: len(ids)] = ids
    return ids_NL, lengths_N


class SeqioBPEVocabulary(seqio.Vocabulary):
    """A BPE vocabulary for seqio, loaded at first use.

    Padding is id 0 and nothing else is; begin and end of a document are both `<|endoftext|>`
    unless the vocabulary has others.

    Attributes:
      path: directory of the vocabulary; the environment variable DETOX_JAX_VOCABULARY where None,
        so that tasks can be registered before anyone has chosen.
    """

    def __init__(self, path: str | None = None):
        super().__init__()
        self.path = path

    @functools.cached_property
    def bpe(self) -> Vocabulary:
        """The vocabulary itself."""
        path = self.path or os.environ.get(PATH_VARIABLE)
        if not path:
            raise UserError(
                f"no vocabulary: set VOCABULARY_PATH, or the environment variable {PATH_VARIABLE}"
            )
        return Vocabulary.load(path)

    @property
    def bos_id(self) -> int:
        """The token before every document: `<|endoftext|>`, or the vocabulary's own, `<s>`."""
        return self.bpe.bos_id

    @property
    def eos_id(self) -> int:
        """The token after every document: `<|endoftext|>`, or the vocabulary's own, `</s>`."""
        return self.bpe.eos_id

    @property
    def unk_id(self) -> None:
        """Bytes leave nothing unknown."""
        return None

    @property
    def _base_vocab_size(self) -> int:
        return self.bpe.vocab_size

    def _encode(self, s: str) -> Sequence[int]:
        return self.bpe.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self.bpe.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: Any) -> np.ndarray:
            # Bytes inside a dataset, an array of one object when called eagerly.
            decoded = np.asarray(text, object).item().decode("utf-8", "replace")
            return np.asarray(self.bpe.encode(decoded), np.int32)

        ids = tf.numpy_function(encode, [tf.convert_to_tensor(s)], tf.int32)
        ids.set_shape([None])
        return ids

    def encode_batch_tf(self, texts_N: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Ids of many texts inside a dataset, much faster than one by one.

        Args:
          texts_N: strings; bytes that are not UTF-8 are replaced.

        Returns:
          `ids_NL`, int32, padded with 0 on the right, and `lengths_N`, int32.
        """

        def encode(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return padded(self.bpe.encode_batch([t.decode("utf-8", "replace") for t in texts]))

        ids_NL, lengths_N = tf.numpy_function(encode, [texts_N], (tf.int32, tf.int32))
        ids_NL.set_shape([None, None])
        lengths_N.set_shape([None])
        return ids_NL, lengths_N

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of ids inside a dataset, and where T5X writes a prediction."""
        return self.bpe.decode(ids)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(rows: np.ndarray) -> Any:
            flat = np.reshape(rows, (-1, rows.shape[-1])).tolist()
            texts = [self.text_of(row) for row in flat]
            encoded = np.array([text.encode() for text in texts], dtype=object)
            return encoded.reshape(rows.shape[:-1])

        ids = tf.convert_to_tensor(ids)
        text = tf.numpy_function(decode, [ids], tf.string)
        text.set_shape(ids.shape[:-1])
        return text

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SeqioBPEVocabulary):
            return False
        return self.path == other.path or self.bpe.fingerprint == other.bpe.fingerprint

    def __hash__(self) -> int:
        return hash(SeqioBPEVocabulary)


class Continuations(SeqioBPEVocabulary):
    """The same for texts that go on from a prompt, which `decode_tf` is not told.

    A tokenizer like LLaMA's drops the space in front of a text that is decoded by itself.
    """

    @functools.cached_property
    def _word(self) -> list[int]:
        return self.bpe.encode(_ANY_WORD)

    def text_of(self, ids: Sequence[int]) -> str:
        """What ids add to the text of a prompt."""
        return self.bpe.decode_continuation(self._word, ids)
