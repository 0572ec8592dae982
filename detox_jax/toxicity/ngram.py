"""The embedded default scorer: a logistic model over hashed words and character n-grams.

NumPy alone, half a megabyte of weights in the package, no network. `train_scorer` makes the weights;
docs/SCORER.md says from what, how good they are and what they cannot do.

All texts of a call are laid end to end in one array of bytes. With S the running sum of
c[i] B^i modulo 2^64, the bytes from i to j hash to (S[j] - S[i]) B^-i, so every n-gram of every text
and every word is hashed by array operations, with no loop over them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from detox_jax.errors import UserError

WEIGHTS_FILE = Path(__file__).with_name("ngram_weights.npz")
BUCKET_BITS = 19
CHAR_ORDERS = (2, 3, 4, 5)
_TEXTS_AT_ONCE = 2048
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_BASE_INVERSE = pow(_BASE, -1, 1 << 64)
_SPACE, _NEWLINE = 32, 10

_ZERO_WIDTH = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff\ufe00-\ufe0f]")
_HOMOGLYPHS = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u043a\u043c\u0442\u043d\u0432"
    "\u03b1\u03b5\u03bf\u03c1\u03c4\u03c5\u03b9\u03ba\u03bd\u0131",
    "aeopcyxijskmthb" + "aeoptuikvi",
)
_LEET = str.maketrans("013457@$!", "oieastasi")
# A digit or sign stands for a letter only beside letters: "1diot", "b@d", but not "1984" or "no!".
_LEET_WORD = re.compile(
    r"(?=[0-9@$!]*[a-z])[a-z0-9@$!]*[0-9@$!][a-z0-9@$!]*[a-z]|[a-z]+[013457]+\b"
)
_SPACED_OUT = re.compile(r"\b(?:[a-z][ .\-_*]){2,}[a-z]\b")
_REPEATED = re.compile(r"(.)\1{2,}")
_NOT_LETTERS = re.compile(r"[^a-z']+")


def normalize(text: str) -> str:
    """The letters that a reader sees: lower case, disguises undone, one space between words.

    Undone are compatibility forms and accents, zero-width characters, Cyrillic and Greek look-alikes,
    digits and signs for letters inside words, letters spaced out, and letters three times or more
    in a row (kept once).
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKD", _ZERO_WIDTH.sub("", text).lower())
        text = "".join(c for c in text.translate(_HOMOGLYPHS) if not unicodedata.combining(c))
    text = text.lower()
    text = _LEET_WORD.sub(lambda match: match[0].translate(_LEET), text)
    text = _SPACED_OUT.sub(lambda match: re.sub(r"[ .\-_*]", "", match[0]), text)
    text = _REPEATED.sub(r"\1", text)
    return _NOT_LETTERS.sub(" ", text).strip()


@functools.lru_cache(maxsize=1)
def _powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """B^i and B^-i modulo 2^64 for i < size."""
    with np.errstate(over="ignore"):
        tables = []
        for base in (_BASE, _BASE_INVERSE):
            table = np.full(size, base, np.uint64)
            table[0] = 1
            tables.append(np.multiply.accumulate(table))
    return tables[0], tables[1]


@dataclasses.dataclass(frozen=True)
class Features:
    """The hashed features of some texts: one entry an occurrence.

    Attributes:
      rows: index of the text.
      buckets: index of the weight.
      scales: 1 / sqrt(number of the text's features of that kind).
    """

    rows: np.ndarray
    buckets: np.ndarray
    scales: np.ndarray


