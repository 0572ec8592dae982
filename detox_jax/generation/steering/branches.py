"""Branches: what else is run on each step, beside the model that is steered.

A branch is a model, or the same model behind a prefix. Branches that share weights are one call of
K rows in place of each row: prefixes of one model, and adaptations of one base, whose weights are
read once and lie in memory once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from detox_jax.checkpoints import params as params_lib
from detox_jax.generation import caches
from detox_jax.generation.steering import one_pass
from detox_jax.generation.steering.steering import State, is_token
from detox_jax.models.edits import HEADS
from detox_jax.models.transformer import TransformerLM, output_logits, output_table
from detox_jax.vocabulary import PAD_ID

_Cache = Any
_Rows = dict[str, jax.Array]
Known = tuple[jax.Array, ...]  # of each `Branches` its final states


@struct.dataclass
class Branches:
    """K branches over the same shared weights; K = 1 for a model of its own.

    Attributes:
      module: the network.
      shared: parameters that all branches have.
      varied: the others, with K on axis 0 of each leaf; None where the branches differ in their
        prefixes alone.
      prefix_KQ: ids that stand before each branch's prompt, padded on the right.
      lengths_K: of the prefixes; 0 for none.
      bos_id: a prompt that starts with it keeps it before the prefix.
    """

    module: TransformerLM = struct.field(pytree_node=False)
    shared: params_lib.Params
    varied: params_lib.Params | None
    prefix_KQ: jax.Array
    lengths_K: jax.Array
    bos_id: int = struct.field(pytree_node=False)

    @classmethod
    def of_model(cls, module: TransformerLM, params: params_lib.Params) -> Branches:
        """A model of its own, without a prefix."""
        nothing = np.zeros((1, 0), np.int32), np.zeros(1, np.int32)
        return cls(module, params, None, *nothing, bos_id=PAD_ID)  # type: ignore

    @classmethod
    def of_adaptations(
        cls,
        module: TransformerLM,
        shared: params_lib.Params,
        adaptations: Sequence[params_lib.Params],
    ) -> Branches:
        """Adaptations of one kind and size of one base.

        Args:
          module: base and adaptation.
          shared: the base's parameters.
          adaptations: those of each adaptation.
        """
        varied = jax.tree.map(lambda *leaves: jnp.stack(leaves), *adaptations)
        return cls.of_stacked(module, shared, varied, len(adaptations))

    @classmethod
    def of_stacked(
        cls, module: TransformerLM, shared: params_lib.Params, varied: params_lib.Params, K: int
    ) -> Branches:
        """`of_adaptations` whose K parameters already lie on axis 0 of each leaf."""
        nothing = np.zeros((K, 0), np.int32), np.zeros(K, np.int32)
        return cls(module, shared, varied, *nothing, bos_id=PAD_ID)  # type: ignore

    @classmethod
    def of_prefixes(
        cls,
        module: TransformerLM,
        params: params_lib.Params,
        prefixes: Sequence[Sequence[int]],
        bos_id: int,
    ) -> Branches:
        """One model behind several prefixes."""
        lengths_K = np.array([len(prefix) for prefix in prefixes], np.int32)
        prefix_KQ = np.full((len(prefixes), lengths_K.max()), PAD_ID, np.int32)
        for row, prefix in zip(prefix_KQ, prefixes, strict=True):
            row[: len(prefix)] = prefix
        return cls(module, params, None, prefix_KQ, lengths_K, bos_id)  # type: ignore

    @property
    def longest_prefix(self) -> int:
        """Tokens of the longest prefix."""
        return self.prefix_KQ.shape[1]

    # --- in the loop --------------------------------------------------------------------------

    def start(self, prompts_NP: jax.Array, lengths_N: jax.Array, positions: int) -> State:
        """The branches' caches of prefixes and prompts, all but the last token.

        Returns:
          On axis 0 the branches' own last tokens, which differ from the model's where a prefix
          stands behind all of a prompt; on axis 1 the caches, or on axis 2 where weights vary,
          behind layers and branches: so the scan over layers takes them as they lie.
        """
        return self.read(prompts_NP, lengths_N, positions)[0]

    def read(
        self, prompts_NP: jax.Array, lengths_N: jax.Array, positions: int
    ) -> tuple[State, jax.Array, jax.Array]:
        """`start`, and how probable the prompts are to the branches.

        A prompt's tokens are predicted from its prefix on; without one, the first is not.

        Returns:
          The state, `log_likelihood_NK` in nats, and `predicted_NK`, of how many tokens.
        """
        tokens_NKL, lengths_NK = self._prompts(prompts_NP, lengths_N)
        last_NK1 = jnp.maximum(lengths_NK - 1, 0)[..., None]
        first_NK = jnp.take_along_axis(tokens_NKL, last_NK1, axis=-1)[..., 0]
        rows = {"first_RK": first_NK, "starts_R": jnp.ones(lengths_N.shape, bool)}
        size = positions + self.longest_prefix
        read_NK = jnp.where(lengths_N[:, None] > 0, last_NK1[..., 0], 0)
        N, K, L = tokens_NKL.shape
        if self.varied is not None:
            log_probs_KNL, cache = jax.vmap(
                lambda varied: self._read_prompts(varied, tokens_NKL[:, 0], read_NK[:, 0], size),
                out_axes=(0, 1),
            )(self.varied)
            state: State = {0: rows, 2: cache}
            log_probs_NKL = log_probs_KNL.swapaxes(0, 1)
        else:
            folded_BL, read_B = tokens_NKL.reshape(N * K, L), read_NK.reshape(N * K)
            log_probs_BL, cache = self._read_prompts(None, folded_BL, read_B, size)
            state = {0: rows, 1: jax.tree.map(lambda leaf: _unfolded(leaf, K), cache)}
            log_probs_NKL = log_probs_BL.reshape(N, K, L)
        before_N1 = (prompts_NP[:, :1] == self.bos_id).astype(jnp.int32)
        first_predicted_NK = jnp.maximum(before_N1 + jnp.asarray(self.lengths_K), 1)
        index_L = jnp.arange(L)
        predicted_NKL = (index_L >= first_predicted_NK[..., None]) & (
            index_L < lengths_NK[..., None]
        )
        # What is said behind the last token is of none.
        said_NKM = jnp.where(predicted_NKL[..., 1:], log_probs_NKL[..., :-1], 0.0)
        return state, jnp.sum(said_NKM, axis=-1), jnp.sum(predicted_NKL, axis=-1)

    def step(self, state: State, token_R: jax.Array, width: int) -> tuple[jax.Array, State]:
        """The logits of every branch behind a token, and the new state.

        Args:
          state: of `start`, or of the step before.
          token_R: what the model has just read.
          width: of the model's logits, V; those of another width are cut or padded.

        Returns:
          Finite `logits_RKV`, 0 in the columns that stand for no token.
        """
        rows: _Rows = state[0]
        token_RK = _next_tokens(rows, token_R)
        R, K = token_RK.shape
        after: State = {0: _gone_on(rows)}
        if self.varied is not None:
            read = jax.vmap(self._read, in_axes=(0, 1, 1), out_axes=(0, 1))
            logits_KRV, after[2] = read(self.varied, state[2], token_RK)
            logits_RKV = logits_KRV.swapaxes(0, 1)
        else:
            folded = jax.tree.map(_folded, state[1])
            logits_BV, cache = self._read(None, folded, token_RK.reshape(R * K))
            after[1] = jax.tree.map(lambda leaf: _unfolded(leaf, K), cache)
            logits_RKV = logits_BV.reshape(R, K, -1)
        return self._of_width(logits_RKV, width), after

    def read_text(self, text: one_pass.Text) -> jax.Array:
        """The branches' final states where the model's are asked for, `[N, T, K, D]`."""
        tokens_NKL, _ = self._prompts(*text.joined())
        places_NKT = text.before_NT[:, None] + jnp.asarray(self.lengths_K)[:, None]
        N, K, L = tokens_NKL.shape
        if self.varied is not None:
            states_KNTD = jax.vmap(
                lambda varied: one_pass.states_at(
                    self.module, self._params(varied), tokens_NKL[:, 0], places_NKT[:, 0]
                )
            )(self.varied)
            return jnp.moveaxis(states_KNTD, 0, 2)
        states_BTD = one_pass.states_at(
            self.module, self.shared, tokens_NKL.reshape(N * K, L), places_NKT.reshape(N * K, -1)
        )
        return states_BTD.reshape(N, K, *states_BTD.shape[1:]).swapaxes(1, 2)

    def logits_of(self, states_RKD: jax.Array, width: int) -> jax.Array:
        """The logits of final states of R places, as `step` gives them."""

        def read(varied: params_lib.Params | None, states_RkD: jax.Array) -> jax.Array:
            config = self.module.config
            return output_logits(config, output_table(config, self._params(varied)), states_RkD)

        if self.varied is None:
            return self._of_width(read(None, states_RKD), width)
        each = jax.vmap(read, in_axes=(0, 1), out_axes=1)
        return self._of_width(each(self.varied, states_RKD[:, :, None])[:, :, 0], width)

    def _of_width(self, logits_RKV: jax.Array, width: int) -> jax.Array:
        """Cut or padded to a width, and 0 in the columns that stand for no token."""
        logits_RKV = logits_RKV[..., :width]
        logits_RKV = jnp.pad(logits_RKV, ((0, 0), (0, 0), (0, width - logits_RKV.shape[-1])))
        tokens_V = is_token(width, self.module.vocab_size)
        return jnp.where(tokens_V, logits_RKV, 0.0)

    def step_heads(self, state: State, token_R: jax.Array) -> tuple[jax.Array, State]:
        """The heads of every branch, before the output projection, as `step` reads a token.

        For prefixes of one model.

        Returns:
          `[N, R, K, H, K]`: layers, rows, branches, heads and their width; and the new state.
        """
        rows: _Rows = state[0]
        token_RK = _next_tokens(rows, token_R)
        R, K = token_RK.shape
        folded = jax.tree.map(_folded, state[1])
        _, cache, states = caches.apply_recording(
            self.module, self.shared, folded, token_RK.reshape(R * K, 1), decode=True
        )
        after: State = {
            0: _gone_on(rows),
            1: jax.tree.map(lambda leaf: _unfolded(leaf, K), cache),
        }
        return _unfolded(states[HEADS][:, :, 0], K), after

    def _read(
        self, varied: params_lib.Params | None, cache: _Cache, token_B: jax.Array
    ) -> tuple[jax.Array, _Cache]:
        logits_B1V, cache = caches.apply(
            self.module, self._params(varied), cache, token_B[:, None], decode=True
        )
        return logits_B1V[:, 0], cache

    def _read_prompts(
        self, varied: params_lib.Params | None, tokens_BL: jax.Array, read_B: jax.Array, size: int
    ) -> tuple[jax.Array, _Cache]:
        """How probable each token's next one is, `[B, L]`, and the cache of `prefill`."""
        params = self._params(varied)
        states_BLD, cache = prefill(self.module, params, tokens_BL, read_B, size)
        next_BL = jnp.roll(tokens_BL, -1, axis=1)
        return one_pass.unsteered(self.module, params, states_BLD, next_BL)[0], cache

    def _params(self, varied: params_lib.Params | None) -> params_lib.Params:
        return self.shared if varied is None else params_lib.combine(self.shared, varied)

    def _prompts(self, prompts_NP: jax.Array, lengths_N: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Each branch's prefix and prompt, joined as ids, `[N, K, Q + P]`, and their lengths.

        The prompt keeps its ids: of joined strings the first token would often be another.
        """
        P, Q = prompts_NP.shape[1], self.longest_prefix
        index_L = jnp.arange(P + Q)
        # What stands before the prefix: the token that starts a document, or nothing.
        before_N11 = (prompts_NP[:, 0] == self.bos_id).astype(jnp.int32)[:, None, None]
        lengths_K1 = jnp.asarray(self.lengths_K)[:, None]
        of_prefix_NKL = index_L - before_N11 + jnp.zeros_like(lengths_K1)
        in_prefix_NKL = (of_prefix_NKL >= 0) & (of_prefix_NKL < lengths_K1)
        of_prompt_NKL = jnp.where(of_prefix_NKL < 0, index_L, index_L - lengths_K1)
        N, K, L = of_prompt_NKL.shape
        prompts_NKP = jnp.broadcast_to(prompts_NP[:, None], (N, K, P))
        tokens_NKL = jnp.take_along_axis(prompts_NKP, jnp.clip(of_prompt_NKL, 0, P - 1), axis=-1)
        if Q:
            prefix_NKQ = jnp.broadcast_to(jnp.asarray(self.prefix_KQ), (N, K, Q))
            prefix_NKL = jnp.take_along_axis(prefix_NKQ, jnp.clip(of_prefix_NKL, 0, Q - 1), axis=-1)
            tokens_NKL = jnp.where(in_prefix_NKL, prefix_NKL, tokens_NKL)
        lengths_NK = jnp.where(lengths_N[:, None] > 0, lengths_N[:, None] + self.lengths_K, 0)
        return jnp.where(index_L < lengths_NK[..., None], tokens_NKL, PAD_ID), lengths_NK


def start(
    branches: Sequence[Branches], prompts_NP: jax.Array, lengths_N: jax.Array, positions: int
) -> State:
    """The states of all branches as one, by the axis of the rows and then by their place."""
    return _together([b.start(prompts_NP, lengths_N, positions) for b in branches])


def read(
    branches: Sequence[Branches], prompts_NP: jax.Array, lengths_N: jax.Array, positions: int
) -> tuple[State, jax.Array, jax.Array]:
    """`start`, and the log-likelihoods and numbers of the prompts' tokens, see `Branches.read`."""
    states, likelihoods, counts = zip(
        *(b.read(prompts_NP, lengths_N, positions) for b in branches), strict=True
    )
    return _together(states), jnp.concatenate(likelihoods, 1), jnp.concatenate(counts, 1)


def step(
    branches: Sequence[Branches], state: State, token_R: jax.Array, width: int
) -> tuple[jax.Array, State]:
    """The logits of all branches in their order, `[R, K, V]`, and the new state."""
    logits, states = [], []
    for place, branch in enumerate(branches):
        before = {axis: trees[place] for axis, trees in state.items() if place in trees}
        logits_RKV, after = branch.step(before, token_R, width)
        logits.append(logits_RKV)
        states.append(after)
    return jnp.concatenate(logits, axis=1), _together(states)


def read_text(branches: Sequence[Branches], text: one_pass.Text) -> Known:
    """What all branches know of a text, see `Branches.read_text`."""
    return tuple(branch.read_text(text) for branch in branches)


def logits_of(branches: Sequence[Branches], known: Known, width: int) -> jax.Array:
    """The logits of all branches in their order, `[R, K, V]`, of R places of a text."""
    logits = [
        branch.logits_of(states_RKD, width)
        for branch, states_RKD in zip(branches, known, strict=True)
    ]
    return jnp.concatenate(logits, axis=1)


def _together(states: Sequence[State]) -> State:
    axes = sorted({axis for state in states for axis in state})
    return {
        axis: {place: state[axis] for place, state in enumerate(states) if axis in state}
        for axis in axes
    }


def prefill(
    module: TransformerLM,
    params: params_lib.Params,
    tokens_BL: jax.Array,
    read_B: jax.Array,
    size: int,
) -> tuple[jax.Array, _Cache]:
    """Final states of all tokens, and a cache of `size` positions that has read so many a row."""
    cache = caches.empty(module, params, tokens_BL.shape[0], size)
    return caches.apply(
        module,
        params,
        cache,
        tokens_BL,
        prefill=True,
        prefill_lengths=read_B,
        with_logits=False,
    )


def _next_tokens(rows: _Rows, token_R: jax.Array) -> jax.Array:
    """What each branch reads: a row's first token of its own, then the one that was drawn."""
    return jnp.where(rows["starts_R"][:, None], rows["first_RK"], token_R[:, None])


def _gone_on(rows: _Rows) -> _Rows:
    """The rows behind a step: none starts any more."""
    return {**rows, "starts_R": jnp.zeros_like(rows["starts_R"])}


def _unfolded(leaf: jax.Array, K: int) -> jax.Array:
    """`[N, R K, ...]` as `[N, R, K, ...]`, so that rows have an axis of their own."""
    return leaf.reshape(leaf.shape[0], leaf.shape[1] // K, K, *leaf.shape[2:])


def _folded(leaf: jax.Array) -> jax.Array:
    return leaf.reshape(leaf.shape[0], leaf.shape[1] * leaf.shape[2], *leaf.shape[3:])
