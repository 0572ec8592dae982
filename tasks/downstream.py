"""seqio tasks of the zero-shot benchmarks: the paper's nine, and ARC-easy.

The wording of every prompt, the splits and the choices are those of lm-evaluation-harness 0.4
(https://github.com/EleutherAI/lm-evaluation-harness), so that accuracies compare. It has no HANS,
which is asked as it asks RTE, the other task of two sentences and two labels.

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
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from detox_jax import records
from detox_jax.errors import UserError

DIRECTORY_VARIABLE = "DETOX_JAX_DOWNSTREAM"
SPLIT = "test"
PIQA_LABELS = "piqa_labels.lst"
Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Question:
    """A question as it is scored.

    Attributes:
      inputs: the context of each choice; the same for all but in WinoGrande.
      targets: what is scored after it.
      answer: number of the right choice.
      lengths: characters of each choice.
    """

    inputs: Sequence[str]
    targets: Sequence[str]
    answer: int
    lengths: Sequence[int]


# --- one function a benchmark: a record of TFDS or of the benchmark's own file to a question --


def anli(record: Record) -> Question:
    """Adversarial NLI (Nie et al., 2020)."""
    prompt = f"{record['context']}\nQuestion: {record['hypothesis']} True, False, or Neither?"
    label = _index(record["label"], ("e", "n", "c"))
    return _choose(f"{prompt}\nAnswer:", ("True", "Neither", "False"), label)


def arc(record: Record) -> Question:
    """ARC (Clark et al., 2018); its own file nests the choices in the question."""
    question = record["question"]
    if isinstance(question, Mapping):
        stem, choices = question["stem"], question["choices"]
        texts, labels = ([choice[key] for choice in choices] for key in ("text", "label"))
    else:
        stem, choices = question, record["choices"]
        texts, labels = choices["text"], choices["label"]
    return _choose(f"Question: {stem}\nAnswer:", texts, labels.index(record["answerKey"]))


def boolq(record: Record) -> Question:
    """BoolQ (Clark et al., 2019) as SuperGLUE has it."""
    prompt = f"{record['passage']}\nQuestion: {record['question']}?\nAnswer:"
    return _choose(prompt, ("no", "yes"), _index(record["label"], ("false", "true")))


def hans(record: Record) -> Question:
    """HANS (McCoy et al., 2019), asked as the harness asks RTE."""
    prompt = f"{record['sentence1']}\nQuestion: {record['sentence2']} True or False?\nAnswer:"
    label = _index(record["gold_label"], ("entailment", "non-entailment"))
    return _choose(prompt, ("True", "False"), label)


def hellaswag(record: Record) -> Question:
    """HellaSwag (Zellers et al., 2019).

    TFDS joins the two parts of the context. The second, the beginning of a sentence that the
    endings continue, exists in the part from ActivityNet alone; there it is taken to be what
    follows the last full stop.
    """
    if "ctx_a" in record:
        first, second = record["ctx_a"], record["ctx_b"]
    elif record["source_id"].startswith("activitynet") and ". " in record["context"]:
        first, _, second = record["context"].rpartition(". ")
        first += "."
    else:
        first, second = record["context"], ""
    context = f"{record['activity_label']}: {first} {second.capitalize()}"
    endings = [_without_markup(ending) for ending in record["endings"]]
    label = _index(record["label"], ("0", "1", "2", "3"))
    return _choose(_without_markup(context), endings, label)


def lambada(record: Record) -> Question:
    """LAMBADA (Paperno et al., 2016): the last word of a passage, set apart by a space.

    TFDS has the passages as published, in lower case and tokenised (`lambada_standard` of the
    harness); files with natural text make `lambada_openai`.
    """
    text = record["text"] if "text" in record else record["passage"].rstrip("\n")
    context, _, word = text.rpartition(" ")
    return Question((context,), (f" {word}",), 0, (len(word),))


def piqa(record: Record) -> Question:
    """PIQA (Bisk et al., 2020)."""
    prompt = f"Question: {record['goal']}\nAnswer:"
    return _choose(prompt, (record["sol1"], record["sol2"]), _index(record["label"], ("0", "1")))


def race(record: Record) -> Question:
    """RACE (Lai et al., 2017): an article's last question, those before it with their answers."""
    prompt = f"Article: {record['article']}\n\n"
    problems = list(zip(record["questions"], record["options"], record["answers"], strict=True))
    for question, options, answer in problems[:-1]:
        right = options["ABCD".index(answer)]
        if question.endswith("  _  ."):
            prompt += f"{question[:-5]}{right}\n"
        else:
            prompt += f"Question: {question}\nAnswer: {right}\n"
    question, options, answer = problems[-1]
    return _choose(prompt + question, options, "ABCD".index(answer))


