"""Diversity and health of continuations: distinct n-grams, empty and degenerate ones, length.

Every function takes `texts_per_prompt`: for each prompt the texts of its continuations. Prompts
without continuations count in no mean; a mean over nothing is NaN.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

TextsPerPrompt = Sequence[Sequence[str]]

_LONGEST_REPEATED = 4  # words of the n-grams that may loop
_REPETITIONS = 4  # in a row, from which on a loop is degenerate
_FEWEST_WORDS = 6  # below which one word may well be half of the text


def distinct_n(texts_per_prompt: TextsPerPrompt, n: int) -> float:
    """DExperts' dist-n: unique n-grams of a prompt's continuations by the number of their words.

    Averaged over prompts. Words are split at every single space and an empty text is one empty
    word, as in their evaluation (Liu et al., 2021, https://arxiv.org/abs/2105.03023), so that the
    figures compare with published ones; hence dist-2 and dist-3 cannot reach 1. It falls with the
    number and the length of continuations: compare only at equal settings.
    """

    def ratio(texts: Sequence[str]) -> float:
        words = [text.split(" ") for text in texts]
        unique = {ngram for text in words for ngram in _ngrams(text, n)}
        return len(unique) / sum(map(len, words))

    return _mean([ratio(texts) for texts in texts_per_prompt if texts])


def distinct_n_per_ngram(texts_per_prompt: TextsPerPrompt, n: int) -> float:
    """Unique n-grams by the number of n-grams of a prompt's continuations, averaged over prompts.

    The definition of Li et al. (2016, https://arxiv.org/abs/1510.03055) taken prompt by prompt;
    words are split at white space. Prompts without any n-gram are left out.
    """
    ratios = []
    for texts in texts_per_prompt:
        ngrams = [ngram for text in texts for ngram in _ngrams(text.split(), n)]
        if ngrams:
            ratios.append(len(set(ngrams)) / len(ngrams))
    return _mean(ratios)


def empty_fraction(texts_per_prompt: TextsPerPrompt) -> float:
    """The share of continuations that are nothing but white space."""
    return _mean_over_texts(texts_per_prompt, lambda text: not text.strip())


def degenerate_fraction(texts_per_prompt: TextsPerPrompt) -> float:
    """The share of continuations that are degenerate, see `is_degenerate`; empty ones are not."""
    return _mean_over_texts(texts_per_prompt, is_degenerate)


def mean_words(texts_per_prompt: TextsPerPrompt) -> float:
    """The mean number of words, split at white space, of a continuation; empty ones have 0."""
    return _mean_over_texts(texts_per_prompt, lambda text: len(text.split()))


def is_degenerate(text: str) -> bool:
    """Whether a text loops, in words split at white space with case kept.

    Either some n-gram of 1 to 4 words comes at least four times back to back, or the text has at
    least six words and more than half of them are the same word.
    """
    words = text.split()
    if any(_loops(words, n) for n in range(1, _LONGEST_REPEATED + 1)):
        return True
    return len(words) >= _FEWEST_WORDS and 2 * max(Counter(words).values()) > len(words)


def _loops(words: Sequence[str], n: int) -> bool:
    """Whether n words come `_REPETITIONS` times back to back.

    That is so where a run of words equals the words n before: one run of n for each repetition
    after the first.
    """
    run = 0
    for word, earlier in zip(words[n:], words, strict=False):
        run = run + 1 if word == earlier else 0
        if run == (_REPETITIONS - 1) * n:
            return True
    return False


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _mean_over_texts(texts_per_prompt: TextsPerPrompt, value: Callable[[str], float]) -> float:
    return _mean([value(text) for texts in texts_per_prompt for text in texts])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
