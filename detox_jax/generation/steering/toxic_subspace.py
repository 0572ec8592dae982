"""The toxic subspace of a model's layers, which `combine` projects out of its weights (ProFS)."""

from __future__ import annotations

import dataclasses

import numpy as np

from detox_jax.checkpoints import projection
from detox_jax.errors import UserError
from detox_jax.generation.steering.fitting import Reading
from detox_jax.models import edits

_ALL_TOKENS = 1 << 30


@dataclasses.dataclass(frozen=True)
class ToxicSubspace:
    """ProFS: where toxic texts differ from clean ones, in every layer, for `projection.Projection`.

    Of the differences of pairs the clean texts' common direction is taken away, which the model
    needs for its frequent tokens; the first right singular vectors of the rest are the subspace.
    States are means over all tokens of a text but the start token, at which a model may park values
    many times as large as any other.

    Attributes:
      rank: directions a layer; 2 for GPT-2 as published, 10 for larger models.
    """

    rank: int = 2

    def __post_init__(self):
        if self.rank < 1:
            raise UserError(f"ToxicSubspace.rank is {self.rank}; must be positive")

    @property
    def rule(self) -> str:
        """See `Fit`; nothing decodes by it."""
        return projection.RULE

    @property
    def site(self) -> str:
        """See `Fit`."""
        return edits.RESIDUAL

    def reading(self) -> Reading:
        """See `Fit`."""
        return Reading(self.site, _ALL_TOKENS, skipped_tokens=1)

    def fit(self, toxic: np.ndarray, clean: np.ndarray, num_heads: int) -> dict[str, np.ndarray]:
        """See `Fit`.

        Raises:
          UserError: for fewer pairs than directions.
        """
        del num_heads
        if len(toxic) < self.rank:
            raise UserError(
                f"ToxicSubspace needs at least {self.rank} pairs, there are {len(toxic)}; lower "
                "MARGIN, score more, or lower ToxicSubspace.rank"
            )
        layers = zip(toxic.swapaxes(0, 1), clean.swapaxes(0, 1), strict=True)
        return {self.rule: np.stack([toxic_subspace(t, c, self.rank) for t, c in layers])}


def toxic_subspace(toxic_PD: np.ndarray, clean_PD: np.ndarray, rank: int) -> np.ndarray:
    """The first right singular vectors of clean minus toxic states, `[rank, D]`, of one layer.

    The component along the first right singular vector of the clean states, no mean subtracted, is
    taken away first.

    Raises:
      UserError: where the pairs differ in fewer directions, or there are fewer.
    """
    if rank > clean_PD.shape[1]:
        raise UserError(
            f"ToxicSubspace.rank is {rank}, but the model's states have {clean_PD.shape[1]} "
            "directions; lower it, such as to 2"
        )
    common_D = np.linalg.svd(clean_PD, full_matrices=False)[2][0]
    difference_PD = clean_PD - toxic_PD
    difference_PD = difference_PD - np.outer(difference_PD @ common_D, common_D)
    _, sizes, vectors = np.linalg.svd(difference_PD, full_matrices=False)
    if sizes[rank - 1] <= 1e-9 * np.linalg.norm(clean_PD):
        raise UserError(
            f"ToxicSubspace.rank is {rank}, but the pairs differ in fewer directions; give other "
            "pairs, or lower it"
        )
    vectors_RD = vectors[:rank]
    # The sign of a singular vector is the library's own: the largest entry becomes positive.
    largest_R1 = np.take_along_axis(vectors_RD, np.abs(vectors_RD).argmax(1)[:, None], axis=1)
    return vectors_RD * np.sign(largest_R1)
