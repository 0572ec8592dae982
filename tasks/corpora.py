"""seqio tasks of text to train on: our JSON Lines, plain text, and TFDS.

Each has one feature, `targets`: a document's ids and its end-of-text. Tasks are registered by name
for T5X and `seqio_cache_tasks`; there the environment says where files and vocabulary are
(DETOX_JAX_DOCUMENTS, DETOX_JAX_TEXT, DETOX_JAX_VOCABULARY). gin files call the factories instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import seqio
import tensorflow as tf

from detox_jax import bad_records as bad_records_lib
from detox_jax import chat
from detox_jax.errors import UserError
from detox_jax.vocabulary import Vocabulary
from tasks import conversations, metrics, pieces
from tasks.cached_text import TextTask
from tasks.memory_source import SHUFFLE_BUFFER
from tasks.text_source import (
    TEXTS_AT_ONCE,
    TextSource,
    read_jsonl_documents,
    read_lines,
    read_paragraphs,
    splits,
)
from tasks.tfds_source import VersionedSource
from tasks.vocabularies import SeqioBPEVocabulary

DOCUMENTS_VARIABLE = "DETOX_JAX_DOCUMENTS"
TEXT_VARIABLE = "DETOX_JAX_TEXT"


# --- preprocessors ----------------------------------------------------------------------------
# No branch of theirs is one of TensorFlow's, which would translate each function at every start.


@tf.autograph.experimental.do_not_convert
def to_targets(dataset: tf.data.Dataset, output_features: Mapping[str, Any]) -> tf.data.Dataset:
    """`{"text"}` to `{"targets"}`: ids and end-of-text; texts of white space alone are dropped.

    For the cache a `position` stays, and the fingerprint of the `vocabulary` is added.
    """
    vocabulary = output_features["targets"].vocabulary
    fingerprint = vocabulary.bpe.fingerprint
    dataset = dataset.filter(
        lambda example: tf.strings.length(tf.strings.strip(example["text"])) > 0
    )

    def encode(batch: Mapping[str, tf.Tensor]) -> tuple[Any, ...]:
        kept = {name: batch[name] for name in ("position",) if name in batch}
        return *vocabulary.encode_batch_tf(batch["text"]), kept

    def end(ids: tf.Tensor, length: tf.Tensor, kept: Any) -> dict[str, tf.Tensor]:
        targets = tf.concat([ids[:length], [vocabulary.eos_id]], axis=0)
        return {"targets": targets, "vocabulary": tf.constant(fingerprint), **kept}

    encoded = dataset.batch(TEXTS_AT_ONCE).map(encode, num_parallel_calls=tf.data.AUTOTUNE)
    return encoded.unbatch().map(end)


@tf.autograph.experimental.do_not_convert
def split_documents(
    dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None
) -> tf.data.Dataset:
    """Documents longer than the sequence become consecutive pieces; no token is lost.

    Without this seqio trims them. Only a document's last piece ends with end-of-text.
    """
    if sequence_length is None or sequence_length.get("targets") is None:
        return dataset.map(lambda example: {"targets": example["targets"]})
    return pieces.cut(dataset, ("targets",), sequence_length["targets"])


@tf.autograph.experimental.do_not_convert
def keep_nontoxic(dataset: tf.data.Dataset, label: str, highest: float = 0.0) -> tf.data.Dataset:
    """Examples whose `label` is at most `highest`."""
    return dataset.filter(lambda example: tf.cast(example[label], tf.float32) <= highest)


@tf.autograph.experimental.do_not_convert
def prompt_text(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """RealToxicityPrompts' records to `{"text"}`: prompt and continuation, as they stood."""
    return dataset.map(
        lambda example: {"text": example["prompt"]["text"] + example["continuation"]["text"]}
    )


_TO_TARGETS = (to_targets, seqio.CacheDatasetPlaceholder(), split_documents)


def _features(vocabulary: str | None) -> dict[str, Any]:
    return {"targets": seqio.Feature(SeqioBPEVocabulary(vocabulary), add_eos=True)}


# --- factories for gin ------------------------------------------------------------------------


