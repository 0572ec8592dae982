"""Runs that were seen before: texts read by them against texts read letter by letter."""

import concurrent.futures

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detox_jax.toxicity import letters, ngram, ngram_runs

SCORER = ngram.NgramScorer()
TEXTS = [
    "You are an idiot, you know.",
    "",
    "...",
    "1984 2 be",
    "i a m s p a c e d, u.s. a b",
    "a2b2c x a2b ooo n e",
    "one\ntwo\0three f**k d*mb* \u0455tupid 1d10t don't",
    "x" * 200,
]


def check(runs, texts):
    sums_NK, counts_NK = runs.read(texts)
    expected = SCORER._read(texts)
    np.testing.assert_array_equal(sums_NK, expected.sums_NK)
    np.testing.assert_array_equal(counts_NK, expected.counts_NK)


def seen_runs(read=SCORER._read):
    return ngram_runs.SeenRuns(read, SCORER._weigh_pairs)


def test_texts_by_their_runs_read_as_letter_by_letter():
    runs = seen_runs()
    check(runs, TEXTS)
    check(runs, TEXTS[::-1])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet="abI1!*2'.  \0\u00e9\u0430", max_size=14), min_size=1, max_size=4))
def test_any_texts_by_their_runs_read_as_letter_by_letter(texts):
    check(SCORER._runs, texts)


def test_a_run_is_read_once():
    read = []

    def counting(texts):
        read.extend(texts)
        return SCORER._read(texts)

    runs = seen_runs(counting)
    runs.read(["a fine day", "A day, a fine one"] * 100)
    assert sorted(read) == ["", "a", "day", "fine", "one"]
    runs.read(["One fine day"])
    assert len(read) == 5


def test_letters_spaced_out_over_runs_are_read_as_a_text():
    read = []

    def counting(texts):
        read.append(list(texts))
        return SCORER._read(texts)

    seen_runs(counting).read(["a b", "so a b c it is", "x"])
    assert read[-1] == ["so a b c it is"]


@pytest.mark.parametrize("name", ["_MOST_RUNS", "_MOST_CHARACTERS"])
def test_what_is_let_go_is_read_again(monkeypatch, name):
    monkeypatch.setattr(ngram_runs, name, 3)
    runs = seen_runs()
    for text in TEXTS:
        check(runs, [text])
        check(runs, [text, text])
    assert len(runs._places) < 12


def test_an_interrupted_reading_leaves_nothing_behind():
    interrupted = []

    def read(texts):
        if "two" in texts and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return SCORER._read(texts)

    runs = seen_runs(read)
    runs.read(["one"])
    with pytest.raises(KeyboardInterrupt):
        runs.read(["two three"])
    check(runs, ["three two one"])


def test_several_threads_get_the_scores_of_one():
    texts = [f"text {i} of some that differ, you {'fool' * (i % 3)}" for i in range(2000)]
    expected = ngram.NgramScorer().score(texts)
    scorer = ngram.NgramScorer()
    parts = [texts[first : first + 100] for first in range(0, len(texts), 100)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        scores = [score for part in pool.map(scorer.score, parts) for score in part]
    assert scores == expected


def test_runs_lie_between_what_parts_texts():
    assert letters.read_runs(["It's 2 b@d,\0no?", "", "\u00e9t\u00e9"]) == [
        b"\0",
        *(b"its", b"2", b"b@d", b"no"),
        b"\0",
        b"\0",
        b"ete",
    ]
