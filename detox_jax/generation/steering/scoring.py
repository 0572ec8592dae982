"""What a steered model says of given text: the distributions that its loop draws from.

Methods that can do without steps read a text in one pass (`one_pass`). For any other the loop's
steps are taken one by one, fed with the text in place of draws: a prompt is prefilled, then each
token is scored and read. Sampling, which comes behind the methods, is no part of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from detox_jax import terminal
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.generation import caches
from detox_jax.generation.decoding import bucket_length
from detox_jax.generation.steering import editing, one_pass
from detox_jax.generation.steering import steering as steering_lib
from detox_jax.generation.steering.steering import Loaded, Method, Steering
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import PAD_ID

Pair = tuple[Sequence[int], Sequence[int]]


def why_unscored(methods: Sequence[Method]) -> str | None:
    """Why a text has no probability of its own under some of the methods; None where it has one.

    Args:
      methods: of STEERING; each may have `unscored`, the reason why it is one of them.

    Raises:
      UserError: for what is no list of methods.
    """
    steering_lib.check(methods)
    for method in methods:
        if reason := getattr(method, "unscored", None):
            return f"{type(method).__name__}, which {reason}"
    return None


def require_scored(verb: str, methods: Sequence[Method]) -> None:
    """Refuses methods under which a text has no probability of its own.

    Args:
      verb: that reads probabilities, for the message.
      methods: of STEERING.

    Raises:
      UserError: naming the first of them, and why; also for what is no list of methods.
    """
    if reason := why_unscored(methods):
        raise UserError(
            f"STEERING: {verb} cannot score text under {reason}; leave it out, and evaluate what "
            "`generate` writes with it"
        )


def read(
    model: TransformerLM,
    params: Any,
    steerings: Sequence[Steering],
    prompts_NP: jax.Array,
    lengths_N: jax.Array,
    targets_NT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the tokens that follow prompts, token by token.

    Args:
      model: the network.
      params: its parameters.
      steerings: what changes the distribution.
      prompts_NP: ids, at least one each, padded on the right.
      lengths_N: tokens of each.
      targets_NT: what follows; where a row has fewer, what is said behind them means nothing.

    Returns:
      `log_probs_NT`, minus infinity where a token is banned, and whether each target is the most
      probable token there.
    """
    (N, P), T = prompts_NP.shape, targets_NT.shape[1]
    before_N = jnp.maximum(lengths_N - 1, 0)
    cache = caches.empty(model, params, N, P + T)
    if P > 1:  # The first step reads the last token, so one alone has no prefill.
        prompt_edits = editing.of_prompt(steerings)
        _, cache = caches.apply(
            model,
            params,
            cache,
            prompts_NP,
            prompt_edits,
            prefill=True,
            prefill_lengths=before_N,
        )
    states = steering_lib.start(steerings, prompts_NP, lengths_N, P + T)
    last_N1 = jnp.take_along_axis(prompts_NP, before_N[:, None], axis=1)
    read_NT = jnp.concatenate([last_N1, targets_NT[:, :-1]], axis=1)

    def step(carry: Any, tokens: tuple[jax.Array, jax.Array]) -> Any:
        cache, states = carry
        token_N, target_N = tokens
        edits, states = editing.of_step(steerings, states, token_N)
        logits_N1V, cache = caches.apply(model, params, cache, token_N[:, None], edits, decode=True)
        distribution, states = steering_lib.adjust(
            steerings, states, logits_N1V[:, 0], token_N, model.vocab_size
        )
        log_probs_NV = distribution.log_probs()
        chosen_N = jnp.take_along_axis(log_probs_NV, target_N[:, None], axis=-1)[:, 0]
        return (cache, states), (chosen_N, jnp.argmax(log_probs_NV, axis=-1) == target_N)

    _, scored = jax.lax.scan(step, (cache, states), (read_NT.T, targets_NT.T))
    log_probs_TN, is_best_TN = scored
    return log_probs_TN.T, is_best_TN.T


# --- many texts -------------------------------------------------------------------------------

