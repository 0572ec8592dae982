"""Log-likelihoods of continuations under a model that is steered while it reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from detox_jax import terminal
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.generation.decoding import bucket_length
from detox_jax.generation.steering import scoring
from detox_jax.generation.steering import steering as steering_lib
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import PAD_ID
from detox_jax.zero_shot.likelihood import Likelihood, LikelihoodReader, Pair

# Shapes are few, since each is compiled: continuations are padded to powers of it.
_TARGETS_BASE = 4
# Of the module: a sweep over strengths finds it compiled.
_read = jax.jit(scoring.read, static_argnums=0)


def reader(
    loaded: LoadedModel,
    methods: Sequence[steering_lib.Loaded],
    mesh: Mesh,
    batch_size: int,
    max_length: int,
) -> LikelihoodReader | SteeredReader:
    """What reads continuations under a model; where nothing steers it, under the model alone.

    Args:
      loaded: the model.
      methods: loaded methods, in their order.
      mesh: where the model is.
      batch_size: rows at once.
      max_length: tokens that are read at once; fewer where a method can read no more.

    Raises:
      UserError: if a method leaves no room for a text.
    """
    steerings = steering_lib.in_loop(methods)
    if not steerings:
        return LikelihoodReader(loaded.module, loaded.params, mesh, batch_size, max_length)
    most = steering_lib.longest(methods, max_length)
    if most < 2:
        raise UserError(f"STEERING leaves room for {most} tokens of text; shorten its prefixes")
    return SteeredReader(loaded, steerings, mesh, batch_size, most)


class SteeredReader:
    """Reads continuations under a steered model, as `LikelihoodReader` does under a model.

    A token is read at a time, as in decoding, and each row is a continuation, since a method's
    state belongs to one text.

    Attributes:
      max_length: tokens of context and continuation, without the last one.
      batch_size: rows at once, a multiple of the mesh's batch shards.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        steerings: Sequence[steering_lib.Steering],
        mesh: Mesh,
        batch_size: int,
        max_length: int,
    ):
        self.max_length = max_length
        shards = meshes.num_batch_shards(mesh)
        self.batch_size = -(-batch_size // shards) * shards
        self._loaded, self._steerings, self._mesh = loaded, tuple(steerings), mesh

    def __call__(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """The likelihood of each continuation after its context, see `LikelihoodReader`.

        Raises:
          UserError: if a continuation alone is longer than the model reads.
        """
        likelihoods = [Likelihood(0.0, True)] * len(pairs)  # Nothing is certain to follow.
        model, params = self._loaded.module, self._loaded.params
        with (
            meshes.sharding_scope(self._mesh),
            terminal.bar("likelihood", len(pairs), unit="continuations") as advance,
        ):
            for members, arrays in self._batches(pairs):
                arrays = meshes.to_mesh(arrays, meshes.batch_sharding(self._mesh))
                scored = _read(model, params, self._steerings, *arrays)
                log_probs_NT, is_best_NT = meshes.to_host(scored)
                for row, pair in enumerate(members):
                    T = len(pairs[pair][1])
                    total = float(log_probs_NT[row, :T].sum(dtype=np.float64))
                    likelihoods[pair] = Likelihood(total, bool(is_best_NT[row, :T].all()))
                advance(len(members))
        return likelihoods

    def _batches(
        self, pairs: Sequence[Pair]
    ) -> Iterator[tuple[list[int], tuple[np.ndarray, np.ndarray, np.ndarray]]]:
        """Pairs of one padded shape, with `prompts`, `lengths`, `targets`; the longest first."""
        groups: dict[tuple[int, int], list[int]] = {}
        for number, (_, continuation) in enumerate(pairs):
            if not continuation:
                continue
            if len(continuation) > self.max_length:
                raise UserError(
                    f"a continuation has {len(continuation)} tokens, but the steered model reads "
                    f"{self.max_length}; leave its task out, or split it"
                )
            context = self._context(pairs[number])
            shape = bucket_length(len(context), self.max_length), _padded(len(continuation))
            groups.setdefault(shape, []).append(number)
        for (P, T), members in sorted(groups.items(), key=lambda item: -sum(item[0])):
            for first in range(0, len(members), self.batch_size):
                batch = members[first : first + self.batch_size]
                prompts_NP = np.full((self.batch_size, P), PAD_ID, np.int32)
                targets_NT = np.full((self.batch_size, T), PAD_ID, np.int32)
                lengths_N = np.zeros(self.batch_size, np.int32)
                for row, number in enumerate(batch):
                    context, continuation = self._context(pairs[number]), pairs[number][1]
                    prompts_NP[row, : len(context)] = context
                    targets_NT[row, : len(continuation)] = continuation
                    lengths_N[row] = len(context)
                yield batch, (prompts_NP, lengths_N, targets_NT)

    def _context(self, pair: Pair) -> Sequence[int]:
        """What of a context fits before its continuation, whose last token is not read."""
        context, continuation = pair
        return context[-(self.max_length + 1 - len(continuation)) :]


def _padded(number: int) -> int:
    padded = 1
    while padded < number:
        padded *= _TARGETS_BASE
    return padded
