"""Selections that take out repetition."""

import importlib.util

import numpy as np
import pytest

from detox_jax import records
from detox_jax.errors import UserError
from detox_jax.toxicity import distinct

needs_datasketch = pytest.mark.skipif(
    importlib.util.find_spec("datasketch") is None, reason="needs the extra duplicates"
)
PASSAGE = "the ferry was late and the people at the pier had long begun to sing of other boats"


def select(selection, texts):
    """Which of the texts stay; ids whose order is that of their hashes make the first stay."""
    ids = sorted((f"d{i}" for i in range(len(texts))), key=records.stable_hash)
    documents = [records.Document(*pair) for pair in zip(ids, texts, strict=True)]
    kept = selection.select(documents, np.random.default_rng(0))
    assert kept == [d for d in documents if d in kept]  # in the order of the input
    backwards = selection.select(documents[::-1], np.random.default_rng(0))
    assert {d.id for d in kept} == {d.id for d in backwards}
    return [texts[ids.index(d.id)] for d in kept]


def test_of_equal_texts_one_stays():
    texts = ["A  word.", "a word.", "another", "a\nWord.", "another one"]
    assert select(distinct.Distinct(), texts) == ["A  word.", "another", "another one"]


@needs_datasketch
def test_of_near_copies_one_stays_and_what_is_alike_by_half_is_another_text():
    near = PASSAGE.replace("sing", "talk") + " and of the sea that was so calm that day"
    texts = [PASSAGE, PASSAGE.upper(), near, "something else altogether is said of it here"]
    # Of 29 shingles both have 13: more than 0.3, less than 0.8.
    assert select(distinct.NearDistinct(0.8), texts) == [texts[0], texts[2], texts[3]]
    assert select(distinct.NearDistinct(0.3), texts) == [texts[0], texts[3]]


@needs_datasketch
def test_a_similarity_is_just_that_of_the_shingles():
    # Runs of one word: 8 of 10 words are common.
    one, other = "a b c d e f g h i", "a b c d e f g h j"
    assert select(distinct.NearDistinct(0.8, words=1), [one, other]) == [one]
    assert select(distinct.NearDistinct(0.81, words=1), [one, other]) == [one, other]
    assert select(distinct.NearDistinct(1.0, words=1), [one, other, one]) == [one, other]


@needs_datasketch
def test_short_texts_are_one_shingle():
    assert select(distinct.NearDistinct(), ["yes", "no", "Yes", "yes no"]) == [
        "yes",
        "no",
        "yes no",
    ]


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(distinct.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs datasketch: pip install 'detox-jax\[duplicates\]'"):
        distinct.NearDistinct()
    with pytest.raises(UserError, match="similarity is 0; must be above 0"):
        distinct.NearDistinct(0)


def test_texts_that_go_round_in_circles_go():
    circle = "you are so " * 10
    # Its 28 runs of three words are 3 different ones: 0.893 of them stood before.
    assert select(distinct.Unrepetitive(), [PASSAGE, circle, "a b", ""]) == [PASSAGE, "a b", ""]
    assert select(distinct.Unrepetitive(0.893), [circle]) == [circle]
    assert select(distinct.Unrepetitive(0.892), [circle]) == []
