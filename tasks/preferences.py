"""seqio tasks of preference pairs: what the verb `pair` wrote, or a file in TRL's layout.

Examples have the ids `prompt`, `chosen` and `rejected`, whose end-of-text is there where the side
ends, and what is known of each side SIDE: `SIDE_toxicity`, `SIDE_reference` (its log-likelihood
under the reference model `reference_model`, in nats) and `SIDE_reference_tokens`; NaN, 0 and an
empty name where nothing is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import seqio
import tensorflow as tf

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.toxicity import preferences
from tasks import text_source
from tasks.memory_source import SHUFFLE_BUFFER, InOrder, MemorySource, read_once
from tasks.vocabularies import SeqioBPEVocabulary

_TEXTS = ("prompt", "chosen", "rejected")


class PairSource(MemorySource):
    """Pairs read whole into memory, validated on the way.

    Attributes:
      files: what to read for each split.
      tags: behind which the texts stand: none.
    """

    tags: ClassVar[None] = None

    def __init__(self, files: Mapping[str, str]):
        super().__init__(splits=tuple(files))
        self._files = dict(files)

    def list_shards(self, split: str) -> list[str]:
        """The files of a split."""
        return [str(file) for file in records.resolve_files(self._files[split])]

    def describe(self, split: str) -> dict[str, Any]:
        """The hash of what is read, for manifests; where it lies does not matter."""
        return text_source.described(self._files[split])

    def count(self, split: str) -> int:
        """How many pairs a split has."""
        return len(self._pairs(split))

    def all_examples(self, split: str, in_order: InOrder = list) -> tf.data.Dataset:
        """Examples of texts and figures, see this file's beginning."""
        pairs = in_order(self._pairs(split))
        columns: dict[str, Any] = {
            "id": [pair.id.encode("utf-8", "replace") for pair in pairs],
            "prompt": [pair.prompt.encode("utf-8", "replace") for pair in pairs],
            "reference_model": [pair.model or "" for pair in pairs],
        }
        for name in preferences.SIDES:
            sides = [getattr(pair, name) for pair in pairs]
            references = [side.reference for side in sides]
            figures = {
                "toxicity": [np.nan if side.toxicity is None else side.toxicity for side in sides],
                "reference": [x.log_likelihood if x else np.nan for x in references],
            }
            columns[name] = [side.text.encode("utf-8", "replace") for side in sides]
            columns[f"{name}_ends"] = [side.ends for side in sides]
            columns |= {f"{name}_{key}": np.array(x, np.float32) for key, x in figures.items()}
            tokens = [x.tokens if x else 0 for x in references]
            columns[f"{name}_reference_tokens"] = np.array(tokens, np.int32)
        dataset: Any = columns
        return tf.data.Dataset.from_tensor_slices(dataset)

    @read_once
    def _pairs(self, split: str) -> list[preferences.Pair]:
        pairs = list(preferences.read(self._files[split]))
        if not pairs:
            raise UserError(f"{self._files[split]}: holds no pair")
        return pairs


@tf.autograph.experimental.do_not_convert
def to_ids(dataset: tf.data.Dataset, output_features: Mapping[str, Any]) -> tf.data.Dataset:
    """Texts to ids: prompt and sides apart, as `generate` writes them, end-of-text where one is."""
    vocabulary = output_features["chosen"].vocabulary

    def encode(prompt: bytes, *sides: Any) -> list[np.ndarray]:
        before = prompt.decode()
        texts, ends = [side.decode() for side in sides[:2]], sides[2:]
        written = vocabulary.bpe.encode_continuations([before] * 2, texts)
        written = [
            [*text, *([vocabulary.eos_id] * bool(is_end))]
            for text, is_end in zip(written, ends, strict=True)
        ]
        return [np.array(ids, np.int32) for ids in (vocabulary.bpe.encode(before), *written)]

    def to_example(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        given = [example["prompt"], example["chosen"], example["rejected"]]
        given += [example.pop("chosen_ends"), example.pop("rejected_ends")]
        ids = tf.numpy_function(encode, given, [tf.int32] * len(_TEXTS))
        for name, column in zip(_TEXTS, ids, strict=True):
            column.set_shape([None])
            example[name] = column
        return example

    return dataset.map(to_example, num_parallel_calls=tf.data.AUTOTUNE)


def _features(vocabulary: str | None) -> dict[str, Any]:
    known = SeqioBPEVocabulary(vocabulary)
    features: dict[str, Any] = {
        name: seqio.Feature(known, add_eos=False, required=True) for name in _TEXTS
    }
    figures = {"id": tf.string, "reference_model": tf.string}
    for side in preferences.SIDES:
        figures |= {f"{side}_toxicity": tf.float32, f"{side}_reference": tf.float32}
        figures[f"{side}_reference_tokens"] = tf.int32
    plain = seqio.PassThroughVocabulary(1)
    for name, dtype in figures.items():
        features[name] = seqio.Feature(plain, add_eos=False, dtype=dtype, rank=0)
    return features


def pairs_task(
    files: str,
    vocabulary: str | None,
    validation_files: str | None = None,
    name: str = "pairs",
) -> seqio.Task:
    """A task of preference pairs.

    Args:
      files: what `pair` wrote, or JSON Lines in TRL's layout: file, glob or directory.
      vocabulary: directory of the vocabulary; the environment's where None.
      validation_files: for a validation split.
      name: of the task.
    """
    splits = {"train": files}
    if validation_files is not None:
        splits["validation"] = validation_files
    return seqio.Task(
        name,
        source=PairSource(splits),
        output_features=_features(vocabulary),
        preprocessors=[to_ids],
        shuffle_buffer_size=SHUFFLE_BUFFER,
    )
