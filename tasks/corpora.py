"""seqio tasks of text to train on: our JSON Lines, plain text, and TFDS.

Each has one feature, `targets`: a document's ids and its end-of-text. Tasks are registered by name
for T5X and `seqio_cache_tasks`; there the environment says where files and vocabulary are
(DETOX_JAX_DOCUMENTS, DETOX_JAX_TEXT, DETOX_JAX_VOCABULARY). gin files call the factories instead.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from detox_jax import bad_records as bad_records_lib
from detox_jax import jsonl, outputs, records
from detox_jax.errors import UserError
from tasks import metrics
from tasks.cached_text import TextTask
from tasks.memory_source import MemorySource
from tasks.vocabularies import SeqioBPEVocabulary

DOCUMENTS_VARIABLE = "DETOX_JAX_DOCUMENTS"
TEXT_VARIABLE = "DETOX_JAX_TEXT"
SHUFFLE_BUFFER = 100_000
_TEXTS_AT_ONCE = 512


# --- sources ----------------------------------------------------------------------------------


class TextSource(MemorySource):
    """Documents read whole into memory, validated on the way; any number of hosts share them.

    Attributes:
      files: what to read for each split; None for the one that the environment variable names.
      read: yields `(id, text)` of a source.
      variable: name of that environment variable.
    """

    def __init__(
        self,
        files: Mapping[str, str | None],
        read: Callable[..., Iterator[tuple[str, str]]],
        variable: str,
        bad_records: bad_records_lib.BadRecords = bad_records_lib.REFUSE,
    ):
        super().__init__(splits=tuple(files))
        self._files = dict(files)
        self._read = read
        self._variable = variable
        self._policy = bad_records

    def path(self, split: str) -> str:
        """Where a split's documents are."""
        if split not in self._files:
            raise UserError(f"no split {split!r}; there are {', '.join(self._files)}")
        path = self._files[split] or os.environ.get(self._variable)
        if not path:
            raise UserError(
                f"no documents: set INPUT, or the environment variable {self._variable}"
            )
        return path

    def describe(self, split: str) -> dict[str, Any]:
        """The hash of what is read, for manifests; where it lies does not matter."""
        if self._read is read_jsonl_documents:
            hashed = described(self.path(split))
        else:
            hashed = {"sha256": outputs.hash_files(_text_files(self.path(split)))}
        _, aside = self._documents(split) if self._sets_aside else (None, None)
        if aside is None:
            return hashed
        policy = bad_records_lib.settings(self._policy)["bad_records"]
        return {**hashed, "bad_records": {**policy, **aside.counts()["bad_records"]}}

    @property
    def _sets_aside(self) -> bool:
        return isinstance(self._policy, bad_records_lib.SetAside)

    def count(self, split: str) -> int:
        """How many documents a split has."""
        return len(self._documents(split)[0])

    def list_shards(self, split: str) -> list[str]:
        """The files of a split."""
        is_text = self._read is not read_jsonl_documents
        files = _text_files if is_text else records.resolve_files
        return [str(file) for file in files(self.path(split))]

    def all_examples(self, split: str) -> tf.data.Dataset:
        """Examples `{"id", "text", "position"}`."""
        pairs, _ = self._documents(split)
        ids, texts = zip(*pairs, strict=True)
        positions = np.arange(len(pairs), dtype=np.int64)
        columns: Any = {"id": list(ids), "text": list(texts), "position": positions}
        return tf.data.Dataset.from_tensor_slices(columns)

    @functools.lru_cache(maxsize=4)  # noqa: B019 (a source lives as long as its task)
    def _documents(
        self, split: str
    ) -> tuple[list[tuple[str, bytes]], bad_records_lib.Aside | None]:
        path = self.path(split)
        aside = bad_records_lib.opened(self._policy)
        texts = self._read(path) if aside is None else self._read(path, aside)
        pairs = [(name, text.encode("utf-8", "replace")) for name, text in texts if text.strip()]
        if not pairs:
            raise UserError(f"{path}: holds no text")
        return pairs, aside


def described(source: str) -> dict[str, Any]:
    """What a manifest says of an input of a task; where it lies does not matter."""
    kept = records.describe_input(source)
    return {name: value for name, value in kept.items() if name in ("sha256", "fields")}


def _text_files(path: str) -> list[epath.Path]:
    file = epath.Path(path)
    files = sorted(file.parent.glob(file.name)) if "*" in file.name else [file]
    if not files or not all(file.exists() for file in files):
        raise UserError(f"{path}: no such text file")
    return files


def read_jsonl_documents(
    path: str, aside: bad_records_lib.Aside | None = None
) -> Iterator[tuple[str, str]]:
    """`(id, text)` of JSON Lines documents."""
    for document in records.read_documents(path, aside):
        yield document.id, document.text


def read_lines(path: str) -> Iterator[tuple[str, str]]:
    """`(id, text)` of plain text, one document a line."""
    return _read_text(path, "\n")


def read_paragraphs(path: str) -> Iterator[tuple[str, str]]:
    """`(id, text)` of plain text, documents separated by blank lines."""
    return _read_text(path, "\n\n")


def _read_text(path: str, separator: str) -> Iterator[tuple[str, str]]:
    for file in _text_files(path):
        try:
            text = (content := jsonl.read_bytes(file)).decode()
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise UserError(f"{file}:{line}: not UTF-8") from None
        for i, part in enumerate(text.replace("\r\n", "\n").split(separator)):
            yield f"{file.name}-{i}", part.strip()


# --- preprocessors ----------------------------------------------------------------------------


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

    encoded = dataset.batch(_TEXTS_AT_ONCE).map(encode, num_parallel_calls=tf.data.AUTOTUNE)
    return encoded.unbatch().map(end)


def split_documents(
    dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None
) -> tf.data.Dataset:
    """Documents longer than the sequence become consecutive pieces; no token is lost.

    Without this seqio trims them. Only a document's last piece ends with end-of-text.
    """
    if sequence_length is None or sequence_length.get("targets") is None:
        return dataset.map(lambda example: {"targets": example["targets"]})
    length = sequence_length["targets"]

    def pieces(example: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        ids = example["targets"]
        size = tf.size(ids)
        count = (size + length - 1) // length
        padded = tf.pad(ids, [[0, count * length - size]])
        sizes = tf.minimum(length, size - length * tf.range(count))
        return tf.reshape(padded, [count, length]), sizes

    def trim(ids: tf.Tensor, size: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"targets": ids[:size]}

    return dataset.map(pieces).unbatch().map(trim)


def keep_nontoxic(dataset: tf.data.Dataset, label: str, highest: float = 0.0) -> tf.data.Dataset:
    """Examples whose `label` is at most `highest`."""
    return dataset.filter(lambda example: tf.cast(example[label], tf.float32) <= highest)


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
) -> seqio.Task:
    """A task of JSON Lines documents.

    Args:
      files: file, glob or directory; the environment's where None.
      vocabulary: directory of the vocabulary; the environment's where None.
      validation_files: for a validation split.
      name: of the task.
      bad_records: what becomes of documents that cannot be read.
    """
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
    splits = {"train": files}
    if validation_files is not None:
        splits["validation"] = validation_files
    return TextTask(
        name,
        source=TextSource(splits, read, variable, bad_records),
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
    splits = {"train": "train"}
    if validation is not None:
        splits["validation"] = validation
    seqio.TaskRegistry.add(
        name,
        source=seqio.TfdsDataSource(tfds_name, splits=splits),  # type: ignore
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
