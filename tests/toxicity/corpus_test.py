"""Documents on disk with their numbers in memory, beside the same documents in a list."""

import json
import tracemalloc

import numpy as np
import pytest

from detox_jax import atomic_files, records
from detox_jax.toxicity import corpus, distinct
from detox_jax.toxicity import filter as filters

SELECTIONS = [
    filters.LeastToxic(0.3),
    filters.MostToxic(0.3),
    filters.LeastToxicPerLength(0.5, 3),
    filters.RandomShare(0.4),
    filters.AtMost(0.5),
    distinct.Distinct(),
    distinct.NearDistinct(0.9),
    distinct.Unrepetitive(0.1, 1),
    filters.InTurn([distinct.Distinct(), filters.LeastToxic(0.5)]),
]
WORDS = ("one", "two", "é", '"three"', "four\n")


@pytest.fixture
def source(tmp_path):
    """Plain documents, some of them equal, and behind them others."""
    texts = [" ".join([WORDS[i % 5]] * (i % 4 + 1)) for i in range(60)]
    rows = [{"id": str(i), "text": t, "toxicity": i % 7 / 7} for i, t in enumerate(texts)]
    rows[40] |= {"unreadable": False, "n": 1}
    rows[41]["toxicity"] = None
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_it_is_the_sequence_of_what_was_read(source, tmp_path):
    expected = list(records.read_documents(source))
    read = corpus.read(source, None, str(tmp_path))
    assert list(read) == [read[i] for i in range(60)] == expected
    assert (read[-1], list(read[3:5])) == (expected[-1], expected[3:5])
    with pytest.raises(IndexError):
        read[60]
    assert list(corpus.words_of(read)) == list(corpus.words_of(expected))
    assert list(corpus.hashes_of(read)) == [records.stable_hash(d.id) for d in expected]
    np.testing.assert_array_equal(corpus.toxicity_of(read), corpus.toxicity_of(expected))
    assert b"".join(corpus.encoded(read)) == b"".join(atomic_files.encode_lines(expected))
    assert not list(tmp_path.glob("[!i]*")), "the file of lines has no name"


def test_lines_are_written_many_at_a_time(source, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_READ_AT_ONCE", 25)
    read = corpus.read(source, None, str(tmp_path))
    order = corpus.taken(read, np.random.default_rng(0).permutation(60))
    blocks = list(corpus.encoded(order))
    assert [block.count(b"\n") for block in blocks] == [25, 25, 10]
    assert b"".join(blocks) == b"".join(atomic_files.encode_lines(list(order)))


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda s: type(s).__name__)
def test_selections_choose_the_same_as_of_a_list(selection, source, tmp_path):
    read = corpus.read(source, None, str(tmp_path))
    scored = corpus.taken(read, np.flatnonzero(~np.isnan(corpus.toxicity_of(read))))
    chosen = selection.select(scored, np.random.default_rng(3))
    in_memory = selection.select(list(scored), np.random.default_rng(3))
    assert isinstance(chosen, corpus.Corpus) and isinstance(in_memory, list)
    assert list(chosen) == in_memory and 0 < len(chosen) < 60


@pytest.mark.slow
def test_memory_does_not_grow_with_the_texts(tmp_path):
    """Ten times the text, and hardly more of it held: a block at a time, and a shard."""

    def peak(words):
        path = tmp_path / f"{words}.jsonl"
        with path.open("w") as file:
            for i in range(4000):
                file.write(json.dumps({"id": str(i), "text": "word " * words, "toxicity": 0.1}))
                file.write("\n")
        tracemalloc.start()
        filters.filter(str(path), str(tmp_path / f"out{words}"), filters.LeastToxic(0.05))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return path.stat().st_size, size

    peak(1)  # What the first call loads is no part of it.
    (_, few), (size, many) = peak(100), peak(1000)
    assert size > 18e6 and many < few + 5e6 < 18e6


@pytest.mark.parametrize("apart", ["", "a", " "])
@pytest.mark.parametrize("first", [0, 1])
def test_words_are_what_white_space_parts(apart, first, tmp_path):
    """Every character of white space, and NUL, which no other text of these holds."""
    texts = [f"{apart}{chr(i)}b{chr(i)}{chr(i)}c{apart}" for i in range(first, 0x3100)]
    texts += ["", " ", "\ud83d a"]
    path = tmp_path / "in.jsonl"
    rows = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = corpus.read(str(path), None, str(tmp_path))
    assert list(corpus.words_of(read)) == [len(text.split()) for text in texts]
