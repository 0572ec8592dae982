"""The log-likelihood of texts after their contexts under a model, many at a time on the mesh.

Contexts and texts become tokens as in lm-evaluation-harness (`TemplateLM._encode_pair`): white space
that ends a context belongs to the text, both are tokenised as one, and the tokens behind those of
the context alone are the text's. Texts that differ in their last token alone, such as " yes" and
" no", are read together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from detox_jax import progress
from detox_jax.errors import UserError
from detox_jax.evaluation.perplexity import split_windows
from detox_jax.parallel import mesh as meshes
from detox_jax.training import checkpoints
from detox_jax.vocabulary import BPEVocabulary

_ENDINGS = 4  # Last tokens that one row is read with: a constant, for few programs.
_SHORTEST = 16


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """What a model says of a text.

    Attributes:
      value: the sum of its tokens' log-likelihoods, in nats.
      greedy: whether each token is the likeliest at its place.
    """

    value: float
    greedy: bool


@dataclasses.dataclass
class _Row:
    """Tokens that the model reads once.

    Attributes:
      ids: what it reads.
      first: predictions from this position on are scored.
      endings: what may follow the last of `ids`, at most `_ENDINGS`.
    """

    ids: Sequence[int]
    first: int
    endings: list[int]


class LikelihoodReader:
    """Reads pairs of context and text with a model; compiles once for each length."""

    def __init__(
        self,
        loaded: checkpoints.LoadedModel,
        mesh: Mesh,
        batch_size: int = 32,
        start_with_bos: bool | None = None,
    ):
        """Prepares the program.

        Args:
          loaded: the model.
          mesh: that its parameters are on; rows of a batch are split over `data` and `fsdp`.
          batch_size: rows at once.
          start_with_bos: whether the start token stands before every context; where None, if the
            vocabulary has one of its own, other than the end token, as LLaMA's does.
        """
        vocabulary = loaded.vocabulary
        if start_with_bos is None:
            start_with_bos = vocabulary.bos_id != vocabulary.eos_id
        self._loaded = loaded
        self._mesh = mesh
        self._prefix = [vocabulary.bos_id] if start_with_bos else []
        shards = meshes.num_batch_shards(mesh)
        self._batch_size = -(-batch_size // shards) * shards
        self._compute = _program(loaded, mesh)

    def __call__(
        self, pairs: Sequence[tuple[str, str]], description: str = "likelihood"
    ) -> list[Likelihood]:
        """The likelihood of the second text of each pair after the first.

        A pair longer than the model's context loses its beginning; a text that is longer itself is
        read in windows that overlap by half.

        Raises:
          UserError: for a text without a token, or a model whose likelihoods are not finite.
        """
        encoded = encode_pairs(self._loaded.vocabulary, pairs, self._prefix)
        rows, places = _plan(encoded, self._loaded.module.config.max_length)
        values_NC = np.zeros((len(rows), _ENDINGS))
        greedy_NC = np.zeros((len(rows), _ENDINGS), bool)
        with meshes.sharding_scope(self._mesh), progress.bar(description, len(rows)) as advance:
            for members, arrays in self._batches(rows):
                arrays = jax.device_put(arrays, meshes.batch_sharding(self._mesh))
                values_BC, greedy_BC = self._compute(self._loaded.params, *arrays)
                values_NC[members] = np.asarray(values_BC)[: len(members)]
                greedy_NC[members] = np.asarray(greedy_BC)[: len(members)]
                advance(len(members))
        if not np.isfinite(values_NC).all():
            raise UserError(f"{description}: a likelihood is not finite; a broken checkpoint")
        found = [tuple(zip(*own, strict=True)) for own in places]
        return [
            Likelihood(float(values_NC[own].sum()), bool(greedy_NC[own].all())) for own in found
        ]

    def _batches(self, rows: Sequence[_Row]) -> Iterator[tuple[list[int], tuple[np.ndarray, ...]]]:
        """Rows of similar length together, the longest first, padded to a power of two."""
        context = self._loaded.module.config.max_length
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
        for start in range(0, len(order), self._batch_size):
            members = order[start : start + self._batch_size]
            longest = len(rows[members[0]].ids)
            length = min(context, max(_SHORTEST, 1 << (longest - 1).bit_length()))
            yield members, _arrays([rows[i] for i in members], self._batch_size, length)


def encode_pairs(
    vocabulary: BPEVocabulary, pairs: Sequence[tuple[str, str]], prefix: Sequence[int]
) -> list[tuple[list[int], int]]:
    """The tokens of each pair, and how many of them are its context's.

    Raises:
      UserError: for a text without a token of its own.
    """
    moved = [_move_white_space(context, text) for context, text in pairs]
    wholes = vocabulary.encode_batch([context + text for context, text in moved])
    contexts = vocabulary.encode_batch([context for context, _ in moved])
    encoded = []
    for whole, context, (_, text) in zip(wholes, contexts, pairs, strict=True):
        if len(whole) <= len(context):
            raise UserError(f"the text {text!r} has no token of its own after its context")
        # A model predicts nothing from nothing: an empty context is the start token.
        before = list(prefix) or ([] if context else [vocabulary.bos_id])
        encoded.append(([*before, *whole], len(before) + len(context)))
    return encoded


def _move_white_space(context: str, text: str) -> tuple[str, str]:
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + text


def _plan(
    encoded: Sequence[tuple[Sequence[int], int]], context: int
) -> tuple[list[_Row], list[list[tuple[int, int]]]]:
    """The rows to read, and for each text where its parts are: pairs of row and ending."""
    rows: list[_Row] = []
    open_rows: dict[tuple[tuple[int, ...], int], int] = {}
    places = []
    for ids, start in encoded:
        own = []
        for window, first in _windows(ids, start, context):
            key = tuple(window[:-1]), first
            index = open_rows.get(key)
            if index is None or len(rows[index].endings) == _ENDINGS:
                index = open_rows[key] = len(rows)
                rows.append(_Row(key[0], first, []))
            rows[index].endings.append(window[-1])
            own.append((index, len(rows[index].endings) - 1))
        places.append(own)
    return rows, places


def _windows(
    ids: Sequence[int], start: int, context: int
) -> Sequence[tuple[Sequence[int], int]]:
    """Windows that score `ids[start:]`, with all the context that fits before it."""
    scored = len(ids) - start
    if scored > context:
        return split_windows(ids[start - 1 :], context)
    window = ids[-(context + 1) :]
    return [(window, len(window) - 1 - scored)]


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


def _program(loaded: checkpoints.LoadedModel, mesh: Mesh) -> Any:
    """Sums of log-likelihoods and whether all were the likeliest, `[B, C]`, on every host."""

    def compute(
        params: Any, tokens_BL: jax.Array, targets_BLC: jax.Array, weights_BL: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        logits_BLV: Any = loaded.module.apply({"params": params}, tokens_BL, enable_dropout=False)
        weights_BL1 = weights_BL[:, :, None]
        total_BL1 = jax.nn.logsumexp(logits_BLV, axis=-1, keepdims=True)
        found_BLC = jnp.take_along_axis(logits_BLV, targets_BLC, axis=-1) - total_BL1
        likeliest_BL1 = jnp.argmax(logits_BLV, axis=-1, keepdims=True)
        greedy_BLC = (likeliest_BL1 == targets_BLC) | ~weights_BL1
        return jnp.where(weights_BL1, found_BLC, 0.0).sum(axis=1), greedy_BLC.all(axis=1)

    return jax.jit(compute, out_shardings=meshes.replicated(mesh))
