"""Documents to train on as answers in a tokenizer's chat template.

A document is the answer of an assistant; what a user asked is its `prompt_text`, which
self-generation writes, or nothing. Examples are `{"inputs", "targets", "roles"}`: the ids that are
read, the next of each, and who wrote that: `GIVEN` or `WRITTEN`. Only what is written has a loss,
the token that ends the turn included, as in Touvron et al. (2023), "Llama 2", section 3.1, and as
TRL trains by default on prompts and their completions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import seqio
import tensorflow as tf

from detox_jax import bad_records as bad_records_lib
from detox_jax import chat, records
from detox_jax.training.data import GIVEN, WRITTEN
from tasks import pieces
from tasks.memory_source import SHUFFLE_BUFFER
from tasks.text_source import TEXTS_AT_ONCE, TextSource
from tasks.vocabularies import SeqioBPEVocabulary, padded

_ASKED = "prompt_text"


class Source(TextSource):
    """Documents with what was asked, read whole into memory.

    Attributes:
      files: what to read for each split; None for the one that the environment variable names.
      exchange: the template.
      variable: name of that environment variable.
      bad_records: what becomes of documents that cannot be read.
    """

    columns: ClassVar[tuple[str, ...]] = ("text", "asked")

    def __init__(
        self,
        files: Mapping[str, str | None],
        exchange: chat.Exchange,
        variable: str,
        bad_records: bad_records_lib.BadRecords = bad_records_lib.REFUSE,
    ):
        super().__init__(files, _read, variable, bad_records)
        self.exchange = exchange

    def describe(self, split: str) -> dict[str, Any]:
        """The hash of what is read, and of the template."""
        return {**super().describe(split), "chat_template": self.exchange.fingerprint}


def _read(path: str, aside: bad_records_lib.Aside | None = None) -> Iterator[tuple[str, str, str]]:
    for document in records.read_documents(path, aside):
        asked = document.extra.get(_ASKED)
        yield document.id, document.text, asked if isinstance(asked, str) else ""


def task(name: str, source: Source, vocabulary: str) -> seqio.Task:
    """The task of a source.

    Args:
      name: of the task.
      source: documents and template.
      vocabulary: its directory.
    """
    ids = seqio.Feature(SeqioBPEVocabulary(vocabulary), add_eos=False)
    roles = seqio.Feature(seqio.PassThroughVocabulary(WRITTEN + 1), add_eos=False)
    return seqio.Task(
        name,
        source=source,
        output_features={"inputs": ids, "targets": ids, "roles": roles},
        preprocessors=[_encoder(source.exchange), split_answers],
        shuffle_buffer_size=SHUFFLE_BUFFER,
    )


# --- preprocessors ----------------------------------------------------------------------------


def _encoder(exchange: chat.Exchange) -> Any:
    """Texts to `{"inputs", "targets", "roles"}`."""

    def encode(texts: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pairs = [
            exchange.answered(question.decode(), text.decode())
            for text, question in zip(texts, asked, strict=True)
        ]
        ids_NL, lengths_N = padded([[*given, *written] for given, written in pairs])
        return ids_NL, lengths_N, np.array([len(given) for given, _ in pairs], np.int32)

    def encode_batch(batch: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        kinds = (tf.int32, tf.int32, tf.int32)
        encoded = tf.numpy_function(encode, [batch["text"], batch["asked"]], kinds)
        for tensor, shape in zip(encoded, ([None, None], [None], [None]), strict=True):
            tensor.set_shape(shape)
        return tuple(encoded)

    def shifted(ids: tf.Tensor, length: tf.Tensor, given: tf.Tensor) -> dict[str, tf.Tensor]:
        is_written = tf.range(1, length) >= given
        roles = tf.where(is_written, WRITTEN, GIVEN)
        return {"inputs": ids[: length - 1], "targets": ids[1:length], "roles": roles}

    @tf.autograph.experimental.do_not_convert
    def to_examples(dataset: tf.data.Dataset) -> tf.data.Dataset:
        encoded = dataset.batch(TEXTS_AT_ONCE).map(encode_batch)
        return encoded.unbatch().map(shifted)

    return to_examples


@tf.autograph.experimental.do_not_convert
def split_answers(
    dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None
) -> tf.data.Dataset:
    """Examples longer than the sequence become consecutive pieces; those without a loss go."""
    if sequence_length is None or sequence_length.get("targets") is None:
        return dataset

    def has_loss(example: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return tf.reduce_any(example["roles"] == WRITTEN)

    names = ("inputs", "targets", "roles")
    return pieces.cut(dataset, names, sequence_length["targets"]).filter(has_loss)
