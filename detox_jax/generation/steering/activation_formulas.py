"""What each edit of hidden states computes: pure functions, each position by itself.

The last axis is the vector's; heads, where there are, stand before it. `toxic - clean` is the
direction of `per_head`, `clean - toxic` that of the others, as their papers have them. A direction
of zeros changes nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_Strength = jax.Array | float


def offset(h_D: jax.Array, direction_D: jax.Array, strength: _Strength) -> jax.Array:
    """`h + strength direction`: the mean difference, and any vector that is simply added."""
    return h_D + strength * direction_D


def in_context(x_D: jax.Array, direction_D: jax.Array, strength: _Strength) -> jax.Array:
    """A turn towards a direction, of the same norm (Liu et al., 2023, in-context vectors).

    `unit(unit(x) + strength (1 + max(0, cos(x, -d))) unit(d)) |x|`: further, the more the state
    points away from it.
    """
    factor = 1 + jnp.maximum(0.0, _cosine(x_D, -direction_D))
    return _unit(_unit(x_D) + strength * factor * _unit(direction_D)) * _norm(x_D)


def per_head(
    x_HK: jax.Array,
    toxic_HK: jax.Array,
    weight_H: jax.Array | None,
    strength: _Strength,
    *,
    keep_head_norms: bool,
) -> jax.Array:
    """A turn of every head away from its toxic direction (Li et al., 2024, DeStein).

    `u = unit(x) - strength weight (1 + max(0, cos(x, d))) unit(d)`, and `unit(u)` scaled.

    Args:
      x_HK: outputs of heads.
      toxic_HK: directions, toxic minus clean.
      weight_H: of each head; 1 where None.
      strength: the paper's alpha.
      keep_head_norms: every head keeps its own norm, so that strength 0 changes nothing. False
        gives all heads one norm, as the published code does.
    """
    factor = 1 + jnp.maximum(0.0, _cosine(x_HK, toxic_HK))
    if weight_H is not None:
        factor = factor * weight_H[..., None]
    turned_HK = _unit(_unit(x_HK) - strength * factor * _unit(toxic_HK))
    if keep_head_norms:
        return turned_HK * _norm(x_HK)
    return _with_norm_of(turned_HK, x_HK)


def reversal(
    x_HK: jax.Array,
    toxic_HK: jax.Array,
    clean_HK: jax.Array,
    end_HK: jax.Array,
    strength: _Strength,
    exponents: tuple[_Strength, _Strength],
) -> jax.Array:
    """Away from what heads do behind a toxic prefix (Leong et al., 2023, toxification reversal).

    `x - strength (1 + |D|)^a (1 + max(0, cos(x, end)))^b D`, `D = toxic - clean`; then all heads
    together have their old norm.

    Args:
      x_HK: outputs of heads.
      toxic_HK: the same behind the toxic prefix.
      clean_HK: the same behind the clean one.
      end_HK: of the toxic prefix's last token.
      strength: 1 in the paper.
      exponents: a and b, .4 and .6 in the published code.
    """
    delta_HK = toxic_HK - clean_HK
    by_size = (1 + _norm(delta_HK)) ** exponents[0]
    by_likeness = (1 + jnp.maximum(0.0, _cosine(x_HK, end_HK))) ** exponents[1]
    return _with_norm_of(x_HK - strength * by_size * by_likeness * delta_HK, x_HK)


def affine(
    h_D: jax.Array,
    toxic_mean_D: jax.Array,
    clean_mean_D: jax.Array,
    map_DD: jax.Array | None,
    strength: _Strength,
) -> jax.Array:
    """The toxic distribution's mean, and with a map its covariance, moved to the clean one's.

    `clean + A (h - toxic)` (Singh et al., 2024), of which `strength` 1 goes all the way; A is the
    identity where None.
    """
    centred_D = h_D - toxic_mean_D
    moved_D = centred_D if map_DD is None else jnp.einsum("...D,ED->...E", centred_D, map_DD)
    return h_D + strength * (clean_mean_D + moved_D - h_D)


def _norm(x: jax.Array) -> jax.Array:
    return jnp.linalg.norm(x, axis=-1, keepdims=True)


def _unit(x: jax.Array) -> jax.Array:
    norm = _norm(x)
    return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1.0), 0.0)


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(_unit(a) * _unit(b), axis=-1, keepdims=True)


def _with_norm_of(new_HK: jax.Array, old_HK: jax.Array) -> jax.Array:
    """`new` scaled so that all heads together have the norm of the old ones."""
    old, new = (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) for x in (old_HK, new_HK))
    return new_HK * jnp.where(new > 0, old / jnp.where(new > 0, new, 1.0), 0.0)
