"""The embedded default scorer: a logistic model over hashed words and character n-grams.

NumPy alone, half a megabyte of weights in the package, no network. `train_scorer` makes the
weights; docs/SCORER.md says from what, how good they are and what they cannot do.

Why hashed: a table of n-grams would be many times the weights, and it could be read as a list of
insults. Features that share a bucket share a weight, which training knows. Why characters: a word
that is misspelt on purpose keeps most of its n-grams.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from etils import epath

from detox_jax.errors import UserError, in_one_line, unread
from detox_jax.formats import jsonl
from detox_jax.toxicity import letters, ngram_runs, scripts
from detox_jax.toxicity.scorer import prepare

WEIGHTS_FILE = Path(__file__).with_name("ngram_weights.npz")
RELIABILITY_FILE = "ngram_reliability.json"  # beside the weights
VERSION = 2  # 2: a text in other than Latin letters has no score
BUCKET_BITS = 18
NUM_BUCKETS = 1 << BUCKET_BITS
CHAR_ORDERS = (2, 3, 4, 5)
# How much each kind of feature counts: character n-grams by order, words, pairs of words.
KIND_SCALES = (0.5, 0.5, 1.0, 1.0, 2.0, 0.5)
# A text's features of a kind are divided by their number to this power: 0 would let long texts
# score by length, 1 would let a long text hide one word; chosen on held-out text.
LENGTH_POWER = 0.35
_TEXTS_AT_ONCE, _CHARACTERS_AT_ONCE = 1024, 1 << 20

_BITS_PER_CODE = 5
_LOOKED_UP = 3  # letters of an n-gram, up to which its weight is looked up by itself
_WORD_BASE = 0x9E3779B97F4A7C15
_PAIR_FACTOR = 0xD6E8FEB86659FD93
_SALT_FACTOR = 0xA24BAED4963EE407
_MIX = 0xBF58476D1CE4E5B9
_MODULUS = 1 << 64
_WORD_POWERS = np.array([pow(_WORD_BASE, i, _MODULUS) for i in range(64)], np.uint64)


@dataclasses.dataclass(frozen=True)
class Features:
    """The hashed features of some texts of one kind, E entries, one an occurrence.

    Attributes:
      rows_E: the index of the text that each entry is of, not falling.
      buckets_E: the index of the weight of each entry.
    """

    rows_E: np.ndarray
    buckets_E: np.ndarray


def extract(texts: Sequence[str]) -> list[Features]:
    """The features of `texts`, one entry a kind in the order of `KIND_SCALES`.

    Character n-grams lie within a word and the boundaries beside it. Of order n they are packed
    exactly, 5 bits a letter; words are hashed as sum of letter[i] B^i modulo 2^64. Both are then
    mixed with a salt for their kind into `2^BUCKET_BITS` buckets.
    """
    kinds = _occurrences(letters.read_letters(texts))
    return [Features(rows_E, _bucket(hashes_E, salt)) for salt, (rows_E, hashes_E) in kinds]


def _occurrences(text: letters.Letters) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """Kinds by number, with the rows and the hashes of the features, before they are mixed."""
    return enumerate(itertools.chain(_char_grams(text), _words(text)))


def _char_grams(text: letters.Letters) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and exact values of the n-grams of each order."""
    boundary = text.codes_C == letters.BOUNDARY
    # A boundary is shared by the texts beside it; the next character is the word's own.
    rows_C = text.rows_C.copy()
    rows_C[:-1][boundary[:-1]] = text.rows_C[1:][boundary[:-1]]
    codes = text.codes_C.astype(np.uint32)  # Which holds the 25 bits of five letters.
    grams, inside = codes, np.ones(len(codes), bool)
    for order in range(2, max(CHAR_ORDERS) + 1):
        grams = (grams[:-1] << np.uint32(_BITS_PER_CODE)) + codes[order - 1 :]
        inside = inside[:-1]
        if order > 2:
            inside = inside & ~boundary[order - 2 : -1]
        if order in CHAR_ORDERS:
            starts = np.flatnonzero(inside)
            yield rows_C[starts], grams[starts]


def _words(text: letters.Letters) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and hashes of words, then of pairs of neighbouring words."""
    boundaries = np.flatnonzero(text.codes_C == letters.BOUNDARY)
    lengths = np.diff(boundaries) - 1
    lengths = lengths[lengths > 0]
    letter = np.flatnonzero(text.codes_C != letters.BOUNDARY)
    starts = np.cumsum(lengths) - lengths
    place = np.arange(len(letter)) - np.repeat(starts, lengths)
    terms = (
        text.codes_C[letter] * _WORD_POWERS[place & len(_WORD_POWERS) - 1]
    )  # a power of two, so modulo
    hashes = np.add.reduceat(terms, starts) if len(starts) else terms
    rows = text.rows_C[letter[starts]] if len(starts) else np.zeros(0, np.int64)
    yield rows, hashes
    pair = rows[1:] == rows[:-1]
    yield rows[1:][pair], _pairs(hashes[:-1][pair], hashes[1:][pair])


def _pairs(first_P: np.ndarray, second_P: np.ndarray) -> np.ndarray:
    """Hashes of pairs of words."""
    return first_P * np.uint64(_PAIR_FACTOR) + second_P


def _bucket(hashes_E: np.ndarray, salt: int) -> np.ndarray:
    """The upper bits of a mixed hash; `salt` keeps kinds of features apart."""
    mixed = hashes_E.astype(np.uint64) ^ np.uint64(salt * _SALT_FACTOR % _MODULUS)
    mixed *= np.uint64(_WORD_BASE)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(_MIX)
    mixed >>= np.uint64(64 - BUCKET_BITS)
    return mixed.astype(np.int32)


def scales(features: Features, kind: int, num_texts: int) -> np.ndarray:
    """What a text's features of one kind are multiplied by, [N], N being `num_texts`."""
    return _scales(_counts(features.rows_E, num_texts), kind)


