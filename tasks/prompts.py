"""A seqio task of prompts, for T5X's infer.py; `detox-jax generate` reads prompts by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import seqio
import tensorflow as tf

from detox_jax import records
from tasks.text_source import TextSource
from tasks.vocabularies import Continuations, SeqioBPEVocabulary

PROMPTS_VARIABLE = "DETOX_JAX_PROMPTS"
SPLIT = "prompts"


def read_prompts(path: str) -> Iterator[tuple[str, str]]:
    """`(id, text)` of prompts in JSON Lines."""
    for prompt in records.read_prompts(path):
        yield prompt.id, prompt.text


@tf.autograph.experimental.do_not_convert
def to_inputs(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, Any],
    sequence_length: Mapping[str, int] | None,
) -> tf.data.Dataset:
    """`{"id", "text"}` to `inputs`, the last ids of a prompt, and `targets`, its bare end-of-text.

    `id_pretokenized` and `inputs_pretokenized` are what T5X writes beside a prediction.
    """
    vocabulary = output_features["inputs"].vocabulary
    longest = None if sequence_length is None else sequence_length.get("inputs")

    def encode(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        ids = vocabulary.encode_tf(example["text"])
        return {
            "inputs": ids if longest is None else ids[-longest:],
            "targets": tf.constant([vocabulary.eos_id], tf.int32),
            "id_pretokenized": example["id"],
            "inputs_pretokenized": example["text"],
        }

    return dataset.map(encode)


def prompts_task(files: str | None, vocabulary: str | None, name: str = "prompts") -> seqio.Task:
    """A task of prompts, in the layout of RealToxicityPrompts.

    Args:
      files: file, glob or directory; that of DETOX_JAX_PROMPTS where None.
      vocabulary: directory of the vocabulary; the environment's where None.
      name: of the task.
    """
    inputs = seqio.Feature(SeqioBPEVocabulary(vocabulary), add_eos=False)
    targets = seqio.Feature(Continuations(vocabulary), add_eos=False)
    return seqio.Task(
        name,
        source=TextSource({SPLIT: files}, read_prompts, PROMPTS_VARIABLE),
        output_features={"inputs": inputs, "targets": targets},
        preprocessors=[to_inputs],
    )
