"""What a source has read: once for each split, and not beyond the source."""

import gc
import weakref

import pytest

from tasks import corpora, memory_source, preferences
from tasks.classification import labelled_task
from tests.classifiers import labelled_made
from tests.training.pairs_made import write_pairs


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
        task = make.get(kind, lambda: labelled_task(files=str(file)))()
    source = weakref.ref(task.source)
    assert source().count("train") == len(list(task.source.all_examples("train")))
    del task
    gc.collect()
    assert source() is None
