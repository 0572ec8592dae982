"""seqio tasks of labelled text to train a toxicity classifier on: TFDS, and our JSON Lines.

Examples are `{"text", "labels", "weight"}`: a string, for each label the share of raters who gave
it, and by how much the text counts. The text stays text: which ids it has is the classifier's.
`civil_comments_labels` and `jigsaw_labels` are registered by name, with all their labels.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from detox_jax import output_settings, preview, records
from detox_jax.errors import UserError
from detox_jax.parallel import processes
from detox_jax.toxicity import labelled
from tasks.memory_source import SHUFFLE_BUFFER, InOrder, MemorySource, read_once
from tasks.tfds_source import VersionedSource

DATA_VARIABLE = "DETOX_JAX_DATA"
CIVIL_COMMENTS_LABELS = (
    "toxicity",
    "severe_toxicity",
    "obscene",
    "threat",
    "insult",
    "identity_attack",
    "sexual_explicit",
)
JIGSAW_LABELS = CIVIL_COMMENTS_LABELS[:-1]
_SCORED = ("toxicity",)  # the labels of what `score` wrote
_FEATURES = {
    "text": seqio.Feature(seqio.PassThroughVocabulary(1), add_eos=False, dtype=tf.string, rank=0),
    "labels": seqio.Feature(
        seqio.PassThroughVocabulary(1), add_eos=False, dtype=tf.float32, rank=1
    ),
    "weight": seqio.Feature(
        seqio.PassThroughVocabulary(1), add_eos=False, dtype=tf.float32, rank=0
    ),
}


@dataclasses.dataclass(frozen=True)
class LabelledText:
    """A text, the shares of its labels, and its weight in the loss."""

    text: str
    labels: tuple[float, ...]
    weight: float = 1.0


class LabelledSource(MemorySource):
    """Labelled texts read whole into memory, validated on the way; every split from one reader.

    Attributes:
      splits: the reader of each.
      apart: of a split, another one whose texts it leaves out.
    """

    def __init__(
        self,
        splits: Mapping[str, Callable[[], Iterator[LabelledText]]],
        apart: Mapping[str, str] | None = None,
    ):
        super().__init__(splits=tuple(splits))
        self._splits = dict(splits)
        self._apart = dict(apart or {})

    def list_shards(self, split: str) -> list[str]:
        """One."""
        return [split]

    def describe(self, split: str) -> dict[str, Any]:
        """The hash of what is read, for manifests; where it lies does not matter."""
        digest = hashlib.sha256()
        read = self._read(split)
        for example in read:
            digest.update(f"{example}\n".encode("utf-8", "replace"))
        # A version before left no copies out.
        rules = output_settings.text_rules(len(self._examples(split)) < len(read))
        return {"sha256": digest.hexdigest(), "texts": len(read), **rules}

    def count(self, split: str) -> int:
        """How many texts there are; reads them."""
        return len(self._examples(split))

    def all_examples(self, split: str, in_order: InOrder = list) -> tf.data.Dataset:
        """Examples `{"text", "labels", "weight"}`."""
        self._say_copies(split)
        examples = in_order(self._examples(split))
        columns: Any = {
            "text": [example.text.encode("utf-8", "replace") for example in examples],
            "labels": [example.labels for example in examples],
            "weight": [example.weight for example in examples],
        }
        return tf.data.Dataset.from_tensor_slices(columns)

    @read_once
    def _say_copies(self, split: str) -> None:
        read, others = self._read(split), self._others(split)
        if copies := len(read) - len(others):
            so = "and left out" if others else "so that its figures say nothing of others"
            processes.warn(
                f"the split {split!r}: {copies} of {len(read)} texts are trained on too, {so}"
            )

    def _examples(self, split: str) -> list[LabelledText]:
        """The texts of a split, without copies of those that it is apart from if any are left."""
        return self._others(split) or self._read(split)

    @read_once
    def _others(self, split: str) -> list[LabelledText]:
        """The texts of a split that are no copies of those that it is apart from."""
        read = self._read(split)
        if split not in self._apart:
            return read
        known = {_compared(example) for example in self._read(self._apart[split])}
        return [example for example in read if _compared(example) not in known]

    @read_once
    def _read(self, split: str) -> list[LabelledText]:
        examples = [example for example in self._splits[split]() if example.text.strip()]
        if not examples:
            raise UserError(f"no labelled text for the split {split!r}")
        return examples


def _compared(example: LabelledText) -> str:
    """A text without what copies differ in."""
    return " ".join(example.text.lower().split())


# --- preprocessors ----------------------------------------------------------------------------


@tf.autograph.experimental.do_not_convert
def choose_labels(dataset: tf.data.Dataset, labels: Sequence[str]) -> tf.data.Dataset:
    """TFDS' examples, a column a label, to `{"text", "labels", "weight"}`.

    Texts of white space alone are dropped.
    """

    def choose(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        columns = [tf.cast(example[label], tf.float32) for label in labels]
        return {
            "text": example["text"],
            "labels": tf.stack(columns),
            "weight": tf.constant(1.0),
        }

    has_text = lambda example: tf.strings.length(tf.strings.strip(example["text"])) > 0  # noqa: E731
    return dataset.filter(has_text).map(choose, num_parallel_calls=tf.data.AUTOTUNE)


# --- readers ----------------------------------------------------------------------------------


def read_documents(path: str, labels: Sequence[str], part: int | None) -> Iterator[LabelledText]:
    """Documents with a number from 0 to 1 for every label.

    Where the toxicity is all there is to learn, documents that have none, which `score` leaves
    where nobody can score a text, are left out, and it says so.

    Args:
      path: file, glob or directory.
      labels: their fields.
      part: 0 for the documents that are held out, one in five by the hash of their ids, 1 for the
        others; all where None.

    Raises:
      UserError: if a document lacks a label, or has one that is no share, or none is left.
    """
    number = unscored = 0
    for document in records.read_documents(path):
        if part is not None and min(records.stable_hash(document.id) % 5, 1) != part:
            continue
        if tuple(labels) == _SCORED and document.toxicity is None:
            unscored += 1
            continue
        values = {"toxicity": document.toxicity, **document.extra}
        for label in labels:
            value = values[label] = _number(values.get(label))
            if value is None:
                raise UserError(
                    f"{path}: record {document.id!r} has no label {label!r}; every record needs "
                    f"a number from 0 to 1 for each of {', '.join(labels)}"
                )
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise UserError(
                    f"{path}: record {document.id!r}: {label!r} is {value!r}; expected a number "
                    "from 0 to 1"
                )
        number += 1
        yield LabelledText(document.text, tuple(float(values[label]) for label in labels))
    if unscored:
        of_split = {None: "", 0: " of the split 'validation'", 1: " of the split 'train'"}[part]
        if not number:
            raise UserError(
                f"{path}: none of its {unscored} documents{of_split} has a score; run `score`"
                f"{'' if part is None else ', or give more documents, or VALIDATION_INPUT'}"
            )
        processes.warn(
            f"{path}: {unscored} of {number + unscored} documents{of_split} have no score and are "
            "left out"
        )
    if not number:
        which = {
            None: "",
            0: " for the split 'validation': none of its documents is held out",
            1: " for the split 'train': all of its documents are held out",
        }
        how = "" if part is None else ", as one in five is by the hash of its id"
        raise UserError(
            f"{path}: no labelled text{which[part]}{how}; give more documents, or VALIDATION_INPUT"
        )


def _number(value: Any) -> Any:
    """A label as a number, where a cell of CSV holds it as text; else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value or None