def extract(texts: Sequence[str]) -> Features:
    """Words, pairs of words and character n-grams within words, each text's kinds scaled alike."""
    joined = "".join(f"\n {text} " for text in map(normalize, texts)) + "\n"
    codes = np.frombuffer(joined.encode("ascii", "replace"), np.uint8)
    text_of = np.cumsum(codes == _NEWLINE) - 1
    size = 1 << max(16, int(len(codes) + 1).bit_length())
    powers, inverses = _powers(size)
    with np.errstate(over="ignore"):
        sums = np.zeros(len(codes) + 1, np.uint64)
        np.cumsum(codes * powers[: len(codes)], out=sums[1:])
    spaces = np.concatenate([[0], np.cumsum((codes == _SPACE) | (codes == _NEWLINE))])
    kinds = list(_char_grams(codes, sums, inverses, spaces)) + list(
        _words(codes, sums, inverses, text_of)
    )
    rows, buckets, scales = [], [], []
    for salt, (starts, hashes) in enumerate(kinds):
        row = text_of[starts]
        counts = np.bincount(row, minlength=len(texts))
        rows.append(row)
        buckets.append(_bucket(hashes, salt))
        scales.append((1 / np.sqrt(np.maximum(counts, 1)))[row].astype(np.float32))
    return Features(np.concatenate(rows), np.concatenate(buckets), np.concatenate(scales))


def _char_grams(
    codes: np.ndarray, sums: np.ndarray, inverses: np.ndarray, spaces: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Starts and hashes of the n-grams of each order; a space only at either end."""
    for order in CHAR_ORDERS:
        last = len(codes) - order
        if last < 0:
            yield np.zeros(0, np.int64), np.zeros(0, np.uint64)
            continue
        starts = np.arange(last + 1)
        inside = spaces[starts + order - 1] - spaces[starts + 1]
        edges_are_text = (codes[starts] != _NEWLINE) & (codes[starts + order - 1] != _NEWLINE)
        both_spaces = (codes[starts] == _SPACE) & (codes[starts + order - 1] == _SPACE)
        starts = starts[(inside == 0) & edges_are_text & ~(both_spaces & (order == 2))]
        with np.errstate(over="ignore"):
            yield starts, (sums[starts + order] - sums[starts]) * inverses[starts]


def _words(
    codes: np.ndarray, sums: np.ndarray, inverses: np.ndarray, text_of: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Starts and hashes of words, then of pairs of neighbouring words."""
    letter = (codes != _SPACE) & (codes != _NEWLINE)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], letter, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    with np.errstate(over="ignore"):
        hashes = (sums[ends] - sums[starts]) * inverses[starts]
        yield starts, hashes
        pair = text_of[starts[:-1]] == text_of[starts[1:]] if len(starts) else np.zeros(0, bool)
        first, second = hashes[:-1][pair], hashes[1:][pair]
        yield starts[:-1][pair], first * np.uint64(0xD6E8FEB86659FD93) + second


def _bucket(hashes: np.ndarray, salt: int) -> np.ndarray:
    """The upper bits of a mixed hash; `salt` keeps kinds of features apart."""
    with np.errstate(over="ignore"):
        mixed = (hashes ^ np.uint64(salt * 0xA24BAED4963EE407 % (1 << 64))) * np.uint64(_BASE)
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(64 - BUCKET_BITS)).astype(np.int32)


class NgramScorer:
    """Scores by the embedded weights; every text has a score, the empty one that of no evidence.

    Attributes:
      name: "ngram".
      fingerprint: of the weights.
    """

    name = "ngram"

    def __init__(self, weights_file: str | None = None):
        """Reads the weights.

        Args:
          weights_file: what `train_scorer` wrote; the package's own where None.

        Raises:
          UserError: if the file cannot be read.
        """
        path = Path(weights_file) if weights_file else WEIGHTS_FILE
        try:
            content = path.read_bytes()
            with np.load(path) as arrays:
                self._weights = arrays["weights"].astype(np.float32) * arrays["scale"]
                self._bias = float(arrays["bias"])
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{path}: not readable as scorer weights: {error}") from None
        self.fingerprint = f"ngram-1-{hashlib.sha256(content).hexdigest()[:12]}"

    def score(self, texts: Sequence[str]) -> list[float | None]:
        """See `ToxicityScorer`."""
        scores: list[float | None] = []
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            part = texts[first : first + _TEXTS_AT_ONCE]
            features = extract(part)
            evidence = self._weights[features.buckets] * features.scales
            logits = np.bincount(features.rows, evidence, minlength=len(part)) + self._bias
            scores.extend((1 / (1 + np.exp(-np.clip(logits, -30, 30)))).tolist())
        return scores
