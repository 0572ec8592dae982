"""The figures of `diversity` of very many prompts: every text is read once, many prompts at a time.

`diversity` says what each figure is, one text after the other; here the words of some hundred
prompts are numbers in one array, and what is counted is counted by sorting. What is left of a
prompt are sums, so that the figures of any split of the prompts follow without its texts.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from detox_jax import records, segmenters
from detox_jax.evaluation import diversity, metrics
from detox_jax.formats import plain_prompts
from detox_jax.segmenters import Segmenter

_CHUNK = 1 << 16  # words counted at once: their arrays stay in the processor's cache
_KEY_BITS = 63
DISTINCT_ORDERS = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class TextQuality:
    """What the texts of each prompt are like: sums over its continuations, a row a prompt.

    Attributes:
      texts_P: continuations.
      empty_P: of them nothing but white space.
      degenerate_P: of them degenerate (`diversity.is_degenerate`).
      words_P: words of all, split at white space.
      bleu_P: the sum of the BLEU of each against the others (`diversity.self_bleu`).
      bleu_texts_P: how many have such a BLEU.
      distinct_PN: `diversity.distinct_n` of the prompt, n from 1 to 3; NaN without a continuation.
      distinct_per_ngram_PN: `diversity.distinct_n_per_ngram` of it; NaN without an n-gram.
      tokens_P: the sum of the "num_tokens" of those that have it, as a number.
      counted_P: how many have it.
      stops_P: whose "finish" is "stop".
      finished_P: how many have a "finish".
      unspaced_P: in which white space does not tell words (`diversity.is_unspaced`).
    """

    texts_P: np.ndarray
    empty_P: np.ndarray
    degenerate_P: np.ndarray
    words_P: np.ndarray
    bleu_P: np.ndarray
    bleu_texts_P: np.ndarray
    distinct_PN: np.ndarray
    distinct_per_ngram_PN: np.ndarray
    tokens_P: np.ndarray
    counted_P: np.ndarray
    stops_P: np.ndarray
    finished_P: np.ndarray
    unspaced_P: np.ndarray

    def rows(self, rows: np.ndarray) -> TextQuality:
        """Those prompts, by index or mask, in that order."""
        return TextQuality(**{name: column[rows] for name, column in vars(self).items()})

    @classmethod
    def concatenate(cls, parts: Sequence[TextQuality]) -> TextQuality:
        """The prompts of all parts."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    @property
    def distinct(self) -> tuple[float, ...]:
        """`diversity.distinct_n`, n from 1 to 3."""
        return tuple(map(metrics.mean, self.distinct_PN.T))

    @property
    def distinct_per_ngram(self) -> tuple[float, ...]:
        """`diversity.distinct_n_per_ngram`, n from 1 to 3."""
        return tuple(map(metrics.mean, self.distinct_per_ngram_PN.T))

    @property
    def self_bleu(self) -> float:
        """`diversity.self_bleu`."""
        return _ratio(self.bleu_P, self.bleu_texts_P)

    @property
    def empty_fraction(self) -> float:
        """`diversity.empty_fraction`."""
        return _ratio(self.empty_P, self.texts_P)

    @property
    def degenerate_fraction(self) -> float:
        """`diversity.degenerate_fraction`."""
        return _ratio(self.degenerate_P, self.texts_P)

    @property
    def unspaced_fraction(self) -> float:
        """`diversity.unspaced_fraction`."""
        return _ratio(self.unspaced_P, self.texts_P)

    @property
    def mean_words(self) -> float:
        """`diversity.mean_words`."""
        return _ratio(self.words_P, self.texts_P)

    @property
    def mean_tokens(self) -> float:
        """New tokens a continuation, of those that say how many; NaN where none does."""
        return _ratio(self.tokens_P, self.counted_P)

    @property
    def early_stop_fraction(self) -> float:
        """The share that ended before the limit of tokens; NaN where none says how it ended."""
        return _ratio(self.stops_P, self.finished_P)