def documents_task(
    files: str | None,
    vocabulary: str | None,
    validation_files: str | None = None,
    name: str = "documents",
    bad_records: bad_records_lib.BadRecords = bad_records_lib.REFUSE,
    chat_template: chat.Choice = chat.AUTO,
) -> seqio.Task:
    """A task of JSON Lines documents.

    Args:
      files: file, glob or directory; the environment's where None.
      vocabulary: directory of the vocabulary; the environment's where None.
      validation_files: for a validation split.
      name: of the task.
      bad_records: what becomes of documents that cannot be read.
      chat_template: whether documents are answers in the tokenizer's chat template, see
        `tasks.conversations`; where the environment names the vocabulary they are text.
    """
    exchange = None
    if vocabulary is not None:
        exchange = chat.exchange(Vocabulary.load(vocabulary), chat_template)
    if exchange is not None and vocabulary is not None:
        source = conversations.Source(
            splits(files, validation_files), exchange, DOCUMENTS_VARIABLE, bad_records
        )
        return conversations.task(name, source, vocabulary)
    return _text_task(
        files,
        validation_files,
        vocabulary,
        name,
        read_jsonl_documents,
        bad_records=bad_records,
    )


def lines_task(
    files: str | None,
    vocabulary: str | None,
    validation_files: str | None = None,
    name: str = "text_lines",
) -> seqio.Task:
    """A task of plain text, one document a line; see `documents_task`."""
    return _text_task(files, validation_files, vocabulary, name, read_lines, TEXT_VARIABLE)


def paragraphs_task(
    files: str | None,
    vocabulary: str | None,
    validation_files: str | None = None,
    name: str = "text_paragraphs",
) -> seqio.Task:
    """A task of plain text, documents separated by blank lines; see `documents_task`."""
    return _text_task(files, validation_files, vocabulary, name, read_paragraphs, TEXT_VARIABLE)


def _text_task(
    files: str | None,
    validation_files: str | None,
    vocabulary: str | None,
    name: str,
    read: Callable[..., Iterator[tuple[str, str]]],
    variable: str = DOCUMENTS_VARIABLE,
    bad_records: bad_records_lib.BadRecords = bad_records_lib.REFUSE,
) -> seqio.Task:
    return TextTask(
        name,
        source=TextSource(splits(files, validation_files), read, variable, bad_records),
        output_features=_features(vocabulary),
        preprocessors=_TO_TARGETS,
        postprocess_fn=metrics.count_tokens,
        metric_fns=[metrics.perplexity],
        shuffle_buffer_size=SHUFFLE_BUFFER,
    )


def registered_task(name: str, vocabulary: str | None) -> seqio.Task:
    """A registered task with a vocabulary of one's own.

    Raises:
      UserError: if there is no such task.
    """
    if name not in seqio.TaskRegistry.names():
        raise UserError(
            f"no task {name!r}; there are {', '.join(sorted(seqio.TaskRegistry.names()))}"
        )
    task = seqio.TaskRegistry.get(name)
    return task.replace(name=name, output_features=_features(vocabulary))


def register(task: seqio.Task) -> str:
    """Registers a task under its own name, in place of another of that name.

    T5X knows tasks by name: `MIXTURE_OR_TASK_NAME = @corpora.register()`.

    Returns:
      The name.
    """
    if task.name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(task.name)
    seqio.TaskRegistry.add_provider(task.name, task)
    return task.name


# --- registered by name -----------------------------------------------------------------------


def _register(
    name: str, tfds_name: str, validation: str | None, *preprocessors: Callable[..., Any]
) -> None:
    """Registers a TFDS text corpus; `validation` is the split that serves as one."""
    seqio.TaskRegistry.add(
        name,
        source=VersionedSource(tfds_name, splits=splits("train", validation)),  # type: ignore
        output_features=_features(None),
        preprocessors=(*preprocessors, *_TO_TARGETS),
        shuffle_buffer_size=SHUFFLE_BUFFER,
    )


def _register_all() -> None:
    for task in (documents_task(None, None), lines_task(None, None), paragraphs_task(None, None)):
        seqio.TaskRegistry.add_provider(task.name, task)
    nontoxic = functools.partial(keep_nontoxic, label="toxicity")
    _register("civil_comments", "civil_comments:1.2.4", "validation")
    _register("civil_comments_nontoxic", "civil_comments:1.2.4", "validation", nontoxic)
    _register("jigsaw", "wikipedia_toxicity_subtypes:0.3.1", "test")
    _register("jigsaw_nontoxic", "wikipedia_toxicity_subtypes:0.3.1", "test", nontoxic)
    _register("real_toxicity_prompts", "real_toxicity_prompts:1.0.0", None, prompt_text)
    _register("lm1b", "lm1b:1.1.0", "test")


_register_all()
