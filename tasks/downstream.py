"""seqio tasks of the zero-shot benchmarks: the paper's nine, and ARC-easy.

Splits are those of lm-evaluation-harness, as is the wording (`tasks.questions`), so that accuracies
compare.

A question is text, not ids: it is the model that brings the vocabulary. Its features are `inputs`
and `targets`, both a text for each choice (a choice is scored as its target after its input),
`answer`, the number of the right one, and `lengths`, the characters of each choice. A question of
one choice (LAMBADA) is answered right where the model would write the target by itself.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from detox_jax import manifests, records
from detox_jax.errors import Unavailable, UserError, network_trouble
from detox_jax.zero_shot.questions import Question
from tasks import questions
from tasks.memory_source import InOrder, MemorySource
from tasks.questions import Record

DIRECTORY_VARIABLE = "DETOX_JAX_DOWNSTREAM"
SPLIT = "test"
PIQA_LABELS = "piqa_labels.lst"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Where a benchmark is and how it is asked.

    Attributes:
      ask: makes a question of a record.
      file: name of its file in a directory of benchmarks.
      tfds: name and version in TFDS, None where it is not there.
      split: the labelled split of TFDS that is asked.
    """

    ask: Callable[[Record], Question]
    file: str
    tfds: str | None = None
    split: str = "validation"


BENCHMARKS = {
    "anli_r2": Benchmark(questions.anli, "anli_r2.jsonl", "anli/r2:0.1.0", "test"),
    "boolq": Benchmark(questions.boolq, "boolq.jsonl", "super_glue/boolq:1.0.2"),
    "hans": Benchmark(questions.hans, "heuristics_evaluation_set.txt"),
    "hellaswag": Benchmark(questions.hellaswag, "hellaswag.jsonl", "hellaswag:1.1.0"),
    "lambada": Benchmark(questions.lambada, "lambada.jsonl", "lambada:1.0.0", "test"),
    "piqa": Benchmark(questions.piqa, "piqa.jsonl", "piqa:1.0.0"),
    "race_h": Benchmark(questions.race, "race_h.jsonl", "race/high:2.0.0", "test"),
    "wic": Benchmark(questions.wic, "wic.jsonl", "super_glue/wic:1.0.2"),
    "winogrande": Benchmark(questions.winogrande, "winogrande.jsonl", "winogrande:1.2.0"),
    "arc_easy": Benchmark(questions.arc, "arc_easy.jsonl", "ai2_arc/ARC-Easy:1.0.0", "test"),
}


# --- sources ----------------------------------------------------------------------------------


class FileSource(MemorySource):
    """A benchmark's own file, read whole and checked line by line.

    Attributes:
      benchmark: how its records are asked.
      directory: where its file is; the environment's where None.
    """

    def __init__(self, benchmark: Benchmark, directory: str | None):
        super().__init__(splits=(SPLIT,))
        self._benchmark = benchmark
        self._directory = directory

    @property
    def files(self) -> list[epath.Path]:
        """The file, and PIQA's labels where they lie beside it."""
        name = self._benchmark.file
        directory = self._directory or os.environ.get(DIRECTORY_VARIABLE)
        if not directory:
            raise UserError(f"no {name}: set TASKS_DIR to the directory that has it")
        file = epath.Path(directory) / name
        if not file.exists():
            raise UserError(f"{file}: no such file; put the benchmark's file there")
        labels = epath.Path(directory) / PIQA_LABELS
        has_labels = self._benchmark.ask is questions.piqa and labels.exists()
        return [file, labels] if has_labels else [file]

    def describe(self, split: str) -> dict[str, Any]:
        """The hash of what is read, for manifests."""
        del split
        return {"sha256": manifests.hash_files(self.files)}

    def list_shards(self, split: str) -> list[str]:
        """The files."""
        del split
        return [str(file) for file in self.files]

    def all_examples(self, split: str, in_order: InOrder = list) -> tf.data.Dataset:
        """The questions of the file, in its order."""
        del split
        pairs = in_order(list(_read_records(self.files)))
        return _dataset([_ask(self._benchmark, record, where) for where, record in pairs])