class TextReader:
    """Takes prompts one by one, or by the block, and keeps sums alone.

    Args:
      segmenter: of words; white space alone where None.
    """

    def __init__(self, segmenter: Segmenter | None = None) -> None:
        self._segmenter = segmenter
        self._waiting = _Waiting(segmenter)
        self._parts: list[TextQuality] = []

    def add(self, generations: Sequence[records.Generation]) -> None:
        """The continuations of the next prompt."""
        tokens = [x for g in generations if _is_number(x := g.extra.get("num_tokens"))]
        ends = [x for g in generations if (x := g.extra.get("finish")) is not None]
        stops = [end == "stop" for end in ends]
        self._waiting.add([generation.text for generation in generations], [len(generations)])
        said = (sum(tokens), len(tokens), sum(stops), len(stops))
        for values, value in zip(self._waiting.said, said, strict=True):
            values.append(value)
        self._count(_CHUNK)

    def add_plain(self, block: plain_prompts.Plain) -> None:
        """The continuations of the next prompts."""
        self._waiting.add(block.continuations, block.counts)
        prompt_T = np.repeat(np.arange(len(block)), block.counts)
        has_tokens_T = ~np.isnan(block.tokens_T)
        said_T = (
            np.where(has_tokens_T, block.tokens_T, 0),
            has_tokens_T,
            np.array([finish == "stop" for finish in block.finish], bool),
            np.array([finish is not None for finish in block.finish], bool),
        )
        for values, value_T in zip(self._waiting.said, said_T, strict=True):
            values += np.bincount(prompt_T, value_T, len(block)).tolist()
        self._count(_CHUNK)

    def finish(self) -> TextQuality:
        """The rows of all prompts, in the order in which they came."""
        self._count(0)
        return TextQuality.concatenate(self._parts)

    def _count(self, from_words: int) -> None:
        if len(self._waiting.words) >= from_words:
            self._parts.append(_quality(self._waiting))
            self._waiting = _Waiting(self._segmenter)


class _Waiting:
    """Some prompts' texts, as what stands between their single spaces.

    Attributes:
      counts: continuations a prompt.
      words: of all texts, one behind the other.
      lengths: words a text.
      unspaced: whether white space does not tell a text's words.
      said: for each prompt what is said of its continuations' tokens: the sum of "num_tokens", of
        how many, and how many of those with a "finish" stopped, of how many.
    """

    def __init__(self, segmenter: Segmenter | None) -> None:
        self._segmenter = segmenter
        self.counts: list[int] = []
        self.words: list[str] = []
        self.lengths: list[int] = []
        self.unspaced: list[bool] = []
        self.said: tuple[list[float], ...] = ([], [], [], [])

    def add(self, texts: Sequence[str], counts: Sequence[int]) -> None:
        self.counts += counts
        if texts:
            self.unspaced += [diversity.is_unspaced(text, self._segmenter) for text in texts]
            texts = [segmenters.spaced(text, self._segmenter) for text in texts]
            # A space between two texts parts their words as one within a text does.
            self.words += " ".join(texts).split(" ")
            self.lengths += [text.count(" ") + 1 for text in texts]

    def streams(self) -> tuple[_Stream, _Stream]:
        """As numbers: split at white space, and at every single space.

        White space splits a text where it splits what stands between the spaces: nothing where that
        is empty, one word or, around a line break, several.
        """
        number: dict[str, int] = defaultdict(itertools.count().__next__)
        spaced_W = np.fromiter(map(number.__getitem__, self.words), np.int64, len(self.words))
        # All white space but the space is what cannot be printed; most words have none.
        odd = {
            i: word.split() for i, word in enumerate(number) if not (word and word.isprintable())
        }
        counts_V = np.ones(len(number), np.int64)
        counts_V[[*odd]] = [*map(len, odd.values())]
        starts_V = np.cumsum(counts_V) - counts_V
        is_odd_V = np.zeros(len(number), bool)
        is_odd_V[[*odd]] = True
        flat_F = np.repeat(np.arange(len(number)), counts_V)
        flat_F[is_odd_V[flat_F]] = [number[word] for words in odd.values() for word in words]
        length_T = np.array(self.lengths, np.int64)
        prompt_T = np.repeat(np.arange(len(self.counts)), self.counts)
        spaced = _Stream.of(spaced_W, length_T, prompt_T, len(number))
        counts_W = counts_V[spaced_W]
        ends_W = np.cumsum(counts_W)
        places = np.repeat(starts_V[spaced_W] - (ends_W - counts_W), counts_W)
        word_W = flat_F[places + np.arange(places.size)]
        words_T = np.bincount(spaced.text_W, counts_W, length_T.size).astype(np.int64)
        return _Stream.of(word_W, words_T, prompt_T, len(number)), spaced


@dataclasses.dataclass(frozen=True)
class _Stream:
    """Texts (T) one after the other as the numbers of their words (W)."""

    word_W: np.ndarray
    text_W: np.ndarray
    length_T: np.ndarray
    prompt_T: np.ndarray
    word_bits: int

    @classmethod
    def of(
        cls, word_W: np.ndarray, length_T: np.ndarray, prompt_T: np.ndarray, num_words: int
    ) -> _Stream:
        text_W = np.repeat(np.arange(length_T.size), length_T)
        return cls(word_W, text_W, length_T, prompt_T, _bits_of(num_words))


