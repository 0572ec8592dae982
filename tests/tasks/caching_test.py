"""Tasks through seqio_cache_tasks, run as a user runs it, and batches from its cache."""

import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import seqio
import tensorflow as tf

from detox_jax.errors import UserError
from detox_jax.training import cached_tasks, data
from detox_jax.vocabulary import Vocabulary
from tasks import corpora
from tasks.vocabularies import SeqioBPEVocabulary
from tests import chats_made
from tests.conftest import SENTENCES

ROOT = Path(__file__).resolve().parents[2]
READ_AS = "it is read as one of the task's own"


@pytest.fixture
def no_cache_dirs():
    """Leaves seqio's global list of caches as it was."""
    before = list(seqio.get_global_cache_dirs())
    yield
    seqio.set_global_cache_dirs(before)


def write_documents(directory, vocabulary):
    """Documents of different lengths in two files, and the vocabulary."""
    directory.mkdir(exist_ok=True)
    noise = np.random.default_rng(0)
    for shard in range(2):
        with (directory / f"d-{shard:05}-of-00002.jsonl").open("w") as file:
            for i in range(40):
                text = " ".join(noise.choice(SENTENCES, 1 + i % 7))
                file.write(json.dumps({"id": f"{shard}-{i}", "text": text}) + "\n")
    vocabulary.save(str(directory / "vocabulary"))
    return {"files": f"{directory}/d-*.jsonl", "vocabulary": f"{directory}/vocabulary"}


def batches(task, use_cached, rows=None, count=25):
    iterator = data.BatchIterator(
        task, batch_size=4, length=32, seed=3, rows=rows, use_cached=use_cached
    )
    return list(itertools.islice(iterator, count))


def assert_equal(first, second):
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name, rows in one.items():
            np.testing.assert_array_equal(rows, other[name])


@pytest.mark.slow
@pytest.mark.parametrize("min_shards", [1, 3])
def test_seqio_cache_tasks(tmp_path, vocabulary, min_shards, no_cache_dirs):
    """One command; then the same batches as without a cache, on one host and on two."""
    pytest.importorskip("apache_beam", reason="needs the extra beam")
    written = write_documents(tmp_path / "documents", vocabulary)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "seqio.scripts.cache_tasks_main",
            "--module_import=tasks.corpora",
            "--tasks=documents",
            f"--output_cache_dir={tmp_path / 'cache'}",
            f"--min_shards={min_shards}",
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            corpora.DOCUMENTS_VARIABLE: written["files"],
            "DETOX_JAX_VOCABULARY": written["vocabulary"],
        },
        check=True,
    )
    cached_tasks.add_cache_dir(str(tmp_path / "cache"))
    task = corpora.documents_task(**written)
    assert_equal(batches(task, use_cached=True), batches(task, use_cached=False))
    for host in range(2):
        one, other = (
            batches(task, cached, range(2 * host, 2 * host + 2)) for cached in (True, False)
        )
        assert_equal(one, other)
    assert task.get_cached_stats("train")["examples"] == 80
    (path,) = (tmp_path / "documents").glob("d-00000*")
    path.unlink()  # The cache stands alone.
    assert len(batches(task, use_cached=True, count=2)) == 2


def write_cache(directory, task, rows):
    """A cache in seqio's form, its examples in another order than the source's."""
    path = directory / task.name
    path.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(path / "train.tfrecord-00000-of-00001")) as writer:
        for row in rows:
            writer.write(seqio.dict_to_tfexample(row).SerializeToString())
    known = {
        "targets": {"shape": [None], "dtype": "int32"},
        "position": {"shape": [], "dtype": "int64"},
    }
    features = {name: known.get(name, {"shape": [], "dtype": "string"}) for name in rows[0]}
    info = {"num_shards": 1, "features": features, "seqio_version": seqio.__version__}
    (path / "info.train.json").write_text(json.dumps(info))
    (path / "stats.train.json").write_text(json.dumps({"examples": len(rows)}))
    (path / "COMPLETED").write_text("")


def test_a_cache_in_any_order_gives_the_same_batches(tmp_path, vocabulary, no_cache_dirs):
    task = corpora.documents_task(**write_documents(tmp_path / "documents", vocabulary))
    dataset = task.preprocess_precache(task.source.get_dataset("train", shuffle=False))
    rows = list(dataset.as_numpy_iterator())
    write_cache(tmp_path / "cache", task, rows[::-1])
    cached_tasks.add_cache_dir(str(tmp_path / "cache"))
    fresh = batches(task, use_cached=False)
    assert_equal(batches(task, use_cached=True), fresh)
    assert_equal(batches(task.replace(name=task.name), use_cached=True), fresh)
    Vocabulary.train(SENTENCES, 300).save(str(tmp_path / "other"))
    other = corpora.documents_task(task.source.path("train"), str(tmp_path / "other"))
    with pytest.raises(UserError, match="documents: encoded with vocabulary"):
        batches(other, use_cached=True)


def test_another_content_of_a_cache_is_other_data(tmp_path, vocabulary, no_cache_dirs):
    """Where counts are the same. A position of before names no files, and stays good."""
    task = corpora.documents_task(**write_documents(tmp_path / "documents", vocabulary))
    dataset = task.preprocess_precache(task.source.get_dataset("train", shuffle=False))
    rows = list(dataset.as_numpy_iterator())
    swapped = [dict(row) for row in rows]
    swapped[1]["targets"], swapped[8]["targets"] = rows[8]["targets"], rows[1]["targets"]
    (tmp_path / "cache").mkdir()
    cached_tasks.add_cache_dir(str(tmp_path / "cache"))
    made = []
    for content in (rows, swapped):
        shutil.rmtree(tmp_path / "cache" / task.name, ignore_errors=True)
        write_cache(tmp_path / "cache", task, content)
        made.append(data.BatchIterator(task, batch_size=4, length=32, seed=3, use_cached=True))
    first, second = made
    assert first.identity["source"]["cached"] == second.identity["source"]["cached"]
    state = second.state()
    second.restore(state)
    with pytest.raises(UserError, match="position in the data is for source"):
        first.restore(state)
    del state["identity"]["source"]["cached_files"]
    first.restore(state)