def _read_data_dir(path: str, held_out: bool) -> Iterator[LabelledText]:
    for example in labelled.read_examples(Path(path)):
        if example.held_out == held_out:
            yield LabelledText(example.text, (example.toxicity,), example.weight)


# --- factories for gin ------------------------------------------------------------------------


def labelled_task(
    labels: Sequence[str] = _SCORED,
    files: str | None = None,
    validation_files: str | None = None,
    registered: str | None = None,
    data_dir: str | None = None,
) -> seqio.Task:
    """A task of labelled texts.

    Args:
      labels: what to learn.
      files: JSON Lines documents with a field for every label: file, glob or directory.
      validation_files: more of them, never trained on; one in five of `files` where None.
      registered: instead of files, a task of TFDS: `civil_comments_labels` or `jigsaw_labels`.
      data_dir: where there are neither, the labelled text that the embedded scorer learns, which
        has one label, toxicity; the environment variable DETOX_JAX_DATA where None.

    Raises:
      UserError: if there is nothing to read, or it has other labels.
    """
    labels = tuple(labels)
    if not labels or len(set(labels)) != len(labels):
        raise UserError(f"LABELS is {labels}; name every label once, and at least one")
    if files and registered:
        raise UserError(f"INPUT is {files} and TASK_NAME is {registered}; set one of the two")
    if data_dir and (files or registered):
        raise UserError(
            f"DATA_DIR is {data_dir} and {'INPUT' if files else 'TASK_NAME'} is "
            f"{files or registered}; set one of the two"
        )
    if validation_files and not files:
        raise UserError(
            f"VALIDATION_INPUT is {validation_files}, which only texts of INPUT have beside them; "
            "set INPUT, or leave it None"
        )
    if registered:
        return _registered(registered, labels)
    if files:
        source = _documents(files, validation_files, labels)
    else:
        source = _data_dir(data_dir or os.environ.get(DATA_VARIABLE), labels)
    return seqio.Task(
        "labelled",
        source=source,
        output_features=_FEATURES,
        preprocessors=[],
        shuffle_buffer_size=SHUFFLE_BUFFER,
    )


