"""What a steered model says of given text, in one forward pass of each model that reads it.

A text that is there already needs no steps: every model reads all of it at once, as in training,
and the methods combine what the models say of each place. Logits are made of some places at a
time, since those of a whole batch over a real vocabulary are gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct

from detox_jax.generation.steering import editing
from detox_jax.generation.steering.steering import Distribution, Steering
from detox_jax.models.transformer import (
    TransformerLM,
    logits_in_chunks,
    output_logits,
    output_table,
)
from detox_jax.vocabulary import PAD_ID

_PLACES = 2048  # of which logits are made at once


@struct.dataclass
class Text:
    """Texts whose ends are asked for.

    Attributes:
      prompts_NP: ids, at least one each, padded on the right.
      lengths_N: tokens of each prompt.
      targets_NT: what follows, of which each token's probability is asked.
    """

    prompts_NP: jax.Array
    lengths_N: jax.Array
    targets_NT: jax.Array

    @property
    def read_NT(self) -> jax.Array:
        """The token behind which each target stands."""
        last_N1 = jnp.maximum(self.lengths_N - 1, 0)[:, None]
        last_N1 = jnp.take_along_axis(self.prompts_NP, last_N1, axis=1)
        return jnp.concatenate([last_N1, self.targets_NT[:, :-1]], axis=1)

    @property
    def before_NT(self) -> jax.Array:
        """The tokens of the text before each place's own, which is where `read_NT` stands."""
        first_N1 = jnp.maximum(self.lengths_N - 1, 0)[:, None]
        return first_N1 + jnp.arange(self.targets_NT.shape[1])

    def joined(self) -> tuple[jax.Array, jax.Array]:
        """Prompts and targets as one text each, without the last target: `[N, L]`, and lengths."""
        (N, P), T = self.prompts_NP.shape, self.targets_NT.shape[1]
        index_NL = jnp.broadcast_to(jnp.arange(P + T - 1), (N, P + T - 1))
        of_target_NL = index_NL - self.lengths_N[:, None]
        prompt_NL = jnp.take_along_axis(self.prompts_NP, jnp.minimum(index_NL, P - 1), axis=1)
        target_NL = jnp.take_along_axis(self.targets_NT, jnp.clip(of_target_NL, 0, T - 1), axis=1)
        tokens_NL = jnp.where(of_target_NL < 0, prompt_NL, target_NL)
        lengths_N = jnp.where(self.lengths_N > 0, self.lengths_N + T - 1, 0)
        return jnp.where(index_NL < lengths_N[:, None], tokens_NL, PAD_ID), lengths_N


@runtime_checkable
class OnePass(Protocol):
    """What a `Steering` has beside its own methods where given text needs no steps.

    One that edits hidden states edits all of the text as `Editing.prompt_edits` says.
    """

    def read_text(self, text: Text) -> Any:
        """What it knows of each place, behind the token that precedes the target: `[N, T, ...]`."""
        ...

    def adjust_text(self, distribution: Distribution, known: Any) -> Distribution:
        """The distribution of R places, of which it knows so much, `[R, ...]`."""
        ...


def can_read(steerings: Sequence[Steering]) -> bool:
    """Whether all of the methods can do without steps."""
    return all(isinstance(steering, OnePass) for steering in steerings)


def read(
    model: TransformerLM, params: Any, steerings: Sequence[Any], text: Text
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the tokens that follow prompts, as `scoring.read` has them.

    Args:
      model: the network.
      params: its parameters.
      steerings: what changes the distribution; of which `can_read` is true.
      text: what is read.

    Returns:
      `log_probs_NT`, minus infinity where a token is banned, and whether each target is the most
      probable token there.
    """
    config = model.config
    tokens_NL, _ = text.joined()
    how = {"edits": edits} if (edits := editing.of_prompt(steerings)) else {}
    states_NTD = states_at(model, params, tokens_NL, text.before_NT, **how)
    known = tuple(steering.read_text(text) for steering in steerings)
    table_VD = output_table(config, params)

    def say(states_RD: jax.Array, known: Any, target_R: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_RV = output_logits(config, table_VD, states_RD[:, None])[:, 0]
        distribution = Distribution.of_model(logits_RV, model.vocab_size)
        for steering, of_method in zip(steerings, known, strict=True):
            distribution = steering.adjust_text(distribution, of_method)
        log_probs_RV = distribution.log_probs()
        chosen_R = jnp.take_along_axis(log_probs_RV, target_R[:, None], axis=-1)[:, 0]
        return chosen_R, jnp.argmax(log_probs_RV, axis=-1) == target_R

    return by_places(say, states_NTD, known, text.targets_NT)


def states_at(
    model: TransformerLM, params: Any, tokens_BL: jax.Array, places_BT: jax.Array, **how: Any
) -> jax.Array:
    """Final hidden states, `[B, T, D]`, of which `output_logits` makes logits.

    Args:
      model: the network.
      params: its parameters.
      tokens_BL: ids; what lies beyond the network's context is padding.
      places_BT: where.
      **how: `edits`.
    """
    tokens_BL = tokens_BL[:, : model.config.max_length]
    places_BT = jnp.minimum(places_BT, tokens_BL.shape[1] - 1)
    states_BTD: Any = model.apply(
        {"params": params},
        tokens_BL,
        enable_dropout=False,
        logit_positions=places_BT,
        with_logits=False,
        **how,
    )
    return states_BTD


def unsteered(
    model: TransformerLM, params: Any, states_NTD: jax.Array, targets_NT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities under a model alone, and whether each target is the most probable token.

    Args:
      model: the network.
      params: its parameters.
      states_NTD: final hidden states behind which targets stand.
      targets_NT: what is asked for.
    """
    logits_of = logits_in_chunks(model.config, params, model.vocab_size)

    def say(states_RD: jax.Array, target_R: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_RV = logits_of(states_RD[:, None])[:, 0]
        chosen_R = jnp.take_along_axis(logits_RV, target_R[:, None], axis=-1)[:, 0]
        log_probs_R = chosen_R - jax.nn.logsumexp(logits_RV, axis=-1)
        return log_probs_R, jnp.argmax(logits_RV, axis=-1) == target_R

    return by_places(say, states_NTD, targets_NT)


def by_places(say: Callable[..., Any], *known: Any) -> Any:
    """What is said of all places, some of them at a time.

    Args:
      say: of R places, given what is known of them, `[R, ...]`.
      *known: pytrees of `[N, T, ...]`.

    Returns:
      Of each array that is said `[N, T, ...]`.
    """
    N, T = jax.tree.leaves(known)[0].shape[:2]
    size = min(T, max(1, _PLACES // N))
    parts = -(-T // size)

    def cut(leaf: jax.Array) -> jax.Array:
        spare = [(0, 0), (0, parts * size - T), *[(0, 0)] * (leaf.ndim - 2)]
        leaf = jnp.pad(leaf, spare).reshape(N, parts, size, *leaf.shape[2:])
        return leaf.swapaxes(0, 1).reshape(parts, N * size, *leaf.shape[3:])

    def joined(leaf: jax.Array) -> jax.Array:
        leaf = leaf.reshape(parts, N, size, *leaf.shape[2:]).swapaxes(0, 1)
        return leaf.reshape(N, parts * size, *leaf.shape[3:])[:, :T]

    said = jax.lax.map(lambda part: say(*part), jax.tree.map(cut, known))
    return jax.tree.map(joined, said)
