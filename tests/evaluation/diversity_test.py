"""Distinct n-grams, empty and degenerate continuations, by hand."""

import math
import random

import pytest

from detox_jax.evaluation import diversity


def test_distinct_n_divides_by_words():
    texts = [["a b a b", "a b c"], ["d d"]]
    # First prompt: 7 words; {a b c}, {ab ba bc}, {aba bab abc}. Second: 2 words; {d}, {dd}, {}.
    assert diversity.distinct_n(texts, 1) == pytest.approx((3 / 7 + 1 / 2) / 2)
    assert diversity.distinct_n(texts, 2) == pytest.approx((3 / 7 + 1 / 2) / 2)
    assert diversity.distinct_n(texts, 3) == pytest.approx((3 / 7 + 0) / 2)


def test_distinct_n_splits_at_every_single_space():
    # "", "the", "bus\nis" and the one empty word of the empty text: 4 words, 3 of them unique.
    assert diversity.distinct_n([[" the bus\nis", ""]], 1) == 3 / 4


def test_distinct_n_per_ngram_divides_by_ngrams():
    texts = [["a b a b", "a b c"], ["d"]]
    # 5 bigrams, of which ab, ba and bc are unique; the second prompt has none.
    assert diversity.distinct_n_per_ngram(texts, 2) == 3 / 5
    assert diversity.distinct_n_per_ngram(texts, 1) == pytest.approx((3 / 7 + 1) / 2)
    assert diversity.distinct_n_per_ngram([["a  b\nb"]], 1) == 2 / 3


def test_self_bleu_by_hand():
    # "a b c d" against "a b c e": 3/4, 2/3, 1/2, and 0.1 in place of no match of one 4-gram.
    bleu = (3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** (1 / 4)
    assert diversity.self_bleu([["a b c d", "a b c e"]]) == pytest.approx(bleu)
    assert diversity.self_bleu([["a b c d", "a b c d", ""]]) == pytest.approx(1.0)
    # The shorter text is penalised, the longer one is not.
    short = (1 * 1 * 1 * 0.1) ** (1 / 4) * math.exp(1 - 4 / 3)
    long = (3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** (1 / 4)
    expected = (short + long) / 2
    assert diversity.self_bleu([["a b c", "a b c d"]]) == pytest.approx(expected)
    assert math.isnan(diversity.self_bleu([["alone"], ["", ""]]))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["hello", "goodbye", "thanks"], 0.0),
        (["a b c d e", "f g h i j", "k l m n o"], 0.0),
        (["a b c d e", "a b c d e", "k l m n o"], 2 / 3),  # the third shares nothing
    ],
)
def test_self_bleu_of_texts_that_share_nothing_is_none(texts, expected):
    """NLTK's `method1` gives 0 where no word is shared, and 0.1 in place of no longer n-gram."""
    assert diversity.self_bleu([texts]) == pytest.approx(expected)


def test_self_bleu_equals_nltk():
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    generator = random.Random(0)
    texts = [[generator.choice("a b c d e".split()) for _ in range(n)] for n in range(1, 15)]
    smooth = bleu.SmoothingFunction().method1
    expected = [
        bleu.sentence_bleu(texts[:i] + texts[i + 1 :], words, smoothing_function=smooth)
        for i, words in enumerate(texts)
    ]
    joined = [" ".join(words) for words in texts]
    assert diversity.self_bleu([joined]) == pytest.approx(sum(expected) / len(expected))


def test_ngrams_do_not_cross_continuations():
    assert diversity.distinct_n([["a", "b"]], 2) == 0.0


def test_distinct_n_ignores_the_order_of_prompts():
    texts = [["a b c", "a b"], ["x y z x", "x"], ["m"]]
    for n in (1, 2, 3):
        assert diversity.distinct_n(texts, n) == pytest.approx(diversity.distinct_n(texts[::-1], n))


@pytest.mark.parametrize(
    ("text", "degenerate"),
    [
        ("no no no no", True),
        ("no no no", False),
        ("well ha ha ha ha then", True),
        ("you jerk you jerk you jerk you jerk", True),
        ("oh you jerk you jerk you jerk you", False),
        ("a b c a b c a b c a b c", True),
        ("a b c a b c a b c a b", False),
        ("a b c d a b c d a b c d a b c d", True),
        ("a b c d a b c d a b c d a b c", False),
        ("a b c d e a b c d e a b c d e a b c d e", False),
        ("so a so b so so c", True),  # 4 of 7 words
        ("so a so b so c", False),  # exactly half
        ("so a so so b", False),  # 3 of 5, but fewer than six words
        ("No no NO no", False),
        ("", False),
        ("The bus was late again this morning.", False),
    ],
)
def test_is_degenerate(text, degenerate):
    assert diversity.is_degenerate(text) is degenerate


def test_means_are_over_continuations():
    texts = [["", "  \n", "one two"], ["no no no no"], []]
    assert diversity.empty_fraction(texts) == 2 / 4
    assert diversity.degenerate_fraction(texts) == 1 / 4
    assert diversity.mean_words(texts) == 6 / 4


def test_nothing_is_nan():
    assert math.isnan(diversity.distinct_n([], 1))
    assert math.isnan(diversity.distinct_n([[]], 1))
    assert math.isnan(diversity.distinct_n_per_ngram([[""]], 1))
    assert math.isnan(diversity.empty_fraction([[]]))
    assert math.isnan(diversity.mean_words([]))