def _counts(rows_E: np.ndarray, num_texts: int) -> np.ndarray:
    """How many entries each text has, [N]; the rows do not fall."""
    return np.diff(np.searchsorted(rows_E, np.arange(num_texts + 1)))


def _scales(counts_N: np.ndarray, kind: int) -> np.ndarray:
    return KIND_SCALES[kind] / np.maximum(counts_N, 1) ** LENGTH_POWER


class NgramScorer:
    """Scores by the embedded weights.

    A text in other letters than Latin ones has no score, see `scripts.can_read`. One without any
    letter (empty, numbers, emoji) has 0.0: there is nothing in it to read.

    Attributes:
      name: "ngram".
      languages: English, which its texts are in.
      fingerprint: of the weights.
      reliability: how its scores compare with labels, see `ToxicityScorer`; None where the weights
        lie without it.
    """

    name = "ngram"
    languages = ("en",)

    def __init__(self, weights_file: str | None = None):
        """Reads the weights.

        Args:
          weights_file: what `train_scorer` wrote; the package's own where None.

        Raises:
          UserError: if the file cannot be read or is made for other features.
        """
        path = epath.Path(weights_file or WEIGHTS_FILE)
        try:
            with np.load(io.BytesIO(path.read_bytes())) as arrays:
                weights, bias = arrays["weights"], arrays["bias"]
        except (OSError, KeyError, ValueError) as error:
            raise unread(path, error) or UserError(
                f"{path}: not readable as scorer weights: {in_one_line(error)}"
            ) from None
        if weights.shape != (NUM_BUCKETS,):
            raise UserError(
                f"{path}: holds {weights.size} weights, this version reads {NUM_BUCKETS}; "
                "train them again with train_scorer"
            )
        file = path.parent / RELIABILITY_FILE
        self.reliability = None
        if file.exists():
            self.reliability = jsonl.json_object(file.read_bytes(), str(file))
        self._weights = weights.astype(np.float32)
        # Of short n-grams there are so few that their weights are looked up, not their buckets.
        self._of_grams = {
            kind: self._weights[_bucket(np.arange(1 << order * _BITS_PER_CODE), kind)]
            for kind, order in enumerate(CHAR_ORDERS)
            if order <= _LOOKED_UP
        }
        self._bias = float(bias)
        self._runs = ngram_runs.SeenRuns(self._read, self._weigh_pairs)
        digest = hashlib.sha256(weights.tobytes() + bias.tobytes())
        self.fingerprint = f"{self.name}-{VERSION}-{digest.hexdigest()[:12]}"

    def score(self, texts: Sequence[str]) -> list[float | None]:
        """See `ToxicityScorer`."""
        prepared = [prepare(text) for text in texts]
        scores = [score for part in _batches(prepared) for score in self._score_batch(part)]
        readable = map(self.can_read, prepared)
        return [score if can else None for score, can in zip(scores, readable, strict=True)]

    def can_read(self, text: str) -> bool:
        """See `ToxicityScorer`."""
        return scripts.can_read(text)

    def _score_batch(self, texts: Sequence[str]) -> list[float]:
        sums_NK, counts_NK = self._runs.read(texts)
        logits_N = np.full(len(texts), self._bias)
        for kind in range(len(KIND_SCALES)):
            logits_N += sums_NK[:, kind] * _scales(counts_NK[:, kind], kind)
        probabilities_N = 1 / (1 + np.exp(-np.clip(logits_N, -30, 30)))
        return np.where(counts_NK[:, 0] > 0, probabilities_N, 0.0).tolist()

    def _read(self, texts: Sequence[str]) -> ngram_runs.Readings:
        """Reads texts letter by letter."""
        found = [entries for _, entries in _occurrences(letters.read_letters(texts))]
        counts = [_counts(rows_E, len(texts)) for rows_E, _ in found]
        sums = [
            np.bincount(rows_E, self._weigh(hashes_E, kind), len(texts))
            for kind, (rows_E, hashes_E) in enumerate(found)
        ]
        hashes_W, words_N = found[ngram_runs.WORDS][1], counts[ngram_runs.WORDS]
        hashes_W = np.append(hashes_W, np.uint64(0))  # for a text without a word, after all others
        ends_N = np.cumsum(words_N)
        return ngram_runs.Readings(
            sums_NK=np.stack(sums, axis=1, dtype=np.float64),
            counts_NK=np.stack(counts, axis=1, dtype=np.float64),
            first_N=hashes_W[ends_N - words_N],
            last_N=hashes_W[ends_N - 1],
            lone_N=letters.lone_letters(texts),
        )

    def _weigh_pairs(self, first_P: np.ndarray, second_P: np.ndarray) -> np.ndarray:
        return self._weigh(_pairs(first_P, second_P), len(KIND_SCALES) + ngram_runs.PAIRS)

    def _weigh(self, hashes_E: np.ndarray, kind: int) -> np.ndarray:
        if kind in self._of_grams:
            return self._of_grams[kind][hashes_E]
        return self._weights[_bucket(hashes_E, kind)]


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Runs of texts whose arrays stay in the processor's cache, or near it."""
    first = characters = 0
    for index, text in enumerate(texts):
        if index - first == _TEXTS_AT_ONCE or characters + len(text) > _CHARACTERS_AT_ONCE:
            yield texts[first:index]
            first, characters = index, 0
        characters += len(text)
    if first < len(texts):
        yield texts[first:]