def _quality(waiting: _Waiting) -> TextQuality:
    stream, spaced = waiting.streams()
    num_prompts = len(waiting.counts)
    texts_P = np.array(waiting.counts, np.int64)
    bleu_T, in_bleu_T, unique_NP, degenerate_T = _compare(stream, num_prompts)
    spaced_unique_NP = [
        _runs(grams, spaced).distinct(num_prompts)
        for grams in itertools.islice(_grams(spaced), len(DISTINCT_ORDERS))
    ]

    def total(values_T: np.ndarray) -> np.ndarray:
        return np.bincount(stream.prompt_T, values_T, num_prompts)

    ngrams_NP = [total(np.maximum(0, stream.length_T - n + 1)) for n in DISTINCT_ORDERS]
    spaced_words_P = total(spaced.length_T)
    tokens_P, counted_P, stops_P, finished_P = (np.array(of, np.float64) for of in waiting.said)
    return TextQuality(
        texts_P=texts_P,
        empty_P=total(stream.length_T == 0),
        degenerate_P=total(degenerate_T),
        words_P=total(stream.length_T),
        bleu_P=total(bleu_T),
        bleu_texts_P=total(in_bleu_T),
        distinct_PN=np.stack([metrics.divide(u, spaced_words_P) for u in spaced_unique_NP], axis=1),
        distinct_per_ngram_PN=np.stack(
            [metrics.divide(*pair) for pair in zip(unique_NP, ngrams_NP, strict=False)], axis=1
        ),
        tokens_P=tokens_P,
        counted_P=counted_P,
        stops_P=stops_P,
        finished_P=finished_P,
        unspaced_P=total(np.array(waiting.unspaced, bool)),
    )


def _compare(
    stream: _Stream, num_prompts: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray]:
    """BLEU of each text against the others of its prompt, and what its n-grams say else.

    Returns:
      BLEU [T], 0 where there is none; whether there is one [T]; the number of different n-grams
      [P] for n from 1 to 4; and whether a text is degenerate [T].
    """
    length_T = stream.length_T
    others_P = np.bincount(stream.prompt_T, length_T > 0, num_prompts)
    in_bleu_T = (length_T > 0) & (others_P[stream.prompt_T] > 1)
    log_precision_T = np.zeros(length_T.size)
    shares_word_T = np.zeros(length_T.size, bool)
    most_frequent_T = np.zeros(length_T.size, np.int64)
    unique = []
    for n, grams in enumerate(_grams(stream), start=1):
        runs = _runs(grams, stream)
        matches_T = runs.matches(length_T.size)
        unique.append(runs.distinct(num_prompts))
        if n == 1:
            shares_word_T = matches_T > 0
            np.maximum.at(most_frequent_T, runs.text_R, runs.count_R)
        counted_T = np.maximum(1, length_T - n + 1)
        matched_T = np.where(matches_T > 0, matches_T, diversity.NO_MATCH)
        log_precision_T += np.log(matched_T / counted_T) / diversity.BLEU_ORDER
    bleu_T = np.exp(log_precision_T) * _brevity_penalty(stream, in_bleu_T)
    half_T = (length_T >= diversity.FEWEST_WORDS) & (2 * most_frequent_T > length_T)
    return (
        np.where(in_bleu_T & shares_word_T, bleu_T, 0.0),
        in_bleu_T,
        unique,
        half_T | _loops(stream),
    )


@dataclasses.dataclass(frozen=True)
class _Grams:
    """The n-grams that lie within a text (G): a number for the words of each, and its text."""

    gram_G: np.ndarray
    text_G: np.ndarray
    bits: int


def _grams(stream: _Stream):
    """Yields the n-grams for n from 1 on; equal ones of any two texts have the same number."""
    gram_W, bits = stream.word_W, stream.word_bits
    for n in range(1, diversity.BLEU_ORDER + 1):
        if n > 1:
            if bits + stream.word_bits + _bits_of(stream.length_T.size) > _KEY_BITS:
                distinct, gram_W = np.unique(gram_W, return_inverse=True)
                bits = _bits_of(distinct.size)
            # Those that go beyond their text are left out below.
            gram_W = gram_W[:-1] << stream.word_bits | stream.word_W[n - 1 :]
            bits += stream.word_bits
        within_W = stream.text_W[: gram_W.size] == stream.text_W[n - 1 :]
        yield _Grams(gram_W[within_W], stream.text_W[: gram_W.size][within_W], bits)


