"""Looking ahead: what a network's final hidden state would be behind each candidate token.

A row's k candidates are read in one call at the place behind the text, all from the row's one
cache; what they would add to it is kept, so that the one that is drawn is not read again.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from detox_jax.checkpoints import params as params_lib
from detox_jax.generation import caches
from detox_jax.generation.steering import branches
from detox_jax.generation.steering.steering import State
from detox_jax.models.transformer import TransformerLM
from detox_jax.vocabulary import PAD_ID

_INDEX = "cache_index"
_NO_TOKEN = -1


@struct.dataclass
class Lookahead:
    """A network that reads candidates ahead of the text.

    Attributes:
      module: the network; the steered one or one of its vocabulary.
      params: all of its parameters.
      k: candidates of a row.
    """

    module: TransformerLM = struct.field(pytree_node=False)
    params: params_lib.Params
    k: int = struct.field(pytree_node=False)

    def start(self, prompts_NP: jax.Array, lengths_N: jax.Array, positions: int) -> State:
        """The state of rows that have read their prompts but for the last token."""
        N = lengths_N.shape[0]
        read_N = jnp.maximum(lengths_N - 1, 0)
        _, cache = branches.prefill(self.module, self.params, prompts_NP, read_N, positions)
        added = {
            name: jnp.zeros((*leaf.shape[:3], self.k, leaf.shape[4]), leaf.dtype)
            for name, leaf in cache.items()
            if name != _INDEX
        }
        width = self.module.config.emb_dim
        rows = {
            "ids_Rk": jnp.full((N, self.k), _NO_TOKEN, jnp.int32),
            "hidden_RkD": jnp.zeros((N, self.k, width), jnp.float32),
        }
        return {0: rows, 1: {"cache": cache, "added": added}}

    def read(self, state: State, token_R: jax.Array) -> tuple[jax.Array, State]:
        """Reads a token, which costs nothing where it is one of the candidates.

        Returns:
          The final hidden state behind it, float32 `hidden_RD`, and the new state.
        """
        ids_Rk, cache, added = state[0]["ids_Rk"], state[1]["cache"], state[1]["added"]
        is_it_Rk = ids_Rk == token_R[:, None]
        # A row that waits reads padding, which changes nothing.
        known_R = jnp.any(is_it_Rk, axis=-1) | (token_R == PAD_ID)
        place_R = jnp.argmax(is_it_Rk, axis=-1)
        hidden_RD = jnp.take_along_axis(state[0]["hidden_RkD"], place_R[:, None, None], axis=1)[
            :, 0
        ]
        new = {name: _at(leaf, place_R) for name, leaf in added.items()}

        def known() -> Any:
            return hidden_RD, new

        def unknown() -> Any:
            read_R1D, read = self._next(cache, token_R[:, None])
            chosen = {
                name: jnp.where(known_R.reshape(1, -1, 1, 1, 1), new[name], read[name])
                for name in new
            }
            return jnp.where(known_R[:, None], hidden_RD, read_R1D[:, 0]), chosen

        # The first token of a row is its prompt's last; later ones are candidates, unless another
        # method has left none of them.
        hidden_RD, new = jax.lax.cond(jnp.all(known_R), known, unknown)
        index_R = cache[_INDEX][0]
        cache = {
            name: leaf + 1 if name == _INDEX else _put(leaf, new[name], index_R)
            for name, leaf in cache.items()
        }
        return hidden_RD, {0: state[0], 1: {"cache": cache, "added": added}}

    def ahead(self, state: State, ids_Rk: jax.Array) -> tuple[jax.Array, State]:
        """The final hidden state behind each candidate, `hidden_RkD`, and the new state."""
        cache = state[1]["cache"]
        hidden_RkD, added = self._next(cache, ids_Rk)
        rows = {"ids_Rk": ids_Rk, "hidden_RkD": hidden_RkD}
        return hidden_RkD, {0: rows, 1: {"cache": cache, "added": added}}

    def _next(self, cache: Any, ids_Rk: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The hidden states behind tokens, and what each adds to the cache, `[N, R, G, k, K]`."""
        hidden_RkD, added = caches.apply(
            self.module, self.params, cache, ids_Rk, decode=True, ahead=True, with_logits=False
        )
        added = {name: leaf for name, leaf in added.items() if name != _INDEX}
        return hidden_RkD.astype(jnp.float32), added


def candidates(logits_RV: jax.Array, allowed_RV: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k likeliest tokens that may be drawn, and which of them are: there may be fewer."""
    logits_Rk, ids_Rk = jax.lax.top_k(jnp.where(allowed_RV, logits_RV, -jnp.inf), k)
    return ids_Rk.astype(jnp.int32), logits_Rk > -jnp.inf


def of_candidates(values_Rk: jax.Array, ids_Rk: jax.Array, width: int) -> jax.Array:
    """Values of candidates at their columns, 0 (False) in the others, `[R, V]`."""
    rows_R1 = jnp.arange(ids_Rk.shape[0])[:, None]
    nothing_RV = jnp.zeros((ids_Rk.shape[0], width), values_Rk.dtype)
    return nothing_RV.at[rows_R1, ids_Rk].set(values_Rk)


def is_any(ids_Rk: jax.Array, end_ids: tuple[int, ...]) -> jax.Array:
    """Which candidates end a text."""
    return functools.reduce(operator.or_, [ids_Rk == end_id for end_id in end_ids])


def _at(leaf_NRGMK: jax.Array, place_R: jax.Array) -> jax.Array:
    """One position of each row, `[N, R, G, 1, K]`."""
    return jnp.take_along_axis(leaf_NRGMK, place_R.reshape(1, -1, 1, 1, 1), axis=3)


def _put(leaf_NRGMK: jax.Array, new_NRG1K: jax.Array, place_R: jax.Array) -> jax.Array:
    here = jnp.arange(leaf_NRGMK.shape[3])[None, :] == place_R[:, None]
    return jnp.where(here[None, :, None, :, None], new_NRG1K, leaf_NRGMK)