# Of the module: a sweep over strengths finds them compiled.
_read = jax.jit(read, static_argnums=0)
_read_at_once = jax.jit(one_pass.read, static_argnums=0)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a steered model says of one continuation.

    Attributes:
      log_probs_T: of each token, in nats; minus infinity where it is banned.
      is_best_T: whether it is the most probable one at its place.
    """

    log_probs_T: np.ndarray
    is_best_T: np.ndarray


class SteeredTexts:
    """Reads continuations under a steered model, in batches of few shapes.

    Each row is a continuation, since what a method knows belongs to one text.

    Attributes:
      max_length: tokens of context and continuation, without the last one.
      batch_size: rows at once, a multiple of the mesh's batch shards.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        steerings: Sequence[Steering],
        mesh: Mesh,
        batch_size: int,
        max_length: int,
        padding_base: int,
    ):
        """Prepares reading; see `steered_texts` for the arguments."""
        self.max_length = max_length
        shards = meshes.num_batch_shards(mesh)
        self.batch_size = -(-batch_size // shards) * shards
        self._loaded, self._steerings, self._mesh = loaded, tuple(steerings), mesh
        self._padding_base = padding_base

    def __call__(self, pairs: Sequence[Pair], title: str) -> list[Reading]:
        """What is said of each continuation.

        Args:
          pairs: `(context, continuation)`, token ids; a context has at least one, a continuation at
            most `max_length`. What exceeds that together is cut from the left.
          title: of the bar that shows the progress.
        """
        nothing = Reading(np.zeros(0, np.float32), np.zeros(0, bool))
        readings = [nothing] * len(pairs)
        model, params = self._loaded.module, self._loaded.params
        with (
            meshes.sharding_scope(self._mesh),
            terminal.bar(title, len(pairs), unit="texts") as advance,
        ):
            for members, arrays in self._batches(pairs):
                arrays = meshes.to_mesh(arrays, meshes.batch_sharding(self._mesh))
                if one_pass.can_read(self._steerings):
                    text = one_pass.Text(*arrays)
                    scored = _read_at_once(model, params, self._steerings, text)
                else:
                    scored = _read(model, params, self._steerings, *arrays)
                log_probs_NT, is_best_NT = meshes.to_host(scored)
                for row, number in enumerate(members):
                    T = len(pairs[number][1])
                    readings[number] = Reading(log_probs_NT[row, :T], is_best_NT[row, :T])
                advance(len(members))
        return readings

    def _batches(
        self, pairs: Sequence[Pair]
    ) -> Iterator[tuple[list[int], tuple[np.ndarray, np.ndarray, np.ndarray]]]:
        """Pairs of one padded shape, with `prompts`, `lengths`, `targets`; the longest first."""
        groups: dict[tuple[int, int], list[int]] = {}
        for number, (_, continuation) in enumerate(pairs):
            if not continuation:
                continue
            context = self._context(pairs[number])
            padded = _padded(len(continuation), self._padding_base)
            shape = bucket_length(len(context), self.max_length), padded
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


def steered_texts(
    loaded: LoadedModel,
    methods: Sequence[Loaded],
    mesh: Mesh,
    batch_size: int,
    max_length: int,
    padding_base: int = 2,
) -> SteeredTexts | None:
    """What reads texts under a model and all that steers it; None where nothing steers.

    Args:
      loaded: the model.
      methods: loaded methods, in their order.
      mesh: where the model is.
      batch_size: rows at once.
      max_length: tokens that are read at once; fewer where a method can read no more.
      padding_base: continuations are padded to powers of it, since each shape is compiled.

    Raises:
      UserError: if a method leaves no room for a text.
    """
    steerings = steering_lib.in_loop(methods)
    if not steerings:
        return None
    most = steering_lib.longest(methods, max_length)
    if most < 2:
        raise UserError(f"STEERING leaves room for {most} tokens of text; shorten its prefixes")
    return SteeredTexts(loaded, steerings, mesh, batch_size, most, padding_base)


def _padded(number: int, base: int) -> int:
    padded = 1
    while padded < number:
        padded *= base
    return padded
