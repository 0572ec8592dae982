"""What each method of steering computes from logits: pure functions, each row by itself.

All of them take finite logits and return finite logits; what may not be drawn is a mask beside
them, applied once, behind the last method. So minus infinity never meets arithmetic, where
`inf - inf` would be NaN. A constant added to all logits of any one model changes nothing.

R rows, K models, V tokens. `valid_V` is False at the columns that stand for no token.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from detox_jax.errors import UserError
from detox_jax.generation import sampling

# exp of more overflows float32; a ratio of probabilities so large decides alone.
_LARGEST_EXPONENT = 80.0
# Times any difference of logits still finite in float32, in which strengths are.
_LARGEST_STRENGTH = 1e30
_BITS_OF_ONE = 0x3F800000  # float32 1.0
_BITS_OF_INFINITY = 0x7F800000


def log_probs(logits: jax.Array, valid_V: jax.Array) -> jax.Array:
    """Log-softmax over the valid columns; 0 in the others."""
    masked = jnp.where(valid_V, logits, -jnp.inf)
    normalised = logits - jax.nn.logsumexp(masked, axis=-1, keepdims=True)
    return jnp.where(valid_V, normalised, 0.0)


def nucleus_mask(logits_RV: jax.Array, allowed_RV: jax.Array, p: jax.Array | float) -> jax.Array:
    """Which tokens are in the nucleus of mass `p`, as `TopPSampling(p)` finds it at temperature 1.

    Args:
      logits_RV: finite.
      allowed_RV: what may be in it.
      p: its mass.
    """
    probs_RV = jax.nn.softmax(jnp.where(allowed_RV, logits_RV, -jnp.inf)).astype(jnp.float32)
    bits_RV = _ordered_bits(probs_RV)
    threshold_R1 = _edge(bits_RV, probs_RV, p, _BITS_OF_ONE)
    return allowed_RV & (probs_RV > 0) & (bits_RV >= threshold_R1)


def _ordered_bits(values_RV: jax.Array) -> jax.Array:
    """Float32 of 0 and above as whole numbers of the same order."""
    return jax.lax.bitcast_convert_type(jnp.abs(values_RV).astype(jnp.float32), jnp.int32)


def _edge(bits_RV: jax.Array, probs_RV: jax.Array, p: jax.Array | float, highest: int) -> jax.Array:
    """The largest threshold at which what is not below it still has probability `p`, [R, 1].

    By bisection over the bits, 31 passes, which take a fraction of the time of sorting.

    Args:
      bits_RV: of `_ordered_bits`, by which tokens are ordered.
      probs_RV: of the tokens.
      p: their probability together.
      highest: no bits are above.
    """

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low_R, high_R = bounds
        middle_R = low_R + (high_R - low_R) // 2
        mass_R = jnp.sum(jnp.where(bits_RV >= middle_R[:, None], probs_RV, 0.0), axis=-1)
        enough_R = mass_R >= p
        return jnp.where(enough_R, middle_R, low_R), jnp.where(enough_R, high_R, middle_R)

    rows = probs_RV.shape[0]
    bounds = (jnp.zeros(rows, jnp.int32), jnp.full(rows, highest + 1, jnp.int32))
    threshold_R, _ = jax.lax.fori_loop(0, 31, halve, bounds)
    return threshold_R[:, None]


def with_experts(
    base_RV: jax.Array, expert_RV: jax.Array, anti_RV: jax.Array, alpha: jax.Array | float
) -> jax.Array:
    """`base + alpha (expert - anti)` (Liu et al., 2021, DExperts).

    Anti-only is `expert_RV = base_RV`, which with the same model behind a prefix as `anti_RV` is
    PREADD (Pei et al., 2023) of strength `-alpha`.
    """
    return base_RV + alpha * (expert_RV - anti_RV)


def contrast_of_probabilities(
    base_RV: jax.Array, dirty_RV: jax.Array, alpha: jax.Array | float, valid_V: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`p' ~ max(0, p + alpha (p - p_dirty))` (DetoxiGen), as logits and where p' is positive.

    Written as `p (1 + alpha (1 - p_dirty / p))`, so that strength 0 leaves the logits bit for bit.

    Returns:
      `logits_RV`, and the mask of the tokens that are left; never empty, since of two distributions
      one is not larger everywhere.
    """
    log_ratio_RV = log_probs(dirty_RV, valid_V) - log_probs(base_RV, valid_V)
    ratio_RV = jnp.exp(jnp.minimum(log_ratio_RV, _LARGEST_EXPONENT))
    factor_RV = 1 + alpha * (1 - ratio_RV)
    positive_RV = factor_RV > 0
    return base_RV + jnp.log(jnp.where(positive_RV, factor_RV, 1.0)), positive_RV


