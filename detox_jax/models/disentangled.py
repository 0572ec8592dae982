"""Disentangled attention (DeBERTa): what the distance between two tokens adds to their score.

Dimensions beside those of `models/config.py`: R distances of a text, S rows of the table. A text of
L tokens has distances from L - 1 down to -(L - 1); their scores are computed once each and then
shifted into place, which needs no gather over `[L, M]` and is as short as the text.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from detox_jax.models.encoder_config import RelativePositions


def table_row(relative: RelativePositions, distance: np.ndarray) -> np.ndarray:
    """The row of the table for each distance, query position minus key position.

    Logarithmic buckets are those of He et al.'s code (`make_log_bucket_position`): the nearer
    half of a side is exact, and bucket b of the rest begins where
    `log(distance / mid) / log((max_distance - 1) / mid) * (mid - 1)` passes `b - mid - 1`.
    """
    bucket = distance
    if relative.max_distance is not None:
        mid = relative.span // 2
        far = np.maximum(np.abs(distance), max(mid, 1)).astype(np.float32)
        growth = np.log(far / np.float32(mid)) / np.log(
            np.float32((relative.max_distance - 1) / mid)
        )
        log_bucket = (np.ceil(growth * np.float32(mid - 1)) + mid) * np.sign(distance)
        bucket = np.where(np.abs(distance) <= mid, distance, log_bucket)
    return np.clip(bucket + relative.span, 0, 2 * relative.span - 1).astype(np.int32)


@struct.dataclass
class Distances:
    """The vectors of a text's distances.

    Attributes:
      falling_RD: from L - 1 down to -L.
      rising_RD: from -(L - 1) up to L.
    """

    falling_RD: jax.Array
    rising_RD: jax.Array

    @classmethod
    def create(cls, relative: RelativePositions, table_SD: jax.Array, length: int) -> Distances:
        """Looks the distances up; one more than there are pads each to `2 L`."""
        falling_R = np.arange(length - 1, -length - 1, -1)
        return cls(
            table_SD[table_row(relative, falling_R)], table_SD[table_row(relative, -falling_R)]
        )


def distance_scores(
    relative: RelativePositions,
    distances: Distances,
    query_BLHK: jax.Array,
    key_BLHK: jax.Array,
    *,
    query: Callable[[jax.Array], jax.Array],
    key: Callable[[jax.Array], jax.Array],
    terms: int,
) -> jax.Array:
    """What distances add to the scores, float32 `[B, H, L, M]`.

    Args:
      relative: which terms there are.
      distances: of the text.
      query_BLHK: the text's queries, scaled as content to content is.
      key_BLHK: its keys.
      query: projection of distances that meet keys.
      key: projection of distances that meet queries.
      terms: summands of a score, which divide its scale.
    """
    scores_BHLM = jnp.zeros((), jnp.float32)
    if relative.content_to_position:
        falling_RHK = key(distances.falling_RD)
        scores_BHLR = jnp.einsum(
            "BLHK,RHK->BHLR", query_BLHK, falling_RHK, preferred_element_type=jnp.float32
        )
        scores_BHLM += _shift(scores_BHLR)
    if relative.position_to_content:
        rising_RHK = query(distances.rising_RD)
        rising_RHK = rising_RHK * jnp.asarray(
            (rising_RHK.shape[-1] * terms) ** -0.5, rising_RHK.dtype
        )
        scores_BHMR = jnp.einsum(
            "BMHK,RHK->BHMR", key_BLHK, rising_RHK, preferred_element_type=jnp.float32
        )
        scores_BHLM += _shift(scores_BHMR).swapaxes(-1, -2)
    return scores_BHLM


def _shift(x_BHLR: jax.Array) -> jax.Array:
    """`y[i, j] = x[i, j - i + L - 1]`, R being 2 L.

    Flat, `x[i, j - i + L - 1]` lies at `i (2 L - 1) + j + L - 1`: cut off L - 1 in front and the
    rows are 2 L - 1 long.
    """
    B, H, L, R = x_BHLR.shape
    flat = x_BHLR.reshape(B, H, L * R)[:, :, L - 1 : L - 1 + L * (R - 1)]
    return flat.reshape(B, H, L, R - 1)[..., :L]