@dataclasses.dataclass(frozen=True)
class _Runs:
    """Different n-grams of different texts (R), by n-gram and then by text.

    Attributes:
      text_R: the text.
      count_R: how often it has the n-gram.
      starts_R: whether it is the first text of its prompt with the n-gram.
      prompt_T: the prompt of each text.
    """

    text_R: np.ndarray
    count_R: np.ndarray
    starts_R: np.ndarray
    prompt_T: np.ndarray

    def distinct(self, num_prompts: int) -> np.ndarray:
        """The number of different n-grams of each prompt, [P]."""
        return np.bincount(self.prompt_T[self.text_R[self.starts_R]], minlength=num_prompts)

    def matches(self, num_texts: int) -> np.ndarray:
        """How many n-grams of each text the other texts of its prompt have as often, [T].

        An n-gram matches as often as the other text has it that has it most often.
        """
        alone_R = self.starts_R & np.append(self.starts_R[1:], True)
        text_R, count_R = self.text_R[~alone_R], self.count_R[~alone_R]
        starts_R = self.starts_R[~alone_R]
        if not text_R.size:
            return np.zeros(num_texts)
        first_S, shared_R = np.flatnonzero(starts_R), np.cumsum(starts_R) - 1
        highest_R = np.maximum.reduceat(count_R, first_S)[shared_R]
        holds_R = count_R == highest_R
        holders_R = np.add.reduceat(holds_R, first_S, dtype=np.int64)[shared_R]
        second_R = np.maximum.reduceat(np.where(holds_R, 0, count_R), first_S)[shared_R]
        others_R = np.where(holds_R & (holders_R == 1), second_R, highest_R)
        return np.bincount(text_R, np.minimum(count_R, others_R), num_texts)


def _runs(grams: _Grams, stream: _Stream) -> _Runs:
    text_bits = _bits_of(stream.length_T.size)
    key_G = np.sort(grams.gram_G << text_bits | grams.text_G)
    first_R = np.flatnonzero(np.append(True, key_G[1:] != key_G[:-1])[: key_G.size])
    gram_R = key_G[first_R] >> text_bits
    text_R = key_G[first_R] & (1 << text_bits) - 1
    prompt_R = stream.prompt_T[text_R]
    starts_R = np.ones(first_R.size, bool)
    starts_R[1:] = (gram_R[1:] != gram_R[:-1]) | (prompt_R[1:] != prompt_R[:-1])
    count_R = np.append(first_R[1:], key_G.size) - first_R
    return _Runs(text_R, count_R[: first_R.size], starts_R, stream.prompt_T)


def _brevity_penalty(stream: _Stream, in_bleu_T: np.ndarray) -> np.ndarray:
    """Penalty of each text against the length of another that is closest, the shorter of two; [T].

    Of a prompt's texts by length, the closest is a neighbour.
    """
    order = np.lexsort((stream.length_T, stream.prompt_T))
    order = order[in_bleu_T[order]]
    prompt, length = stream.prompt_T[order], stream.length_T[order].astype(np.float64)
    same = prompt[1:] == prompt[:-1]
    below, above = np.full(order.size, -math.inf), np.full(order.size, math.inf)
    below[1:][same], above[:-1][same] = length[:-1][same], length[1:][same]
    closest = np.where(length - below <= above - length, below, above)
    penalty_T = np.ones(stream.length_T.size)
    penalty_T[order] = np.where(length > closest, 1.0, np.exp(1 - closest / length))
    return penalty_T


def _loops(stream: _Stream) -> np.ndarray:
    """Whether some n words come often enough back to back (`diversity.is_degenerate`), [T]."""
    loops_T = np.zeros(stream.length_T.size, bool)
    for n in range(1, diversity.LONGEST_REPEATED + 1):
        word_W, text_W = stream.word_W, stream.text_W
        repeats_W = (word_W[n:] == word_W[:-n]) & (text_W[n:] == text_W[:-n])
        run = (diversity.REPETITIONS - 1) * n
        sums_W = np.cumsum(np.append(0, repeats_W))
        # A run never goes on into the next text, whose first n words repeat none.
        ends_W = np.flatnonzero(sums_W[run:] - sums_W[:-run] == run)
        loops_T[text_W[ends_W + run + n - 1]] = True
    return loops_T


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bits_of(size: int) -> int:
    return max(1, size - 1).bit_length()


def _ratio(numerators_P: np.ndarray, denominators_P: np.ndarray) -> float:
    below = float(denominators_P.sum())
    return float(numerators_P.sum()) / below if below else math.nan
