"""Selections that take out repetition: equal documents, near copies, texts that say all twice."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Sequence
from importlib import util
from typing import Any, ClassVar

import numpy as np

from detox_jax import records, segmenters
from detox_jax.errors import UserError
from detox_jax.kinds import Count, Share
from detox_jax.segmenters import Segmenter
from detox_jax.toxicity import corpus

_PACKAGE = "datasketch"
_NUM_PERMUTATIONS = 128  # of a MinHash
_DIGEST_BYTES = 33
_FOUND = 0.999  # of the pairs at the very similarity


@dataclasses.dataclass(frozen=True)
class Distinct:
    """Of documents of the same text one: white space and case make no difference.

    The one whose id has the lowest hash stays, whatever the order of the input.
    """

    uses_toxicity: ClassVar[bool] = False

    def select(
        self, documents: Sequence[records.Document], generator: np.random.Generator
    ) -> Sequence[records.Document]:
        """See `selections.Selection`."""
        del generator
        digests_N = np.fromiter(map(_digest, documents), f"S{_DIGEST_BYTES}", len(documents))
        order_N = _by_id_hash(documents)
        _, first = np.unique(digests_N[order_N], return_index=True)
        return corpus.taken(documents, np.sort(order_N[first]))


@dataclasses.dataclass(frozen=True)
class NearDistinct:
    """Of documents that are nearly the same one; equal ones are such too.

    Two documents are as similar as the share of their shingles, runs of some words, that both have
    (Jaccard). MinHash and its index (Broder, 1997; the library datasketch, extra `duplicates`) find
    the pairs to compare, and what they find is compared exactly: nothing goes for being like
    another by chance, and of pairs at the very similarity one in a thousand is missed. Whoever has
    the id with the lower hash stays.

    Attributes:
      similarity: from this on one of two documents goes.
      words: of a shingle; of a shorter text its words together are the one shingle.
      word_segmenter: of words; white space alone where None.

    Raises:
      UserError: without the library, or for a similarity of 0.
    """

    similarity: Share = 0.8
    words: Count = 3
    word_segmenter: Segmenter | None = None

    uses_toxicity: ClassVar[bool] = False

    def __post_init__(self):
        if not 0 < self.similarity <= 1:
            raise UserError(
                f"NearDistinct.similarity is {self.similarity}; must be above 0 and at most 1"
            )
        if util.find_spec(_PACKAGE) is None:
            raise UserError(
                f"SELECTION NearDistinct needs {_PACKAGE}: pip install 'detox-jax[duplicates]'"
            )

    def select(
        self, documents: Sequence[records.Document], generator: np.random.Generator
    ) -> Sequence[records.Document]:
        """See `selections.Selection`."""
        del generator
        datasketch: Any = importlib.import_module(_PACKAGE)
        index: Any = datasketch.MinHashLSH(
            num_perm=_NUM_PERMUTATIONS, params=_bands(self.similarity)
        )
        first: set[int] = set()
        for i in _by_id_hash(documents).tolist():
            shingles = self._shingles(documents[i].text)
            minhash = datasketch.MinHash(num_perm=_NUM_PERMUTATIONS)
            minhash.update_batch(sorted(shingles))
            near = (self._shingles(documents[k].text) for k in sorted(index.query(minhash)))
            if not any(_similarity(shingles, other) >= self.similarity for other in near):
                index.insert(i, minhash)
                first.add(i)
        return corpus.taken(documents, sorted(first))

    def _shingles(self, text: str) -> set[bytes]:
        return _shingles(segmenters.spaced(text, self.word_segmenter), self.words)


@dataclasses.dataclass(frozen=True)
class Unrepetitive:
    """Documents that do not go round in circles.

    Attributes:
      most: of the runs of words of a document, the share that stood in it before, at most.
      words: of a run; a shorter document has none, and stays.
      word_segmenter: of words; white space alone where None.
    """

    most: Share = 0.3
    words: Count = 3
    word_segmenter: Segmenter | None = None

    uses_toxicity: ClassVar[bool] = False

    def select(
        self, documents: Sequence[records.Document], generator: np.random.Generator
    ) -> Sequence[records.Document]:
        """See `selections.Selection`."""
        del generator
        repeated = (self._repeated(document.text) for document in documents)
        return corpus.taken(
            documents, [i for i, share in enumerate(repeated) if share <= self.most]
        )

    def _repeated(self, text: str) -> float:
        runs = _runs(segmenters.spaced(text, self.word_segmenter), self.words)
        return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _digest(document: records.Document) -> bytes:
    """Of the words in lower case."""
    text = " ".join(document.text.lower().split())
    # A character more, as NumPy takes zeros off the end.
    return hashlib.sha256(text.encode("utf-8", "replace")).digest() + b"."


def _bands(similarity: float) -> tuple[int, int]:
    """Bands of the index and rows of each: the fewest candidates that miss hardly a pair.

    A pair is looked at where all rows of a band agree, each with the probability of the similarity.
    The library's own choice weighs misses and candidates alike, and fails near 1.
    """
    rows = _NUM_PERMUTATIONS // 2
    while rows > 1 and 1 - (1 - similarity**rows) ** (_NUM_PERMUTATIONS // rows) < _FOUND:
        rows //= 2
    return _NUM_PERMUTATIONS // rows, rows


def _runs(text: str, size: int) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


def _shingles(text: str, size: int) -> set[bytes]:
    runs = _runs(text, size) or [tuple(text.lower().split())]
    return {" ".join(run).encode("utf-8", "replace") for run in runs}


def _similarity(one: set[bytes], other: set[bytes]) -> float:
    return len(one & other) / len(one | other)


def _by_id_hash(documents: Sequence[records.Document]) -> np.ndarray:
    """Positions, in the order in which of two equal documents the first stays."""
    return np.argsort(corpus.hashes_of(documents), kind="stable")