def wic(record: Record) -> Question:
    """WiC (Pilehvar and Camacho-Collados, 2019)."""
    first, second = record["sentence1"], record["sentence2"]
    word = first[record["start1"] : record["end1"]]
    prompt = (
        f"Sentence 1: {first}\nSentence 2: {second}\nQuestion: Is the word '{word}' used in the "
        "same way in the two sentences above?\nAnswer:"
    )
    return _choose(prompt, ("no", "yes"), _index(record["label"], ("false", "true")))


def winogrande(record: Record) -> Question:
    """WinoGrande (Sakaguchi et al., 2019) by partial evaluation.

    The blank is filled in with either option, and the likelihood is that of what follows it (Trinh
    and Le, 2018, https://arxiv.org/abs/1806.02847).
    """
    before, _, after = record["sentence"].partition("_")
    inputs = tuple(before + record[option] for option in ("option1", "option2"))
    label = record["label"] if "label" in record else record["answer"]
    target = after.strip()
    return Question(inputs, (f" {target}",) * 2, _index(label, ("1", "2")), (len(target),) * 2)


def _choose(context: str, choices: Sequence[str], answer: int) -> Question:
    """Choices that follow one context, each after a space."""
    targets = tuple(f" {choice}" for choice in choices)
    return Question((context,) * len(targets), targets, answer, tuple(map(len, choices)))


def _index(label: Any, names: Sequence[str]) -> int:
    """A label as a number; files have its name, TFDS its number."""
    return names.index(label) if isinstance(label, str) else int(label)


def _without_markup(text: str) -> str:
    """HellaSwag's text without what its source, WikiHow, left in it."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


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
    "anli_r2": Benchmark(anli, "anli_r2.jsonl", "anli/r2:0.1.0", "test"),
    "boolq": Benchmark(boolq, "boolq.jsonl", "super_glue/boolq:1.0.2"),
    "hans": Benchmark(hans, "heuristics_evaluation_set.txt"),
    "hellaswag": Benchmark(hellaswag, "hellaswag.jsonl", "hellaswag:1.1.0"),
    "lambada": Benchmark(lambada, "lambada.jsonl", "lambada:1.0.0", "test"),
    "piqa": Benchmark(piqa, "piqa.jsonl", "piqa:1.0.0"),
    "race_h": Benchmark(race, "race_h.jsonl", "race/high:2.0.0", "test"),
    "wic": Benchmark(wic, "wic.jsonl", "super_glue/wic:1.0.2"),
    "winogrande": Benchmark(winogrande, "winogrande.jsonl", "winogrande:1.2.0"),
    "arc_easy": Benchmark(arc, "arc_easy.jsonl", "ai2_arc/ARC-Easy:1.0.0", "test"),
}


# --- sources ----------------------------------------------------------------------------------


class FileSource(seqio.DataSource):
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
    def supports_arbitrary_sharding(self) -> bool:
        """Questions are dealt to shards one by one."""
        return True

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
        return [file, labels] if self._benchmark.ask is piqa and labels.exists() else [file]

    def describe(self, split: str) -> dict[str, Any]:
        """The hash of what is read, for manifests."""
        del split
        return {"sha256": records.hash_files(self.files)}

    def list_shards(self, split: str) -> list[str]:
        """The files."""
        del split
        return [str(file) for file in self.files]

    def get_dataset(
        self,
        split: str = SPLIT,
        shuffle: bool = False,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """The questions of the file, in its order."""
        del split, shuffle, seed, unused
        questions = [
            _ask(self._benchmark, record, where) for where, record in _read_records(self.files)
        ]
        dataset = _dataset(questions)
        if shard_info is not None and shard_info.num_shards > 1:
            dataset = dataset.shard(shard_info.num_shards, shard_info.index)
        return dataset


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
    found = list(records.read_jsonl(file))
    labels = labels_file[0].read_text().split() if labels_file else []
    if labels and len(labels) != len(found):
        raise UserError(f"{labels_file[0]}: {len(labels)} labels for {len(found)} questions")
    for i, (number, record) in enumerate(found):
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


def _dataset(questions: Sequence[Question]) -> tf.data.Dataset:
    if not questions:
        raise UserError("the benchmark holds no question")
    signature = {
        "inputs": tf.TensorSpec([None], tf.string),
        "targets": tf.TensorSpec([None], tf.string),
        "answer": tf.TensorSpec([], tf.int32),
        "lengths": tf.TensorSpec([None], tf.int32),
    }
    rows = [dataclasses.asdict(question) for question in questions]
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
