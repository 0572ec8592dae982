"""Log-likelihoods of many continuations after their contexts, in batches by length, on the mesh.

Continuations that differ from another in their last token alone, as " yes" and " no" do, are read
together with it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from detox_jax import progress
from detox_jax.errors import UserError
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes

_ENDINGS = 4  # Last tokens that one row is read with: a constant, for few programs.
_SHORTEST = 16

Pair = tuple[Sequence[int], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """How probable a continuation is.

    Attributes:
      log_probability: natural logarithm, summed over its tokens.
      is_greedy: whether each token is the most probable one at its place.
    """

    log_probability: float
    is_greedy: bool


@dataclasses.dataclass
class _Row:
    """Tokens that the model reads once.

    Attributes:
      ids: what it reads.
      first: predictions from this position on are scored.
      endings: what may follow the last of `ids`, at most `_ENDINGS`.
      pairs: the number of the pair that each ending belongs to.
    """

    ids: Sequence[int]
    first: int
    endings: list[int]
    pairs: list[int]


class LikelihoodReader:
    """Reads continuations under a model; compiles once for each padded length.

    Attributes:
      max_length: tokens that the model reads at once.
      batch_size: rows at once, a multiple of the mesh's batch shards.
    """

    def __init__(
        self, model: TransformerLM, params: Any, mesh: Mesh, batch_size: int, max_length: int
    ):
        self.max_length = max_length
        shards = meshes.num_batch_shards(mesh)
        self.batch_size = -(-batch_size // shards) * shards
        self._params, self._mesh = params, mesh
        # Replicated: every process of a pod sees all of the answer.
        self._read = jax.jit(functools.partial(_read, model), out_shardings=meshes.replicated(mesh))

    def __call__(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """The likelihood of each continuation after its context.

        Args:
          pairs: `(context, continuation)`, token ids, at least one of each. What exceeds
            `max_length` is cut from the left.

        Raises:
          UserError: if a continuation alone is longer than the model reads.
        """
        found = [Likelihood(0.0, True)] * len(pairs)
        with (
            meshes.sharding_scope(self._mesh),
            progress.bar("likelihood", len(pairs)) as advance,
        ):
            for rows, arrays in self._batches(_rows(pairs, self.max_length)):
                arrays = jax.device_put(arrays, meshes.batch_sharding(self._mesh))
                values_BC, greedy_BC = map(np.asarray, self._read(self._params, *arrays))
                for row, values_C, greedy_C in zip(rows, values_BC, greedy_BC, strict=False):
                    for pair, value, greedy in zip(row.pairs, values_C, greedy_C, strict=False):
                        found[pair] = Likelihood(float(value), bool(greedy))
                    advance(len(row.pairs))
        return found

    def _batches(self, rows: list[_Row]) -> Iterator[tuple[list[_Row], tuple[np.ndarray, ...]]]:
        """Rows of similar length together, the longest first, padded to a power of two."""
        rows = sorted(rows, key=lambda row: -len(row.ids))
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            longest = len(batch[0].ids)
            length = min(self.max_length, max(_SHORTEST, 1 << (longest - 1).bit_length()))
            yield batch, _arrays(batch, self.batch_size, length)


def _rows(pairs: Sequence[Pair], max_length: int) -> list[_Row]:
    """Rows that hold every pair once."""
    rows: list[_Row] = []
    open_rows: dict[tuple[tuple[int, ...], int], _Row] = {}
    for number, (context, continuation) in enumerate(pairs):
        if len(continuation) > max_length:
            raise UserError(
                f"a continuation has {len(continuation)} tokens, but the model reads {max_length}"
            )
        # The last token of all is predicted and not read.
        ids = tuple([*context, *continuation][-(max_length + 1) :])
        key = ids[:-1], len(ids) - 1 - len(continuation)
        row = open_rows.get(key)
        if row is None or len(row.endings) == _ENDINGS:
            row = open_rows[key] = _Row(*key, [], [])
            rows.append(row)
        row.endings.append(ids[-1])
        row.pairs.append(number)
    return rows


def _arrays(rows: Sequence[_Row], size: int, length: int) -> tuple[np.ndarray, ...]:
    """Tokens `[B, L]`, targets `[B, L, C]` and their weights `[B, L]`; empty rows fill up."""
    tokens_BL = np.zeros((size, length), np.int32)
    targets_BLC = np.zeros((size, length, _ENDINGS), np.int32)
    weights_BL = np.zeros((size, length), bool)
    for b, row in enumerate(rows):
        n = len(row.ids)
        tokens_BL[b, :n] = row.ids
        targets_BLC[b, : n - 1] = np.asarray(row.ids[1:], np.int32)[:, None]
        targets_BLC[b, n - 1, : len(row.endings)] = row.endings
        weights_BL[b, row.first : n] = True
    return tokens_BL, targets_BLC, weights_BL


def _read(
    model: TransformerLM,
    params: Any,
    tokens_BL: jax.Array,
    targets_BLC: jax.Array,
    weights_BL: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Sums of log-likelihoods, and whether all targets were the likeliest, `[B, C]`."""
    logits_BLV: Any = model.apply({"params": params}, tokens_BL, enable_dropout=False)
    weights_BL1 = weights_BL[:, :, None]
    total_BL1 = jax.nn.logsumexp(logits_BLV, axis=-1, keepdims=True)
    found_BLC = jnp.take_along_axis(logits_BLV, targets_BLC, axis=-1) - total_BL1
    likeliest_BL1 = jnp.argmax(logits_BLV, axis=-1, keepdims=True)
    greedy_BLC = (likeliest_BL1 == targets_BLC) | ~weights_BL1
    return jnp.where(weights_BL1, found_BLC, 0.0).sum(axis=1), greedy_BLC.all(axis=1)