def own_texts(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices({"targets": SENTENCES * 4})


def test_a_cache_of_a_task_of_ones_own_need_not_say_its_vocabulary(
    tmp_path, vocabulary, no_cache_dirs, capsys
):
    vocabulary.save(str(tmp_path / "vocabulary"))
    ids = seqio.Feature(SeqioBPEVocabulary(str(tmp_path / "vocabulary")))
    encode, end = seqio.preprocessors.tokenize, seqio.preprocessors.append_eos
    own = seqio.Task(
        "own",
        source=seqio.FunctionDataSource(own_texts, ["train", "validation"]),
        preprocessors=[encode, seqio.CacheDatasetPlaceholder(), end],
        output_features={"targets": ids},
    )
    dataset = own.preprocess_precache(own.source.get_dataset("train", shuffle=False))
    write_cache(tmp_path / "cache", own, list(dataset.as_numpy_iterator()))
    cached_tasks.add_cache_dir(str(tmp_path / "cache"))
    assert_equal(batches(own, use_cached=True), batches(own, use_cached=False))
    assert f"own: does not say with which vocabulary it was encoded; {READ_AS}, " in (
        capsys.readouterr().out
    )
    both = seqio.Mixture("both", [(own, 1), (own.replace(name="other"), 1)])
    assert cached_tasks.is_cached(own, "train") and not cached_tasks.is_cached(own, "validation")
    assert not cached_tasks.is_cached(both, "train")
    with pytest.raises(UserError, match="own: holds no split 'validation'; cache the task again"):
        data.BatchIterator(
            own, batch_size=4, length=32, seed=3, split="validation", use_cached=True
        )


def test_a_task_that_seqio_would_not_read_from_a_cache(tmp_path, no_cache_dirs):
    """Such as documents as answers in a chat template, beside a cache of the same name."""
    chats_made.save_tokenizer(tmp_path, chats_made.TEMPLATES["marks"])
    (tmp_path / "d.jsonl").write_text('{"id": "a", "text": "Thanks!"}\n')
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "COMPLETED").write_text("")
    cached_tasks.add_cache_dir(str(tmp_path))
    task = corpora.documents_task(str(tmp_path / "d.jsonl"), str(tmp_path))
    with pytest.raises(UserError, match="'documents' has no CacheD.*; set CHAT_TEMPLATE=False, wh"):
        batches(task, use_cached=True)
    plain = seqio.Task("plain", task.source, task.output_features, [])
    assert not cached_tasks.is_cached(plain, "train")


def source_that_is_gone(split, shuffle_files, seed=None):
    raise FileNotFoundError("the source")


def test_the_caches_of_a_mixture_stand_alone(tmp_path, vocabulary, no_cache_dirs):
    task = corpora.documents_task(**write_documents(tmp_path / "documents", vocabulary))
    dataset = task.preprocess_precache(task.source.get_dataset("train", shuffle=False))
    write_cache(tmp_path / "cache", task, list(dataset.as_numpy_iterator()))
    cached_tasks.add_cache_dir(str(tmp_path / "cache"))
    expected = batches(seqio.Mixture("both", [(task, 1)]), use_cached=True, count=2)
    gone = task.replace(source=seqio.FunctionDataSource(source_that_is_gone, ["train"]))
    alone = seqio.Mixture("both", [(gone, 1)])
    assert_equal(batches(alone, use_cached=True, count=2), expected)
    with pytest.raises(UserError, match="FileNotFoundError: the source"):
        batches(alone, use_cached=False, count=2)


def test_a_cache_that_is_not_whole_is_one_line(tmp_path, vocabulary, no_cache_dirs):
    task = corpora.documents_task(**write_documents(tmp_path / "documents", vocabulary))
    dataset = task.preprocess_precache(task.source.get_dataset("train", shuffle=False))
    write_cache(tmp_path / "cache", task, list(dataset.as_numpy_iterator()))
    cached_tasks.add_cache_dir(str(tmp_path / "cache"))
    cache = tmp_path / "cache" / task.name
    (file,) = cache.glob("*.tfrecord-*")
    whole = file.read_bytes()
    for size in (len(whole) // 2, 20):  # behind some records, and in the first
        file.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"cache/documents: .*damaged: truncated.*cache the"):
            batches(task, use_cached=True)
    (length,) = struct.unpack("<Q", whole[:8])  # a record: its length, 4 bytes, itself, 4 bytes
    file.write_bytes(whole[: 16 + length + 5])
    with pytest.raises(UserError, match="is not whole: 1 of 80 documents; cache the task again"):
        batches(task, use_cached=True)
    file.unlink()
    with pytest.raises(UserError, match="00000-of-00001: missing, one of 1 files"):
        batches(task, use_cached=True)


def test_no_cache(tmp_path, vocabulary, no_cache_dirs):
    task = corpora.documents_task(**write_documents(tmp_path / "documents", vocabulary))
    with pytest.raises(UserError, match="CACHE_DIR .*: no such directory"):
        cached_tasks.add_cache_dir(str(tmp_path / "none"))
    cached_tasks.add_cache_dir(str(tmp_path))
    with pytest.raises(UserError, match="'documents' is not cached in .*seqio_cache_tasks"):
        batches(task, use_cached=True)
