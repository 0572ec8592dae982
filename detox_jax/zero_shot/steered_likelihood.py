"""Log-likelihoods of continuations under a model that is steered while it reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.generation.steering import scoring
from detox_jax.generation.steering import steering as steering_lib
from detox_jax.zero_shot.likelihood import Likelihood, LikelihoodReader, Pair

# Choices are short and of many lengths: few shapes.
_PADDING_BASE = 4


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
    texts = scoring.steered_texts(loaded, methods, mesh, batch_size, max_length, _PADDING_BASE)
    if texts is None:
        return LikelihoodReader(loaded.module, loaded.params, mesh, batch_size, max_length)
    return SteeredReader(texts)


class SteeredReader:
    """Reads continuations under a steered model, as `LikelihoodReader` does under a model.

    Attributes:
      max_length: tokens of context and continuation, without the last one.
      batch_size: rows at once, a multiple of the mesh's batch shards.
    """

    def __init__(self, texts: scoring.SteeredTexts):
        self.max_length, self.batch_size = texts.max_length, texts.batch_size
        self._texts = texts

    def __call__(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """The likelihood of each continuation after its context, see `LikelihoodReader`.

        Raises:
          UserError: if a continuation alone is longer than the model reads.
        """
        for _, continuation in pairs:
            if len(continuation) > self.max_length:
                raise UserError(
                    f"a continuation has {len(continuation)} tokens, but the steered model reads "
                    f"{self.max_length}; leave its task out, or split it"
                )
        # Nothing is certain to follow.
        return [
            Likelihood(float(said.log_probs_T.sum(dtype=np.float64)), bool(said.is_best_T.all()))
            for said in self._texts(pairs, "likelihood")
        ]
