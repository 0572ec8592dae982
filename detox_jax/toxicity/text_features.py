"""Texts as points: TF-IDF of character n-grams, and its main directions (latent semantics).

NumPy and SciPy alone, in any script. What a selection by distance needs where no model embeds.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy  # Loads `scipy.sparse` where it is used: that takes as long as all else of `filter`.

from detox_jax.kinds import Count

ORDERS = (2, 3, 4)  # of character n-grams, which go over the ends of words
_BUCKET_BITS = 17
_BASE, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_FITTED = 1024  # of the documents of either side, from which directions are computed
_AT_ONCE = 500
_LEAST = 1e-6  # of the largest singular value, below which there is no direction


@dataclasses.dataclass(frozen=True)
class TextFeatures:
    """TF-IDF of character n-grams, in the directions in which texts differ most.

    Of n-grams of 2 to 4 characters, in lower case and with single spaces, 1 + log of their number
    times their inverse document frequency; rows of length 1, projected on the first right singular
    vectors of at most 1,024 candidates and as many targets, and of length 1 again. A text that has
    nothing in common with those is 0.

    Attributes:
      dimensions: of a point, at most; no more than there are texts to compute them from.
    """

    dimensions: Count = 128

    def check(self) -> None:
        """See `transport.Embedding`; it reads nothing."""

    def described(self) -> dict[str, Any]:
        """See `transport.Embedding`."""
        return dataclasses.asdict(self)

    def embed(self, candidates: Sequence[str], target: Sequence[str]) -> tuple[Any, Any]:
        """See `transport.Embedding`."""
        fitted = [*itertools.islice(candidates, _FITTED), *itertools.islice(target, _FITTED)]
        counts_FV = scipy.sparse.csr_array(scipy.sparse.vstack([*_counts(fitted)]))
        present_V = np.diff(counts_FV.tocsc().indptr)
        weights_V = (np.log((1 + len(fitted)) / (1 + present_V)) + 1).astype(np.float32)
        directions_VD = _directions(_weighted(counts_FV, weights_V), self.dimensions)

        def points(texts: Iterable[str]) -> np.ndarray:
            parts = [_unit(_weighted(of, weights_V) @ directions_VD) for of in _counts(texts)]
            return np.concatenate(parts)

        return points(candidates), points(target)


def _counts(texts: Iterable[str]) -> Iterator[scipy.sparse.csr_array]:
    """1 + log of the number of each n-gram of each text, some texts at a time; [N, V]."""
    texts = iter(texts)
    while some := list(itertools.islice(texts, _AT_ONCE)):
        plain = [f" {' '.join(text.casefold().split())} " for text in some]
        row_C = np.repeat(np.arange(len(plain)), [len(text) for text in plain])
        code_C = np.frombuffer("".join(plain).encode("utf-32-le", "surrogatepass"), np.uint32)
        gram_C, keys = code_C.astype(np.uint64), []
        for order in range(2, max(ORDERS) + 1):
            gram_C = gram_C[:-1] * _BASE + code_C[order - 1 :]
            if order in ORDERS:
                within_C = row_C[: gram_C.size] == row_C[order - 1 :]
                row_G = row_C[: gram_C.size][within_C]
                keys.append(row_G << _BUCKET_BITS | _bucket(gram_C[within_C]))
        key_E, count_E = np.unique(np.concatenate(keys), return_counts=True)
        places = key_E >> _BUCKET_BITS, key_E & (1 << _BUCKET_BITS) - 1
        shape = (len(some), 1 << _BUCKET_BITS)
        values_E = (1 + np.log(count_E)).astype(np.float32)
        yield scipy.sparse.coo_array((values_E, places), shape=shape).tocsr()


def _bucket(gram_G: np.ndarray) -> np.ndarray:
    mixed = (gram_G ^ gram_G >> np.uint64(29)) * _MIX
    return (mixed >> np.uint64(64 - _BUCKET_BITS)).astype(np.int64)


def _weighted(counts_NV: scipy.sparse.csr_array, weights_V: np.ndarray) -> scipy.sparse.csr_array:
    """TF-IDF, each row of length 1."""
    values_E = counts_NV.data * weights_V[counts_NV.indices]
    weighted_NV = scipy.sparse.csr_array(
        (values_E, counts_NV.indices, counts_NV.indptr), counts_NV.shape
    )
    squares_N = np.asarray(weighted_NV.multiply(weighted_NV).sum(axis=1)).ravel()
    lengths_N = np.sqrt(np.maximum(squares_N, np.finfo(np.float32).tiny))
    scale_E = np.repeat(lengths_N, np.diff(weighted_NV.indptr))
    return scipy.sparse.csr_array(
        (values_E / scale_E, weighted_NV.indices, weighted_NV.indptr), weighted_NV.shape
    )


def _directions(rows_FV: scipy.sparse.csr_array, dimensions: int) -> np.ndarray:
    """The first right singular vectors, [V, D], by way of the rows' inner products."""
    products_FF = (rows_FV @ rows_FV.T).toarray().astype(np.float64)
    values_F, vectors_FF = np.linalg.eigh(products_FF)
    values_D, vectors_FD = values_F[::-1][:dimensions], vectors_FF[:, ::-1][:, :dimensions]
    there = values_D > _LEAST**2 * values_D[0]
    vectors_FD = vectors_FD[:, there] / np.sqrt(values_D[there])
    return np.asarray(rows_FV.T @ vectors_FD.astype(np.float32))


def _unit(points_ND: np.ndarray) -> np.ndarray:
    lengths_N = np.linalg.norm(points_ND, axis=1, keepdims=True)
    return np.where(lengths_N > _LEAST, points_ND / np.maximum(lengths_N, _LEAST), 0)
