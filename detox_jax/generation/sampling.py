"""How the next token is drawn: small frozen dataclasses with one method, `sample`.

Every method draws by inverting the cumulative distribution with one uniform number a row, so a
row's token depends on its own logits and its own key alone.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from detox_jax.errors import UserError

_BITS_OF_ONE = 0x3F800000  # float32 1.0


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
        _check_temperature(self.temperature)

    def sample(self, logits_RV: jax.Array, keys_R: jax.Array) -> jax.Array:
        """See `Sampling`."""
        return _draw(jax.nn.softmax(logits_RV / self.temperature), keys_R)


@dataclasses.dataclass(frozen=True)
class TopKSampling:
    """Sampling among the `k` most probable tokens (Fan et al., 2018) and ties with the last."""

    k: int
    temperature: float = 1.0

    def __post_init__(self):
        _check_temperature(self.temperature)
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
        _check_temperature(self.temperature)
        if not 0 < self.p <= 1:
            raise UserError(f"TopPSampling.p is {self.p}; must be in (0, 1]")

    def sample(self, logits_RV: jax.Array, keys_R: jax.Array) -> jax.Array:
        """See `Sampling`."""
        probs_RV = jax.nn.softmax(logits_RV / self.temperature)
        return _draw(nucleus(probs_RV, self.p), keys_R)


def sample_among(
    sampling: Sampling, logits_RV: jax.Array, kept_RV: jax.Array, keys_R: jax.Array
) -> jax.Array:
    """Draws among the tokens of `kept_RV`, which stand in for the sampling's own nucleus.

    Where they are that nucleus, it is the draw of `sampling.sample`, bit for bit.
    """
    if isinstance(sampling, TopPSampling):
        # What is left out may be the likeliest by far, and would take all of the softmax.
        top_R1 = jnp.max(jnp.where(kept_RV, logits_RV, -jnp.inf), axis=-1, keepdims=True)
        probs_RV = jax.nn.softmax(jnp.minimum(logits_RV, top_R1) / sampling.temperature)
        return _draw(jnp.where(kept_RV, probs_RV, 0.0), keys_R)
    return sampling.sample(jnp.where(kept_RV, logits_RV, -jnp.inf), keys_R)


def nucleus(probs_RV: jax.Array, p: float | jax.Array) -> jax.Array:
    """Zeroes the probabilities outside the nucleus of mass `p`; what is left is not normalised.

    The nucleus is found as the largest threshold at which the probabilities not below it still sum
    to `p`, by bisection over the bits of a float32 (their order is that of the numbers): 31 passes,
    where sorting a vocabulary costs far more.
    """
    bits_RV = jax.lax.bitcast_convert_type(probs_RV, jnp.int32)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low_R, high_R = bounds
        middle_R = low_R + (high_R - low_R) // 2
        mass_R = jnp.sum(jnp.where(bits_RV >= middle_R[:, None], probs_RV, 0.0), axis=-1)
        enough_R = mass_R >= p
        return jnp.where(enough_R, middle_R, low_R), jnp.where(enough_R, high_R, middle_R)

    rows = probs_RV.shape[0]
    bounds = (jnp.zeros(rows, jnp.int32), jnp.full(rows, _BITS_OF_ONE + 1, jnp.int32))
    threshold_R, _ = jax.lax.fori_loop(0, 31, halve, bounds)
    return jnp.where(bits_RV >= threshold_R[:, None], probs_RV, 0.0)


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise UserError(
            f"temperature is {temperature}; must be positive (Greedy() for the limit 0)"
        )


def _draw(weights_RV: jax.Array, keys_R: jax.Array) -> jax.Array:
    """Draws an index with probability proportional to its weight; never one of weight 0."""
    return _pick(weights_RV, jax.vmap(jax.random.uniform)(keys_R))


def _pick(weights_RV: jax.Array, uniform_R: jax.Array) -> jax.Array:
    """The index at which the cumulative weight passes a share of the whole, from 0 to below 1.

    `cumsum` is a parallel scan, whose sums may fall by a rounding from one index to the next. So
    the index is the first that passes the target *and* has a weight, not the number of sums below;
    and where rounding puts the target on the last sum, the last that has a weight.
    """
    cumulative_RV = jnp.cumsum(weights_RV, axis=-1)
    target_R1 = (uniform_R * cumulative_RV[:, -1])[:, None]
    possible_RV = weights_RV > 0
    passes_RV = (cumulative_RV > target_R1) & possible_RV
    first_R = jnp.argmax(passes_RV, axis=-1)
    last_R = weights_RV.shape[-1] - 1 - jnp.argmax(possible_RV[:, ::-1], axis=-1)
    return jnp.where(jnp.any(passes_RV, axis=-1), first_R, last_R).astype(jnp.int32)
