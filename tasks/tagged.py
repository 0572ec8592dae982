"""seqio task of documents behind tags, for conditional training (`detox_jax.tags`).

A document that is longer than a row is cut, and each of its pieces has the tag in front: a piece
whose tag stood in another row would teach the opposite. Tags weigh nothing in the loss
(`training.data`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import seqio
import tensorflow as tf

from detox_jax import bad_records as bad_records_lib
from detox_jax import output_settings, records
from detox_jax.errors import UserError
from detox_jax.tags import Tags
from tasks import metrics, text_source
from tasks.corpora import DOCUMENTS_VARIABLE
from tasks.memory_source import SHUFFLE_BUFFER
from tasks.text_source import TEXTS_AT_ONCE, TextSource, splits
from tasks.vocabularies import SeqioBPEVocabulary, padded

# For settings, see `output_settings.LEARNS`: a version before cut equal scores as they were read.
_BY_IDS = "equal scores in classes by their ids"


class TaggedSource(TextSource):
    """Scored documents read whole into memory, with what tag each has.

    Attributes:
      tags: see `detox_jax.tags`.
      pool: what the training split holds beside its own files, in front of them.
    """

    columns: ClassVar[tuple[str, ...]] = ("text", "kind")
    tags: Tags

    def __init__(
        self,
        files: Mapping[str, str | None],
        tags: Tags,
        bad_records: bad_records_lib.BadRecords = bad_records_lib.REFUSE,
        pool: Sequence[str] = (),
    ):
        self.tags = tags
        self.pool = tuple(pool)
        self._has_equal: dict[str, bool] = {}  # scores, of the splits that are read
        reader = text_source.read_jsonl_documents
        super().__init__(files, reader, DOCUMENTS_VARIABLE, bad_records)

    def _read_split(
        self, split: str, *aside: bad_records_lib.Aside
    ) -> Iterator[tuple[str, str, int]]:
        """`(id, text, class)`, by the numbers of `Tags.classes`; checks all of them."""
        path = self.path(split)
        documents = []
        for place in (*(self.pool if split == "train" else ()), path):
            for document in records.read_documents(place, *aside):
                self.tags.check_text(document.text, f"{place}: document {document.id!r}")
                documents.append(document)
        if documents and all(document.toxicity is None for document in documents):
            raise UserError(
                f"{path}: none of its {len(documents)} documents has a score, by which tags go; "
                "run `score`"
            )
        scores = [x.toxicity for x in documents if x.toxicity is not None]
        self._has_equal[split] = len({*scores}) < len(scores)
        classes = self.tags.classes([(x.id, x.toxicity) for x in documents])
        for document, number in zip(documents, classes, strict=True):
            yield document.id, document.text, number

    def describe(self, split: str) -> dict[str, Any]:
        """The hash of what is read, the tags, and how many documents have each."""
        counts = self.counts(split)
        tags = {field: getattr(self.tags, field) for field in ("good", "bad", "threshold")}
        if self.tags.between:
            tags["between"] = list(self.tags.between)
        described = super().describe(split)
        if self.pool and split == "train":
            described["pool"] = [text_source.described(place) for place in self.pool]
        if self.tags.between and self._has_equal[split]:
            described[output_settings.LEARNS] = _BY_IDS
        return {
            **described,
            "tags": {**tags, "untagged": self.tags.untagged, "documents": counts},
        }

    def counts(self, split: str) -> dict[str, int]:
        """How many documents have no tag, and how many each of the tags."""
        rows, _ = self._documents(split)
        names = self.tags.class_names
        numbers = np.bincount([kind for _, _, kind in rows], minlength=len(names))
        return dict(zip(names, map(int, numbers), strict=True))


@tf.autograph.experimental.do_not_convert
def to_tagged_targets(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, Any],
    sequence_length: Mapping[str, int] | None,
    tags: Tags,
) -> tf.data.Dataset:
    """`{"text", "kind"}` to `{"targets"}`: pieces of ids, each behind its document's tag.

    Raises:
      UserError: where a row is too short for a tag and a text.
    """
    vocabulary = output_features["targets"].vocabulary
    written = [(), *tags.ids(vocabulary.bpe)]
    length = None if sequence_length is None else sequence_length.get("targets")
    if length is not None and length < 2 * max(map(len, written)):
        raise UserError(
            f"TASK_FEATURE_LENGTHS: a tag has {max(map(len, written))} tokens, more than half of "
            f"a row of {length}; give longer rows or a shorter tag"
        )

    def encode(texts: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        encoded = vocabulary.bpe.encode_batch([text.decode("utf-8", "replace") for text in texts])
        pieces = [
            piece
            for ids, kind in zip(encoded, kinds, strict=True)
            for piece in _pieces(written[kind], [*ids, vocabulary.eos_id], length)
        ]
        return padded(pieces)

    def encode_tf(batch: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        given = [batch["text"], batch["kind"]]
        ids_NL, sizes_N = tf.numpy_function(encode, given, (tf.int32, tf.int32))
        ids_NL.set_shape([None, None])
        sizes_N.set_shape([None])
        return ids_NL, sizes_N

    batches = dataset.batch(TEXTS_AT_ONCE).map(encode_tf, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.unbatch().map(lambda ids, size: {"targets": ids[:size]})


def _pieces(tag: Sequence[int], ids: Sequence[int], length: int | None) -> Iterator[list[int]]:
    """A document's ids in pieces that fit a row, each behind the tag; no token is lost."""
    room = len(ids) if length is None else length - len(tag)
    for start in range(0, len(ids), room):
        yield [*tag, *ids[start : start + room]]


def tagged_task(
    files: str | None,
    vocabulary: str | None,
    validation_files: str | None = None,
    tags: Tags | None = None,
    name: str = "tagged_documents",
    bad_records: bad_records_lib.BadRecords = bad_records_lib.REFUSE,
    pool: Sequence[str] = (),
) -> seqio.Task:
    """A task of scored JSON Lines documents behind tags.

    Args:
      files: file, glob or directory; the environment's where None.
      vocabulary: directory of the vocabulary; the environment's where None.
      validation_files: for a validation split.
      tags: which; those of `Tags` where None.
      name: of the task.
      bad_records: what becomes of documents that cannot be read.
      pool: further scored documents of the training split, such as those of earlier rounds; with
        tags `between` their rank is that among all.
    """
    tags = tags or Tags()
    return seqio.Task(
        name,
        source=TaggedSource(splits(files, validation_files), tags, bad_records, pool),
        output_features={"targets": seqio.Feature(SeqioBPEVocabulary(vocabulary), add_eos=True)},
        preprocessors=[functools.partial(to_tagged_targets, tags=tags)],
        postprocess_fn=metrics.count_tokens,
        metric_fns=[metrics.perplexity],
        shuffle_buffer_size=SHUFFLE_BUFFER,
    )
