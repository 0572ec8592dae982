"""What a steered model says of given text: its own loop, fed with the text in place of draws.

Every method gives the next token's distribution through `Steering`, so the loop's steps are taken
one by one: a prompt is prefilled, then each token is scored and read. Sampling, which comes behind
the methods, is no part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from detox_jax.errors import UserError
from detox_jax.generation import caches
from detox_jax.generation.steering import editing
from detox_jax.generation.steering import steering as steering_lib
from detox_jax.generation.steering.steering import Method, Steering
from detox_jax.models.transformer import TransformerLM


def require_scored(verb: str, methods: Sequence[Method]) -> None:
    """Refuses methods under which a text has no probability of its own.

    Args:
      verb: that reads probabilities, for the message.
      methods: of STEERING; each may have `unscored`, the reason why it is one of them.

    Raises:
      UserError: naming the first of them, and why; also for what is no list of methods.
    """
    steering_lib.check(methods)
    for method in methods:
        if reason := getattr(method, "unscored", None):
            raise UserError(
                f"STEERING: {verb} cannot score text under {type(method).__name__}, which "
                f"{reason}; leave it out, and evaluate what `generate` writes with it"
            )


def read(
    model: TransformerLM,
    params: Any,
    steerings: Sequence[Steering],
    prompts_NP: jax.Array,
    lengths_N: jax.Array,
    targets_NT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the tokens that follow prompts.

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
            steerings, states, logits_N1V[:, 0], token_N, model.config.vocab_size
        )
        log_probs_NV = distribution.log_probs()
        chosen_N = jnp.take_along_axis(log_probs_NV, target_N[:, None], axis=-1)[:, 0]
        return (cache, states), (chosen_N, jnp.argmax(log_probs_NV, axis=-1) == target_N)

    _, scored = jax.lax.scan(step, (cache, states), (read_NT.T, targets_NT.T))
    log_probs_TN, is_best_TN = scored
    return log_probs_TN.T, is_best_TN.T