class TfdsSource(seqio.TfdsDataSource):
    """A benchmark of TFDS, downloaded at first use."""

    def __init__(self, benchmark: Benchmark):
        assert benchmark.tfds is not None
        super().__init__(benchmark.tfds, splits={SPLIT: benchmark.split})  # type: ignore
        self._described = {"tfds": benchmark.tfds, "split": benchmark.split}

    def describe(self, split: str) -> dict[str, Any]:
        """Name, version and split in TFDS."""
        del split
        return self._described

    def get_dataset(self, *args: Any, **kwargs: Any) -> tf.data.Dataset:
        """The records as TFDS has them."""
        try:
            return super().get_dataset(*args, **kwargs)
        except Exception as error:  # TFDS has no error of its own for what it cannot download.
            if (failing := network_trouble(error)) is not None:
                raise Unavailable(
                    f"TFDS cannot fetch {self.tfds_dataset.name}: {failing}; run the same command "
                    "again, or give TASKS_DIR with the benchmark's own file"
                ) from None
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise UserError(
                f"TFDS cannot read {self.tfds_dataset.name}: {reason[:200]}; give the network "
                "for the first use, or TASKS_DIR with the benchmark's own file"
            ) from None


def _read_records(files: Sequence[epath.Path]) -> Iterator[tuple[str, Record]]:
    """Records with the line that each is from."""
    file, *labels_file = files
    if file.suffix != ".jsonl":
        try:
            lines = file.read_bytes().decode().splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: not UTF-8 (byte {error.start})") from None
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        for number, row in enumerate(rows, start=2):
            yield f"{file}:{number}", row
        return
    numbered = list(records.read_jsonl(file))
    labels = labels_file[0].read_text().split() if labels_file else []
    if labels and len(labels) != len(numbered):
        raise UserError(f"{labels_file[0]}: {len(labels)} labels for {len(numbered)} questions")
    for i, (number, record) in enumerate(numbered):
        yield f"{file}:{number}", {"label": labels[i], **record} if labels else record


def _ask(benchmark: Benchmark, record: Record, where: str) -> Question:
    """A record as a question.

    Raises:
      UserError: naming the place, for a field that is missing or an answer that is none.
    """
    try:
        question = benchmark.ask(record)
    except KeyError as error:
        raise UserError(f"{where}: no field {error}; give the benchmark's own file") from None
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{where}: not a question of this benchmark: {error}") from None
    if not 0 <= question.answer < len(question.targets):
        raise UserError(f"{where}: has no answer; give a split with labels")
    return question


def to_questions(dataset: tf.data.Dataset, benchmark: Benchmark) -> tf.data.Dataset:
    """A seqio preprocessor: records of TFDS to questions."""
    rows = enumerate(dataset.as_numpy_iterator())
    return _dataset([_ask(benchmark, _plain(row), f"{benchmark.tfds}:{i}") for i, row in rows])


def _plain(value: Any) -> Any:
    """What TFDS yields as Python's own types, bytes decoded."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "to_list"):  # A ragged array.
        return _plain(value.to_list())
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _dataset(asked: Sequence[Question]) -> tf.data.Dataset:
    if not asked:
        raise UserError("the benchmark holds no question")
    signature = {
        "inputs": tf.TensorSpec([None], tf.string),
        "targets": tf.TensorSpec([None], tf.string),
        "answer": tf.TensorSpec([], tf.int32),
        "lengths": tf.TensorSpec([None], tf.int32),
    }
    rows = [dataclasses.asdict(question) for question in asked]
    return tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=signature)


# --- tasks ------------------------------------------------------------------------------------


def tasks(names: Iterable[str], directory: str | None = None) -> tuple[seqio.Task, ...]:
    """Benchmarks by name, for gin.

    Args:
      names: of `BENCHMARKS`.
      directory: with files of benchmarks, named as `BENCHMARKS` says; a benchmark whose file is
        there is read from it, the others are TFDS's.

    Raises:
      UserError: for a name that is none, or HANS without its file.
    """
    if isinstance(names, str):
        raise UserError(f"TASKS is {names!r}; give a list: ['{names}']")
    directory = directory or None  # '' is no directory, and not the one of the run.
    if directory is not None and not epath.Path(directory).is_dir():
        raise UserError(f"TASKS_DIR {directory}: no such directory")
    return tuple(_task(name, directory) for name in names)


def _task(name: str, directory: str | None) -> seqio.Task:
    if name not in BENCHMARKS:
        raise UserError(f"TASKS: no task {name!r}; there are {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    has_file = directory is not None and (epath.Path(directory) / benchmark.file).exists()
    if has_file or benchmark.tfds is None:
        source, preprocessors = FileSource(benchmark, directory), []
    else:
        source = TfdsSource(benchmark)
        preprocessors = [functools.partial(to_questions, benchmark=benchmark)]
    text = seqio.PassThroughVocabulary(size=1)
    texts = seqio.Feature(text, add_eos=False, dtype=tf.string)
    return seqio.Task(
        name,
        source=source,
        output_features={"inputs": texts, "targets": texts},
        preprocessors=preprocessors,
    )


def _register_all() -> None:
    for name in BENCHMARKS:
        seqio.TaskRegistry.add_provider(f"downstream_{name}", _task(name, None))


_register_all()
