"""How the next token is drawn: small frozen dataclasses with one method, `sample`.

Every method draws by inverting the cumulative distribution with uniform numbers of a row's own
key, so a row's token depends on its own logits and its own key alone. The cumulative distribution
is taken in two levels, first of blocks of the vocabulary and then within one block: a running sum
over a whole vocabulary costs more than everything else of a draw.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from detox_jax.errors import UserError

# Counted in settings: the same seed gives other text where it differs. Version 1 took one running
# sum over the whole vocabulary.
DRAW_VERSION = 2
# Of a nucleus' mass and of a temperature. Float32 tells such a mass from 0, which no sum is below;
# and logits over such temperatures are finite, and tell what is no token, at -1e10, from the rest.
_LEAST, _HOTTEST = 1e-6, 1_000_000
# Blocks of the vocabulary, a divisor of its padded size and a multiple of the parts into which a
# mesh splits it, so that no block lies on two devices.
_BLOCKS = 128


class Sampling(Protocol):
    """What decoding asks of a sampling method."""

    def sample(self, logits_RV: jax.Array, keys_R: jax.Array) -> jax.Array:
        """Draws one token id a row from float32 logits, `[R]` int32."""
        ...


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The most probable token; the lowest id among equals."""

    def sample(self, logits_RV: jax.Array, keys_R: jax.Array) -> jax.Array:
        """See `Sampling`; the keys are not used."""
        del keys_R
        return jnp.argmax(logits_RV, axis=-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class TemperatureSampling:
    """Ancestral sampling from `softmax(logits / temperature)`."""

    temperature: float = 1.0

    def __post_init__(self):
        _check_temperature(self)

    def sample(self, logits_RV: jax.Array, keys_R: jax.Array) -> jax.Array:
        """See `Sampling`."""
        return _draw(jax.nn.softmax(logits_RV / self.temperature), keys_R)


@dataclasses.dataclass(frozen=True)
class TopKSampling:
    """Sampling among the `k` most probable tokens (Fan et al., 2018) and ties with the last."""

    k: int
    temperature: float = 1.0

    def __post_init__(self):
        _check_temperature(self)
        if self.k < 1:
            raise UserError(f"TopKSampling.k is {self.k}; must be at least 1")

    def sample(self, logits_RV: jax.Array, keys_R: jax.Array) -> jax.Array:
        """See `Sampling`."""
        k = min(self.k, logits_RV.shape[-1])
        threshold_R1 = jax.lax.top_k(logits_RV, k)[0][:, -1:]
        probs_RV = jax.nn.softmax(logits_RV / self.temperature)
        return _draw(jnp.where(logits_RV >= threshold_R1, probs_RV, 0.0), keys_R)


@dataclasses.dataclass(frozen=True)
class TopPSampling:
    """Nucleus sampling (Holtzman et al., 2020): the fewest tokens whose probability reaches `p`.

    Ties with the least probable of them are kept. SGEAT and RealToxicityPrompts use p = 0.9.
    """

    p: float = 0.9
    temperature: float = 1.0

    def __post_init__(self):
        _check_temperature(self)
        check_top_p("TopPSampling.p", self.p, "Greedy() for the most probable token alone")

    def sample(self, logits_RV: jax.Array, keys_R: jax.Array) -> jax.Array:
        """See `Sampling`."""
        probs_RV = jax.nn.softmax(logits_RV / self.temperature)
        return draw_from_nucleus(probs_RV, self.p, keys_R)[0]


def draw_from_nucleus(
    probs_RV: jax.Array, p: float, keys_R: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draws within the nucleus of mass `p`, without looking for its edge.

    A token is of the nucleus if those more probable than it have less than `p` together, which one
    pass over the vocabulary tells. So a token is drawn of all; where it turns out to lie outside,
    the next is drawn of those that are more probable, which are fewer and still hold the whole
    nucleus; and so on until one lies inside. Whatever was rejected before, a token that is accepted
    has the nucleus's distribution. At p = 0.9 nine rows of ten end with the first draw and a batch
    of hundreds with the third or fourth, where bisecting for the edge takes 31 passes and sorting
    more.

    Args:
      probs_RV: probabilities.
      p: mass of the nucleus; ties with the least probable of it belong to it.
      keys_R: of the rows.

    Returns:
      The ids drawn, `[R]` int32, and how often the whole batch was drawn.
    """
    weights_RCB = _in_blocks(probs_RV)

    def draw(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        draws, token_R, inside_R, above_R, sums_RC = state
        uniform_R = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, draws)))(keys_R)
        drawn_R = _pick_in_blocks(weights_RCB, sums_RC, above_R, uniform_R)
        weight_R = jnp.take_along_axis(probs_RV, drawn_R[:, None], axis=-1)[:, 0]
        token_R = jnp.where(inside_R, token_R, drawn_R)
        above_R = jnp.where(inside_R, above_R, weight_R)
        sums_RC = _block_sums(weights_RCB, above_R)
        return draws + 1, token_R, inside_R | (jnp.sum(sums_RC, -1) < p), above_R, sums_RC

    rows = probs_RV.shape[0]
    everything_R = jnp.full(rows, -1.0, probs_RV.dtype)
    start = (
        jnp.zeros((), jnp.int32),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(rows, bool),
        everything_R,
        _block_sums(weights_RCB, everything_R),
    )
    draws, token_R, *_ = jax.lax.while_loop(lambda state: ~jnp.all(state[2]), draw, start)
    return token_R, draws


def sample_among(
    sampling: Sampling, logits_RV: jax.Array, kept_RV: jax.Array, keys_R: jax.Array
) -> jax.Array:
    """Draws among the tokens of `kept_RV`, which stand in for the sampling's own nucleus.

    Where they are that nucleus, it is the draw of `sampling.sample`, bit for bit.
    """
    if not isinstance(sampling, TopPSampling):
        return sampling.sample(jnp.where(kept_RV, logits_RV, -jnp.inf), keys_R)
    # What is left out may be the likeliest by far, and would take all of the softmax.
    top_R1 = jnp.max(jnp.where(kept_RV, logits_RV, -jnp.inf), axis=-1, keepdims=True)
    probs_RV = jax.nn.softmax(jnp.minimum(logits_RV, top_R1) / sampling.temperature)

    def draw(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """One of `draw_from_nucleus`: of what is more probable than the last, or kept."""
        draws, token_R, inside_R, above_R = state
        uniform_R = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, draws)))(keys_R)
        candidates_RV = kept_RV | (probs_RV > above_R[:, None])
        drawn_R = _pick(jnp.where(candidates_RV, probs_RV, 0.0), uniform_R)
        token_R = jnp.where(inside_R, token_R, drawn_R)
        above_R = jnp.take_along_axis(probs_RV, token_R[:, None], axis=-1)[:, 0]
        inside_R = jnp.take_along_axis(kept_RV, token_R[:, None], axis=-1)[:, 0]
        return draws + 1, token_R, inside_R, above_R

    rows = probs_RV.shape[0]
    start = (
        jnp.zeros((), jnp.int32),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(rows, bool),
        jnp.full(rows, -1.0, probs_RV.dtype),
    )
    most = probs_RV.shape[-1]  # Every draw but the last rejects a token.
    return jax.lax.while_loop(lambda s: ~jnp.all(s[2]) & (s[0] < most), draw, start)[1]


def check_top_p(name: str, p: float, otherwise: str) -> None:
    """Refuses a mass that no nucleus has, or that float32 hardly tells from 0.

    Args:
      name: of the setting.
      p: the mass.
      otherwise: what else may be given, for the message.

    Raises:
      UserError: naming it.
    """
    if not _LEAST <= p <= 1:  # NaN is not either
        raise UserError(f"{name} is {p}; must be in [{_LEAST:g}, 1], such as 0.9; {otherwise}")


def _check_temperature(sampling: TemperatureSampling | TopKSampling | TopPSampling) -> None:
    if not _LEAST <= sampling.temperature <= _HOTTEST:
        raise UserError(
            f"{type(sampling).__name__}.temperature is {sampling.temperature}; must be positive, "
            f"from {_LEAST:g} to {_HOTTEST:,}, such as 0.7; Greedy() for the limit 0"
        )


def _draw(weights_RV: jax.Array, keys_R: jax.Array) -> jax.Array:
    """Draws an index with probability proportional to its weight; never one of weight 0."""
    return _pick(weights_RV, jax.vmap(jax.random.uniform)(keys_R))


def _pick(weights_RV: jax.Array, uniform_R: jax.Array) -> jax.Array:
    """The index at which the cumulative weight passes a share of the whole, from 0 to below 1."""
    weights_RCB = _in_blocks(weights_RV)
    everything_R = jnp.full(weights_RV.shape[0], -1.0, weights_RV.dtype)
    sums_RC = _block_sums(weights_RCB, everything_R)
    return _pick_in_blocks(weights_RCB, sums_RC, everything_R, uniform_R)


def _in_blocks(weights_RV: jax.Array) -> jax.Array:
    """Rows as C blocks of B weights; behind the last, weights of 0."""
    rows, size = weights_RV.shape
    padded_RV = jnp.pad(weights_RV, ((0, 0), (0, -size % _BLOCKS)))
    return padded_RV.reshape(rows, _BLOCKS, -1)


def _block_sums(weights_RCB: jax.Array, above_R: jax.Array) -> jax.Array:
    """Of each block, the sum of the weights that are larger than the row's `above_R`, `[R, C]`."""
    return jnp.sum(jnp.where(weights_RCB > above_R[:, None, None], weights_RCB, 0.0), axis=-1)


def _pick_in_blocks(
    weights_RCB: jax.Array, sums_RC: jax.Array, above_R: jax.Array, uniform_R: jax.Array
) -> jax.Array:
    """`_pick` among the weights that are larger than `above_R`; `sums_RC` are their block sums."""
    cumulative_RC = jnp.cumsum(sums_RC, axis=-1)
    target_R1 = (uniform_R * cumulative_RC[:, -1])[:, None]
    block_R1 = _first_that_passes(cumulative_RC, sums_RC, target_R1)[:, None]
    before_RC = jnp.pad(cumulative_RC[:, :-1], ((0, 0), (1, 0)))
    before_R1 = jnp.take_along_axis(before_RC, block_R1, axis=-1)
    weights_RB = jnp.take_along_axis(weights_RCB, block_R1[:, :, None], axis=1)[:, 0]
    weights_RB = jnp.where(weights_RB > above_R[:, None], weights_RB, 0.0)
    cumulative_RB = before_R1 + jnp.cumsum(weights_RB, axis=-1)
    index_R = _first_that_passes(cumulative_RB, weights_RB, target_R1)
    return (block_R1[:, 0] * weights_RB.shape[-1] + index_R).astype(jnp.int32)


def _first_that_passes(
    cumulative_RN: jax.Array, weights_RN: jax.Array, target_R1: jax.Array
) -> jax.Array:
    """The first index whose cumulative weight passes the target, never one of weight 0.

    `cumsum` is a parallel scan, whose sums may fall by a rounding from one index to the next. So
    the index is the first that passes the target *and* has a weight, not the number of sums below;
    and where rounding puts the target on the last sum, the last that has a weight. The same holds
    of a block, whose sum is above 0 if and only if one of its weights is, and whose weights, added
    one by one to what is before it, may end a rounding below the sum that made it the one.
    """
    possible_RN = weights_RN > 0
    passes_RN = (cumulative_RN > target_R1) & possible_RN
    first_R = jnp.argmax(passes_RN, axis=-1)
    last_R = weights_RN.shape[-1] - 1 - jnp.argmax(possible_RN[:, ::-1], axis=-1)
    return jnp.where(jnp.any(passes_RN, axis=-1), first_R, last_R)
