"""Steering that acts inside of the network: edits of hidden states, asked for before it reads.

What a method edits is the model's own reading, whose logits all methods then combine; so it stands
before them wherever it is in the list. Branches read without edits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from detox_jax.generation.steering.steering import State, Steering
from detox_jax.models.edits import Edit

Edits = tuple[Edit, ...]


@runtime_checkable
class Editing(Protocol):
    """What a `Steering` has beside its own methods where it edits hidden states."""

    def prompt_edits(self) -> Edits:
        """What is edited while a prompt is prefilled, all of it but the last token."""
        ...

    def step_edits(self, state: State, token_R: jax.Array) -> tuple[Edits, State]:
        """What is edited while the model reads `token_R`, and the state for `adjust`."""
        ...


def in_float32(
    h: jax.Array, strength: jax.Array, rule: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """The states after a rule in float32; to the bit as they are where its strength is 0."""
    return jnp.where(strength == 0, h, rule(h.astype(jnp.float32)).astype(h.dtype))


def of_prompt(steerings: Sequence[Steering]) -> Edits:
    """The edits of all methods while prompts are prefilled, in their order."""
    return tuple(e for s in steerings if isinstance(s, Editing) for e in s.prompt_edits())


def of_step(
    steerings: Sequence[Steering], states: Sequence[State], token_R: jax.Array
) -> tuple[Edits, tuple[State, ...]]:
    """The edits of all methods while a token is read, in their order, and the methods' states."""
    edits: Edits = ()
    after = []
    for steering, state in zip(steerings, states, strict=True):
        if isinstance(steering, Editing):
            own, state = steering.step_edits(state, token_R)
            edits += own
        after.append(state)
    return edits, tuple(after)
