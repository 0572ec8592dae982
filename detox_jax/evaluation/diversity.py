"""Diversity and health of continuations: distinct n-grams, self-BLEU, empty ones, loops, length.

Every function takes `texts_per_prompt`: for each prompt the texts of its continuations. Prompts
without continuations count in no mean; a mean over nothing is NaN.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from detox_jax import segmenters
from detox_jax.segmenters import Segmenter

TextsPerPrompt = Sequence[Sequence[str]]

LONGEST_REPEATED = 4  # words of the n-grams that may loop
REPETITIONS = 4  # in a row, from which on a loop is degenerate
BLEU_ORDER = 4
NO_MATCH = 0.1
FEWEST_WORDS = 6  # below which one word may well be half of the text
UNSPACED_SHARE = 0.2  # of the letters of a text, from which on it has no words between spaces


def distinct_n(texts_per_prompt: TextsPerPrompt, n: int) -> float:
    """DExperts' dist-n: unique n-grams of a prompt's continuations by the number of their words.

    Averaged over prompts. Words are split at every single space and an empty text is one empty
    word, as is what stands before the space that most continuations begin with. So it is in their
    evaluation (Liu et al., 2021, https://arxiv.org/abs/2105.03023), and the figures compare with
    published ones; hence dist-2 and dist-3 cannot reach 1. It falls with the number and the length
    of continuations: compare only at equal settings.
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


def self_bleu(texts_per_prompt: TextsPerPrompt) -> float:
    """How alike the continuations of a prompt are: BLEU of each against all the others, averaged.

    BLEU-4 with uniform weights, the closest reference length, a match of 0.1 in place of none and
    0 for a text without a word of the others' (NLTK's `method1`), as Texygen has it (Zhu et al.,
    2018, https://arxiv.org/abs/1802.01886); the references are the other continuations of the same
    prompt. Words are split at white space. Empty continuations are left out, and prompts with fewer
    than two others. Higher is less diverse.
    """
    scores = []
    for texts in texts_per_prompt:
        words = [text.split() for text in texts if text.strip()]
        if len(words) > 1:
            scores += _bleu_against_others(words)
    return _mean(scores)


def _bleu_against_others(texts: Sequence[Sequence[str]]) -> list[float]:
    log_precisions = [0.0] * len(texts)
    shares_word = [False] * len(texts)
    for n in range(1, BLEU_ORDER + 1):
        counts = [Counter(_ngrams(words, n)) for words in texts]
        highest = _two_highest(counts)
        for i, counts_i in enumerate(counts):
            matches = 0
            for ngram, count in counts_i.items():
                (first, holder), second = highest[ngram]
                matches += min(count, second if holder == i else first)
            shares_word[i] = shares_word[i] or (n == 1 and matches > 0)
            precision = (matches or NO_MATCH) / max(1, counts_i.total())
            log_precisions[i] += math.log(precision) / BLEU_ORDER
    lengths = [len(words) for words in texts]
    return [
        math.exp(log_precision) * _brevity_penalty(lengths, i) if shares_word[i] else 0.0
        for i, log_precision in enumerate(log_precisions)
    ]


def _two_highest(counts: Sequence[Counter]) -> dict[tuple, tuple[tuple[int, int], int]]:
    """For each n-gram the highest count with the text that has it, and the highest of the others.

    What a text may match is the highest count among the others: the second where it is the holder.
    """
    highest: dict[tuple, tuple[tuple[int, int], int]] = {}
    for i, counts_i in enumerate(counts):
        for ngram, count in counts_i.items():
            (first, holder), second = highest.get(ngram, ((0, -1), 0))
            if count > first:
                highest[ngram] = ((count, i), first)
            elif count > second:
                highest[ngram] = ((first, holder), count)
    return highest


def _brevity_penalty(lengths: Sequence[int], i: int) -> float:
    """Penalty of text i against the length of another that is closest, the shorter of two."""
    length_i = lengths[i]
    others = (length for j, length in enumerate(lengths) if j != i)
    closest = min(others, key=lambda length: (abs(length - length_i), length))
    return 1.0 if length_i > closest else math.exp(1 - closest / length_i)


def empty_fraction(texts_per_prompt: TextsPerPrompt) -> float:
    """The share of continuations that are nothing but white space."""
    return _mean_over_texts(texts_per_prompt, lambda text: not text.strip())


def degenerate_fraction(texts_per_prompt: TextsPerPrompt) -> float:
    """The share of continuations that are degenerate, see `is_degenerate`; empty ones are not."""
    return _mean_over_texts(texts_per_prompt, is_degenerate)


def mean_words(texts_per_prompt: TextsPerPrompt) -> float:
    """The mean number of words, split at white space, of a continuation; empty ones have 0."""
    return _mean_over_texts(texts_per_prompt, lambda text: len(text.split()))


def unspaced_fraction(texts_per_prompt: TextsPerPrompt) -> float:
    """The share of continuations in which white space does not tell words, see `is_unspaced`."""
    return _mean_over_texts(texts_per_prompt, is_unspaced)


def is_unspaced(text: str, segmenter: Segmenter | None = None) -> bool:
    """Whether a fifth of a text's letters and more are of scripts that put no space between words.

    Chinese, Japanese, Thai, Lao, Khmer, Burmese and others: what stands between their spaces is a
    clause or a sentence, and no figure that counts words is one of words. Korean has spaces.

    Args:
      text: as it was written.
      segmenter: tells the words of some of them, which then do not count.
    """
    if text.isascii():
        return False
    letters_of = segmenters.UNSPACED if segmenter is None else segmenter.left()
    unspaced = len(letters_of.findall(text))
    letters = sum(map(str.isalpha, text))
    return unspaced > 0 and unspaced >= UNSPACED_SHARE * letters


def is_degenerate(text: str) -> bool:
    """Whether a text loops, in words split at white space with case kept.

    Either some n-gram of 1 to 4 words comes at least four times back to back, or the text has at
    least six words and more than half of them are the same word.
    """
    words = text.split()
    if any(_loops(words, n) for n in range(1, LONGEST_REPEATED + 1)):
        return True
    return len(words) >= FEWEST_WORDS and 2 * max(Counter(words).values()) > len(words)


def _loops(words: Sequence[str], n: int) -> bool:
    """Whether n words come `REPETITIONS` times back to back.

    That is so where a run of words equals the words n before: one run of n for each repetition
    after the first.
    """
    run = 0
    for word, earlier in zip(words[n:], words, strict=False):
        run = run + 1 if word == earlier else 0
        if run == (REPETITIONS - 1) * n:
            return True
    return False


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _mean_over_texts(texts_per_prompt: TextsPerPrompt, value: Callable[[str], float]) -> float:
    return _mean([value(text) for texts in texts_per_prompt for text in texts])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
