"""Edits of hidden states: what is changed in a network from outside, without a new parameter.

An edit names its site. Of a site that every layer has, its arrays have a leading layer axis, which
the scan over layers takes off, so that one compiled program serves all vectors of a shape. A
network without edits is the program that it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
from flax import linen as nn

# By site, in the order in which a layer reaches them: the heads before the output projection, what
# attention and what the MLP add to the residual stream, that stream behind the layer; and, once a
# network, the final hidden state, of which the logits are made.
HEADS, ATTENTION, MLP, RESIDUAL, FINAL = "heads", "attention", "mlp", "residual", "final"
SITES = (HEADS, ATTENTION, MLP, RESIDUAL, FINAL)
# The collection in which a call that lists it as mutable finds the states of every site, unedited.
RECORDED = "activations"
_STATES = "_states"


class Edit(Protocol):
    """A pytree that changes the states of one site; its arrays are the layer's own there."""

    @property
    def site(self) -> str:
        """One of `SITES`."""
        ...

    def __call__(self, h: jax.Array) -> jax.Array:
        """The edited states, of the same shape and dtype: `[B, L, D]`, of heads `[B, L, H, K]`."""
        ...


def pass_through(module: nn.Module, site: str, h: jax.Array, edits: Sequence[Any]) -> jax.Array:
    """What leaves a site: recorded where the caller asks for it, then edited in the order given.

    Args:
      module: that the site belongs to.
      site: one of `SITES`.
      h: the states.
      edits: of this layer, for any site.
    """
    if not module.is_initializing():  # or the recorded states would join a model's variables
        name = site + _STATES  # a submodule may have the site's own name
        nothing: Any = None
        module.sow(RECORDED, name, h, reduce_fn=lambda _, new: new, init_fn=lambda: nothing)
    for edit in edits:
        if edit.site == site:
            h = edit(h)
    return h


def recorded(variables: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The states of every site, unedited: `[N, B, L, ...]`, of the final one `[B, L, D]`.

    Args:
      variables: what a call of `TransformerLM` changed, with `RECORDED` among its mutable ones.
    """
    network = variables[RECORDED]
    layers = network["layers"]
    states = {site: layers[site + _STATES] for site in (ATTENTION, MLP, RESIDUAL)}
    states[HEADS] = layers["attention"][HEADS + _STATES]
    states[FINAL] = network[FINAL + _STATES]
    return states
