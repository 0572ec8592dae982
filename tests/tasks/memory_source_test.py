"""Sources in memory: what each reads, how long it holds it, and in which order it gives it."""

import gc
import json
import weakref

import pytest
import seqio

from detox_jax import output_settings
from detox_jax.output_settings import LEARNS
from detox_jax.training import seqio_tasks
from detox_jax.training.data import BatchIterator
from detox_jax.training.pair_batches import PairBatches, PairTask
from tasks import classification, corpora, memory_source, preferences
from tests.classifiers import labelled_made
from tests.training.pairs_made import write_pairs

NUMBER = 60


class _Source(memory_source.MemorySource):
    def __init__(self):
        super().__init__(splits=("train", "validation"))
        self.reads = []

    @memory_source.read_once
    def rows(self, split):
        self.reads.append(split)
        return [split]

    def all_examples(self, split):
        raise NotImplementedError

    def list_shards(self, split):
        return [split]


def test_each_source_reads_each_split_once():
    one, other = _Source(), _Source()
    for _ in range(2):
        assert one.rows("train") == other.rows("train") == ["train"]
        assert one.rows("validation") == ["validation"]
    assert one.reads == ["train", "validation"] and other.reads == ["train"]


@pytest.mark.parametrize("kind", ["documents", "pairs", "labelled texts"])
def test_what_was_read_goes_with_its_task(kind, tmp_path, vocabulary):
    """A run of many trainings makes a task for each, and kept four of their corpora."""
    file, of_vocabulary = tmp_path / "texts.jsonl", str(tmp_path / "vocabulary")
    vocabulary.save(of_vocabulary)
    if kind == "pairs":
        write_pairs(file, number=5)
        task = preferences.pairs_task(str(file), of_vocabulary)
    else:
        labelled_made.write(file)
        make = {"documents": lambda: corpora.documents_task(str(file), of_vocabulary)}
        task = make.get(kind, lambda: classification.labelled_task(files=str(file)))()
    source = weakref.ref(task.source)
    assert source().count("train") == len(list(task.source.all_examples("train")))
    del task
    gc.collect()
    assert source() is None


@pytest.fixture
def tasks(tmp_path, vocabulary):
    """A task of each kind of source, of as many examples, and the feature that tells them."""
    documents, pairs = tmp_path / "documents.jsonl", tmp_path / "pairs.jsonl"
    texts = [f"so {i}" for i in range(NUMBER)]
    documents.write_text(
        "".join(json.dumps({"text": text, "toxicity": 0.5}) + "\n" for text in texts)
    )
    rows = [{"prompt": "", "chosen": f" {text}", "rejected": " no"} for text in texts]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    vocabulary.save(tmp_path / "vocabulary")
    vocabulary_path = str(tmp_path / "vocabulary")
    labelled = classification.labelled_task(files=str(documents), validation_files=str(documents))
    return {
        "text": corpora.documents_task(str(documents), vocabulary_path),
        "chosen": preferences.pairs_task(str(pairs), vocabulary_path),
        "labels": labelled,
    }


def order(source, **how):
    rows = source.get_dataset("train", **{"shuffle": True, "seed": 3, **how}).as_numpy_iterator()
    return [int((row["chosen"] if "chosen" in row else row["text"]).split()[1]) for row in rows]


@pytest.mark.parametrize("kind", ["text", "chosen", "labels"])
def test_more_than_a_buffer_holds_are_shuffled_whole_and_others_left_to_it(
    kind, tasks, monkeypatch
):
    task = tasks[kind]
    assert order(task.source) == [*range(NUMBER)]
    assert not seqio_tasks.is_shuffled_whole(task, "train")
    monkeypatch.setattr(memory_source, "SHUFFLE_BUFFER", NUMBER - 1)
    shuffled = order(task.source)
    assert sorted(shuffled) == [*range(NUMBER)] and shuffled == order(task.source)
    assert max(shuffled[:10]) > NUMBER // 2 and shuffled != order(task.source, seed=4)
    assert order(task.source, shuffle=False) == order(task.source, seed=None) == [*range(NUMBER)]
    shards = [order(task.source, shard_info=seqio.ShardInfo(i, 2)) for i in range(2)]
    assert shards == [shuffled[::2], shuffled[1::2]]
    assert seqio_tasks.is_shuffled_whole(task, "train")


def test_manifests_and_positions_name_that_order(tasks, monkeypatch):
    def learns():
        batches = BatchIterator(tasks["text"], batch_size=2, length=8, seed=0)
        pairs = PairBatches(PairTask(tasks["chosen"], length=8, batch_size=2), seed=0)
        return [of.identity.get(LEARNS) for of in (batches, pairs)]

    assert learns() == [None, None]
    monkeypatch.setattr(memory_source, "SHUFFLE_BUFFER", NUMBER - 1)
    assert learns() == ["all examples shuffled"] * 2


def test_a_check_counts_no_examples_for_it(tasks, monkeypatch):
    """A rerun of a finished training asks as a check does, before it says that nothing is to do."""
    for kind in ("text", "chosen"):
        monkeypatch.setattr(tasks[kind].source, "count", None)  # It would be called.
    with output_settings.ahead():
        BatchIterator(tasks["text"], batch_size=2, length=8, seed=0)
        PairBatches(PairTask(tasks["chosen"], length=8, batch_size=2), seed=0)