def debiased(
    base_RV: jax.Array,
    prefixed_RKV: jax.Array,
    decay: jax.Array | float,
    floor: jax.Array | float,
    valid_V: jax.Array,
) -> jax.Array:
    """`p' ~ p max(floor, exp(-decay max(0, max_k p_k - p)))` (Schick et al., 2021).

    Args:
      base_RV: without a prefix.
      prefixed_RKV: behind each prefix that describes bad text.
      decay: the strength, lambda.
      floor: the smallest factor, epsilon; at most 1.
      valid_V: see above.
    """
    base_probs_RV = jnp.exp(log_probs(base_RV, valid_V))
    largest_RV = jnp.max(jnp.exp(log_probs(prefixed_RKV, valid_V)), axis=1)
    excess_RV = jnp.where(valid_V, jnp.maximum(0.0, largest_RV - base_probs_RV), 0.0)
    return base_RV + jnp.maximum(jnp.log(floor), -decay * excess_RV)


def log_clean(
    difference_RV: jax.Array, tokens_R: jax.Array, scale: jax.Array | float, bias: jax.Array | float
) -> jax.Array:
    """`log P(clean | text, v)` of GeDi (Krause et al., 2021): Bayes' rule over two models.

    Args:
      difference_RV: the log-likelihood of the text with each next token under the clean class, less
        that under the dirty one.
      tokens_R: how many tokens that is, v included, by which the difference is divided.
      scale: of the mean difference.
      bias: log-odds of the clean class before anything is read.
    """
    return jax.nn.log_sigmoid(
        scale * difference_RV / tokens_R[:, None].astype(difference_RV.dtype) + bias
    )


def desired_mask(
    logits_RV: jax.Array,
    log_clean_RV: jax.Array,
    allowed_RV: jax.Array,
    mass: jax.Array | float,
    threshold: jax.Array | float,
) -> jax.Array:
    """GeDi's filter: which tokens are clean enough, or among the cleanest.

    In the order of P(clean), those that hold the first `mass` of `softmax(logits)` go, unless they
    are at least as clean as the threshold. The cleanest stays; of equally clean ones all stay or
    go.

    Args:
      logits_RV: steered.
      log_clean_RV: of `log_clean`.
      allowed_RV: what may be drawn.
      mass: rho, that goes.
      threshold: log P(clean) at which a token stays.
    """
    probs_RV = jax.nn.softmax(jnp.where(allowed_RV, logits_RV, -jnp.inf))
    dirt_RV = jnp.where(allowed_RV, _ordered_bits(log_clean_RV), _BITS_OF_INFINITY)
    edge_R1 = _edge(dirt_RV, probs_RV, mass, _BITS_OF_INFINITY)
    cleanest_R1 = jnp.min(dirt_RV, axis=-1, keepdims=True)
    stays_RV = dirt_RV <= jnp.maximum(edge_R1, cleanest_R1)
    return allowed_RV & (stays_RV | (log_clean_RV >= threshold))


def of_margins(
    margin_Rk: jax.Array, is_one_Rk: jax.Array, beta: jax.Array | float, *, softmax: bool
) -> jax.Array:
    """What SASA (Ko et al., 2025) adds to the logits of candidates: `beta` times their margins.

    Args:
      margin_Rk: of each candidate.
      is_one_Rk: False where there are fewer candidates; nothing is added there.
      beta: the strength.
      softmax: beta times the softmax of the margins over the candidates, as the published code.
    """
    if softmax:
        margin_Rk = jax.nn.softmax(jnp.where(is_one_Rk, margin_Rk, -jnp.inf))
    return jnp.where(is_one_Rk, beta * margin_Rk, 0.0)


def of_rewards(toxicity_Rk: jax.Array, is_one_Rk: jax.Array, beta: jax.Array | float) -> jax.Array:
    """What RAD (Deng and Raffel, 2023) adds to the logits of candidates: `beta (1 - toxicity)`.

    Args:
      toxicity_Rk: predicted behind each candidate; clipped to 0 to 1.
      is_one_Rk: False where there are fewer candidates; nothing is added there.
      beta: the strength.
    """
    return jnp.where(is_one_Rk, beta * (1 - jnp.clip(toxicity_Rk, 0.0, 1.0)), 0.0)


def require_finite(owner: str, **strengths: float) -> None:
    """Refuses a strength that is no finite number, or so large that logits would not be finite.

    Raises:
      UserError: naming it.
    """
    for name, value in strengths.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) <= _LARGEST_STRENGTH:  # NaN is not either
            raise UserError(
                f"{owner}.{name} is {value!r}; must be a finite number, at most "
                f"{_LARGEST_STRENGTH:g} either way"
            )


def why_unscored(**truncations: float | None) -> str | None:
    """Why a method of such truncations has no probability of any text, see `scoring`.

    Args:
      **truncations: by name; None where there is none.
    """
    for name, value in truncations.items():
        if value is not None:
            return f"leaves tokens out by its {name} of {value:g} (None leaves none out)"
    return None


def check_top_p(owner: str, base_top_p: float | None) -> None:
    """Refuses a mass that no nucleus has.

    Raises:
      UserError: naming it.
    """
    if base_top_p is not None:
        sampling.check_top_p(f"{owner}.base_top_p", base_top_p, "None for the sampling's own")
