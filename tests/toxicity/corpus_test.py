"""Documents on disk with their numbers in memory, beside the same documents in a list."""

import json
import os
import tracemalloc

import numpy as np
import pytest

from detox_jax import atomic_files, records
from detox_jax.toxicity import corpus, distinct, selections
from detox_jax.toxicity import filter as filters

SELECTIONS = [
    selections.LeastToxic(0.3),
    selections.MostToxic(0.3),
    selections.LeastToxicPerLength(0.5, 3),
    selections.RandomShare(0.4),
    selections.AtMost(0.5),
    distinct.Distinct(),
    distinct.NearDistinct(0.9),
    distinct.Unrepetitive(0.1, 1),
    selections.InTurn([distinct.Distinct(), selections.LeastToxic(0.5)]),
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
    assert written(read, 60) == [b"".join(atomic_files.encode_lines(expected))]
    assert not list(tmp_path.glob("[!i]*")), "the file of lines has no name"


def written(documents, size):
    return [b"".join(shard) for shard in corpus.encoded(documents, size)]


@pytest.mark.parametrize("size", [1, 7, 20, 60, 100])
@pytest.mark.parametrize("at_once", [1, 1000, 1 << 20])
def test_lines_are_written_many_at_a_time(size, at_once, source, tmp_path, monkeypatch):
    """However many are held at once: shards have theirs."""
    monkeypatch.setattr(corpus, "_WRITTEN_AT_ONCE", at_once)
    monkeypatch.setattr(corpus, "_OBJECTS", 100)
    monkeypatch.setattr(corpus, "_REWRITTEN_AT_ONCE", 200)
    read = corpus.read(source, None, str(tmp_path))
    order = corpus.taken(read, np.random.default_rng(0).permutation(60))
    lines = atomic_files.encode_lines(list(order))
    expected = [b"".join(lines[first : first + size]) for first in range(0, 60, size)]
    assert written(order, size) == written(list(order), size) == expected
    assert max(map(len, order.encoded())) == {1: 1, 1000: 6, 1 << 20: 60}[at_once]
    assert written(order[:0], size) == written([], size) == []


@pytest.mark.parametrize("gap", [0, 300, 1 << 20])
@pytest.mark.parametrize("piece", [1, 500, 1 << 20])
def test_lines_that_lie_together_are_read_together(gap, piece, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_GAP", gap)
    monkeypatch.setattr(corpus, "_PIECE", piece)
    given = [b"%d\n" % i * (i % 40 + 1) for i in range(200)]
    sizes = np.array([*map(len, given)])
    lines = corpus.Lines(str(tmp_path))
    starts = np.concatenate(
        [lines.add(b"".join(given[:90]), sizes[:90]), lines.add(b"".join(given[90:]), sizes[90:])]
    )
    lines.flush()
    chosen = np.random.default_rng(0).permutation(200)[:120]
    read, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda *how: read.append(how) or pread(*how))
    assert lines.read(starts[chosen], sizes[chosen]) == [given[i] for i in chosen]
    assert len(read) == 120 if piece == 1 else len(read) < 120
    assert lines.read(starts[:0], sizes[:0]) == []


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
        filters.filter(str(path), str(tmp_path / f"out{words}"), selections.LeastToxic(0.05))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return path.stat().st_size, size

    peak(1)  # What the first call loads is no part of it.
    (_, few), (size, many) = peak(100), peak(1000)
    assert size > 18e6 and many < few + 5e6 < 18e6


@pytest.mark.parametrize("escapes", [True, False])
@pytest.mark.parametrize("apart", ["", "a", " "])
@pytest.mark.parametrize("first", [0, 1])
def test_words_are_what_white_space_parts(apart, first, escapes, tmp_path):
    """Every character of white space, and NUL, which no other text of these holds."""
    texts = [f"{apart}{chr(i)}b{chr(i)}{chr(i)}c{apart}" for i in range(first, 0x3100)]
    texts += ["", " ", "\U0001f600 a", "\\", "\\n", "\\ \n\\n", "\\u0020", "a\U0010fffe\u3000b"]
    texts += ["\ud83d a"] if escapes else []
    path = tmp_path / "in.jsonl"
    rows = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row, ensure_ascii=escapes) + "\n" for row in rows))
    read = corpus.read(str(path), None, str(tmp_path))
    assert list(corpus.words_of(read)) == [len(text.split()) for text in texts]