def train_on_scored(
    *,
    checkpoint_path: str,
    input: str,
    output_dir: str,
    train: Callable[..., Any],
    check_only: bool = False,
) -> list[preview.Step] | None:
    """`train_linear` or `train_reward` on scored documents, called as `sgeat` calls `steer`.

    Args:
      checkpoint_path: of the model that it starts from, or that will be steered.
      input: documents with their toxicity; one in five is held out.
      output_dir: see the verb.
      train: the verb, with its settings.
      check_only: see the verb.

    Returns:
      The steps where `check_only`.
    """
    if check_only and preview.Coming in (type(checkpoint_path), type(input)):
        preview.checked_output(output_dir)
        return [preview.Step(train.__name__, output_dir)]
    return train(
        checkpoint_path=checkpoint_path,
        output_dir=output_dir,
        task=labelled_task(files=input),
        check_only=check_only,
    )


def _documents(files: str, validation_files: str | None, labels: tuple[str, ...]) -> LabelledSource:
    held_out = validation_files is None
    # Copies have ids of their own, by whose hashes some are held out and some trained on.
    return LabelledSource(
        {
            "train": lambda: read_documents(files, labels, 1 if held_out else None),
            "validation": lambda: read_documents(
                validation_files or files, labels, 0 if held_out else None
            ),
        },
        {"validation": "train"} if held_out else {},
    )


def _data_dir(path: str | None, labels: tuple[str, ...]) -> LabelledSource:
    if not path:
        raise UserError(
            f"no labelled text: set INPUT, TASK_NAME, DATA_DIR or the variable {DATA_VARIABLE}"
        )
    if labels != _SCORED:
        raise UserError(f"LABELS is {labels}; the text of {DATA_VARIABLE} has toxicity alone")
    return LabelledSource(
        {
            "train": lambda: _read_data_dir(path, False),
            "validation": lambda: _read_data_dir(path, True),
        }
    )


_TFDS = {
    "civil_comments_labels": ("civil_comments:1.2.4", "validation", CIVIL_COMMENTS_LABELS),
    "jigsaw_labels": ("wikipedia_toxicity_subtypes:0.3.1", "test", JIGSAW_LABELS),
}


def _registered(name: str, labels: tuple[str, ...]) -> seqio.Task:
    if name not in _TFDS:
        raise UserError(f"TASK_NAME is {name!r}; one of {', '.join(_TFDS)}")
    known = _TFDS[name][2]
    if unknown := [label for label in labels if label not in known]:
        raise UserError(f"LABELS: {name} has no {unknown[0]!r}; its labels are {', '.join(known)}")
    task = seqio.TaskRegistry.get(name)
    chosen = [functools.partial(choose_labels, labels=labels)]
    return task.replace(name=name, source=_LabelledSet(name, labels), preprocessors=chosen)


class _LabelledSet(VersionedSource):
    """One of `_TFDS`, with the labels that are chosen of it."""

    def __init__(self, name: str, labels: Sequence[str]):
        tfds_name, validation, _ = _TFDS[name]
        super().__init__(tfds_name, splits={"train": "train", "validation": validation})
        self.labels = tuple(labels)


def _register_all() -> None:
    for name, (_, _, labels) in _TFDS.items():
        seqio.TaskRegistry.add(
            name,
            source=_LabelledSet(name, labels),  # type: ignore
            output_features=_FEATURES,
            preprocessors=[functools.partial(choose_labels, labels=labels)],
            shuffle_buffer_size=SHUFFLE_BUFFER,
        )


_register_all()
