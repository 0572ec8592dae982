"""The task of documents behind tags: every piece has its tag, which weighs nothing."""

import json

import numpy as np
import pytest

from detox_jax.errors import UserError
from detox_jax.output_settings import LEARNS
from detox_jax.tags import Tags
from detox_jax.training import data
from tasks import tagged
from tests.conftest import SENTENCES
from tests.training.data_test import segments, take

LENGTH = 48
TAGS = Tags(good="<+>", bad="<->", threshold=0.5, untagged=0.2)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def texts():
    """Of one line, and of several rows."""
    return {
        str(i): f"{i} {SENTENCES[i % 6]} {'again and ' * (i % 7 * 9)}".strip() for i in range(40)
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("tagged") / "d.jsonl"
    rows = [{"id": i, "text": t, "toxicity": int(i) % 10 / 10} for i, t in texts.items()]
    return str(write(path, rows))


@pytest.fixture(scope="module")
def vocabulary_path(tmp_path_factory, vocabulary):
    path = tmp_path_factory.mktemp("vocabulary")
    vocabulary.save(str(path))
    return str(path)


@pytest.fixture(scope="module")
def task(files, vocabulary_path):
    return tagged.tagged_task(files, vocabulary_path, files, tags=TAGS)


def examples(task, length=None):
    lengths = None if length is None else {"targets": length}
    dataset = task.get_dataset(lengths, "train", shuffle=False)
    return [row["targets"].tolist() for row in dataset.as_numpy_iterator()]


def expected(texts, vocabulary):
    """Ids of each document, with what is in front."""
    written = {None: [], TAGS.good: TAGS.ids(vocabulary)[0], TAGS.bad: TAGS.ids(vocabulary)[1]}
    for i, text in texts.items():
        tag = list(written[TAGS.of(i, int(i) % 10 / 10)])
        yield tag, [*vocabulary.encode(text), vocabulary.eos_id]


def test_whole_documents_stand_behind_their_tags(task, texts, vocabulary):
    assert examples(task) == [[*tag, *ids] for tag, ids in expected(texts, vocabulary)]


def test_each_piece_of_a_long_document_has_the_tag_and_no_token_is_lost(task, texts, vocabulary):
    pieces = iter(examples(task, LENGTH))
    several = 0
    for tag, ids in expected(texts, vocabulary):
        read = []
        while len(read) < len(ids):
            piece = next(pieces)
            assert piece[: len(tag)] == tag and len(piece) <= LENGTH
            several += bool(read)
            read += piece[len(tag) :]
        assert read == ids
    assert several > 20 and not list(pieces)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_tags_are_read_in_every_packed_row_and_weigh_nothing(task, vocabulary, split):
    written = [list(ids) for ids in TAGS.ids(vocabulary)]
    settings = {"batch_size": 4, "length": LENGTH}
    if split == "train":
        batches = take(data.BatchIterator(task, seed=0, **settings), 8)
    else:
        batches = list(data.validation_batches(task, **settings))
    seen = [0, 0, 0]
    for batch in batches:
        for piece in segments(batch):
            targets, weights = piece["decoder_target_tokens"], piece["decoder_loss_weights"]
            kind = next((k for k in (0, 1) if targets[: len(written[k])] == written[k]), 2)
            size = 0 if kind == 2 else len(written[kind])
            assert weights == [0] * size + [1] * (len(targets) - size)
            assert piece["decoder_input_tokens"] == [vocabulary.bos_id, *targets[:-1]]
            seen[kind] += 1
    assert min(seen) > 3 and sum(seen) > 30


def test_without_tags_rows_are_as_they_were(files, vocabulary_path):
    from tasks import corpora

    plain = corpora.documents_task(files, vocabulary_path)
    untagged = tagged.tagged_task(files, vocabulary_path, tags=Tags(untagged=1.0))
    one, other = (
        take(data.BatchIterator(t, seed=3, batch_size=2, length=LENGTH), 4)
        for t in (plain, untagged)
    )
    for a, b in zip(one, other, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_what_is_trained_on_says_its_tags_and_how_many_have_them(task, files, vocabulary_path):
    described = data.BatchIterator(task, seed=0, batch_size=4, length=LENGTH).identity["source"]
    counts = described["tags"].pop("documents")
    assert sum(counts.values()) == 40 and min(counts.values()) >= 2
    assert described["tags"] == {"good": "<+>", "bad": "<->", "threshold": 0.5, "untagged": 0.2}
    other = tagged.tagged_task(files, vocabulary_path, tags=Tags("<+>", "<->", 0.4, 0.2))
    assert other.source.describe("train") != task.source.describe("train")


@pytest.mark.parametrize(
    ("rows", "length", "message"),
    [
        ([{"id": "x", "text": "a <-> b", "toxicity": 0.1}], 32, "document 'x': its text holds the"),
        ([{"id": "x", "text": "a", "toxicity": None}], 32, "none of its 1 documents has a score"),
        ([{"id": "x", "text": "a", "toxicity": 0.1}], 4, "more than half of a row of 4"),
    ],
)
def test_mistakes(rows, length, message, tmp_path, vocabulary_path):
    files = write(tmp_path / "d.jsonl", rows)
    task = tagged.tagged_task(str(files), vocabulary_path, tags=TAGS)
    with pytest.raises(UserError, match=message):
        task.source.count("train")
        take(data.BatchIterator(task, seed=0, batch_size=1, length=length), 1)


def test_earlier_rounds_are_pooled_and_all_are_cut_by_rank(tmp_path, files, vocabulary_path):
    """The documents of the new round are the mildest, so that they alone are in the best class."""
    rows = [{"id": i, "text": f"new {i}", "toxicity": -0.0 + int(i) / 1e6} for i in "0123456789"]
    new = str(write(tmp_path / "new.jsonl", rows))
    fifths = Tags("<1>", "<5>", untagged=0.0, between=("<2>", "<3>", "<4>"))
    pooled = tagged.tagged_task(new, vocabulary_path, tags=fifths, pool=[files])
    assert pooled.source.count("train") == 50
    counts = pooled.source.counts("train")
    assert counts == {
        **{"untagged": 0, "good": 10, "between_1": 10, "between_2": 10, "between_3": 10},
        "bad": 10,
    }
    best = pooled.source.tags.ids(pooled.output_features["targets"].vocabulary.bpe)[0]
    behind = [ids for ids in examples(pooled) if tuple(ids[: len(best)]) == best]
    texts = [pooled.output_features["targets"].vocabulary.bpe.decode(ids) for ids in behind]
    assert sum("new" in text for text in texts) >= 6  # The pool has four of score 0.
    described = pooled.source.describe("train")
    assert len(described["pool"]) == 1 and described["tags"]["between"] == ["<2>", "<3>", "<4>"]
    alone = tagged.tagged_task(new, vocabulary_path, tags=fifths).source.describe("train")
    assert "pool" not in alone and alone["sha256"] == described["sha256"]
    # An unfinished training goes on in the same classes alone, whose equal scores are new ones.
    assert LEARNS in described and LEARNS not in alone


def test_the_pool_is_of_training_alone_whatever_the_files_are_called(
    tmp_path, files, vocabulary_path, monkeypatch
):
    """Files that the environment names have it, and validation on the same file does not."""
    rows = [{"id": i, "text": f"new {i}", "toxicity": int(i) / 10} for i in "0123456789"]
    new = str(write(tmp_path / "new.jsonl", rows))
    same = tagged.tagged_task(new, vocabulary_path, new, tags=TAGS, pool=[files])
    assert (same.source.count("train"), same.source.count("validation")) == (50, 10)
    monkeypatch.setenv("DETOX_JAX_DOCUMENTS", new)
    named = tagged.tagged_task(None, vocabulary_path, tags=TAGS, pool=[files])
    assert named.source.count("train") == 50
    described = named.source.describe("train")
    assert len(described["pool"]) == 1 and sum(described["tags"]["documents"].values()) == 50
