"""SASA (Ko et al., 2025): candidates on the clean side of a plane through hidden states."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import struct
from jax.sharding import Mesh

from detox_jax import outputs
from detox_jax.checkpoints import array_file
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.generation.steering import formulas, lookahead
from detox_jax.generation.steering.lookahead import Lookahead
from detox_jax.generation.steering.steering import Distribution, Loaded, State

FILE = "subspace.npz"
_VERB = "fit_subspace"
# Directions in which hidden states vary less are left out.
_SMALLEST_VARIANCE = 1e-6


def fit(clean_TD: np.ndarray, toxic_TD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The plane between two classes of states: Bayes' for Gaussians of one covariance.

    Args:
      clean_TD: final hidden states of clean texts.
      toxic_TD: those of toxic ones.

    Returns:
      `normal_D` of unit length, towards the clean, and `centre_D`, float64.

    Raises:
      UserError: for a class without text, or classes that do not differ.
    """
    if not len(clean_TD) or not len(toxic_TD):
        raise UserError(f"{len(clean_TD)} clean and {len(toxic_TD)} toxic texts; both are needed")
    means = [np.mean(states, axis=0, dtype=np.float64) for states in (clean_TD, toxic_TD)]
    from_mean = [states - mean for states, mean in zip((clean_TD, toxic_TD), means, strict=True)]
    deviations = np.concatenate(from_mean)
    covariance_DD = deviations.T @ deviations / len(deviations)
    variances, directions = np.linalg.eigh(covariance_DD)
    inverse = np.where(variances > _SMALLEST_VARIANCE, 1 / np.maximum(variances, 1e-300), 0.0)
    normal_D = directions @ (inverse * (directions.T @ (means[0] - means[1])))
    length = np.linalg.norm(normal_D)
    if not length > 0:
        raise UserError("clean and toxic texts have the same hidden states; give other text")
    return np.divide(normal_D, length), np.asarray((means[0] + means[1]) / 2)


def write(output: outputs.OutputDirectory, normal_D: np.ndarray, centre_D: np.ndarray) -> None:
    """Writes a plane, whole or not at all.

    Raises:
      UserError: for numbers that are not finite.
    """
    array_file.write(output, FILE, {"normal": normal_D, "centre": centre_D})


def read(directory: str, base: LoadedModel) -> tuple[np.ndarray, np.ndarray, str]:
    """Reads a plane that `fit_subspace` fitted on the model that is steered.

    Args:
      directory: its output.
      base: the model.

    Returns:
      `normal_D`, `centre_D` and a digest of both.

    Raises:
      UserError: for no or an unfinished plane, one of another model, or one that is damaged.
    """
    path = epath.Path(directory)
    models = {base.fingerprint: "the model"}
    array_file.require_fitted("SubspaceMargin.subspace", directory, _VERB, models)
    digest, arrays = array_file.read(path / FILE, _VERB)
    width = base.module.config.emb_dim
    for name in ("normal", "centre"):
        array_file.require_shape(path / FILE, arrays, name, (width,))
    return arrays["normal"], arrays["centre"], digest


@dataclasses.dataclass(frozen=True)
class SubspaceMargin:
    """Prefers candidates whose hidden state lies on the clean side of a fitted plane.

    Of the model's k likeliest tokens, each is read one step ahead; the others are not drawn. The
    margin of a token that ends the text is that of the text so far.

    Attributes:
      subspace: output of `fit_subspace`.
      beta: the strength; 0 is no steering.
      k: candidates; the step costs as many rows more.
      published: as the published code has it: beta times the softmax of the margins over the
        candidates, in place of the margins, and end of text read as any token.
      base_top_p: candidates come from the model's own nucleus of this mass, in place of the
        sampling's.
    """

    files: ClassVar = {"subspace": _VERB}
    fits_adaptations: ClassVar = False  # A plane lies in the states of one model.

    subspace: str
    beta: float = 1.0
    k: int = 20
    published: bool = False
    base_top_p: float | None = None

    def __post_init__(self):
        formulas.require_finite("SubspaceMargin", beta=self.beta)
        formulas.check_top_p("SubspaceMargin", self.base_top_p)
        if not isinstance(self.k, int) or self.k < 1:
            raise UserError(f"SubspaceMargin.k is {self.k!r}; must be at least 1")

    @property
    def unscored(self) -> str | None:
        """See `Method`."""
        return f"draws among its {self.k} candidates alone"

    def load(self, base: LoadedModel, mesh: Mesh) -> Loaded:
        """See `Method`.

        Raises:
          UserError: see `read`.
        """
        del mesh
        normal_D, centre_D, digest = read(self.subspace, base)
        config = base.module.config
        steering = Margins(
            lookahead=Lookahead(base.module, base.params, min(self.k, base.module.vocab_size - 1)),
            normal_D=jnp.asarray(normal_D),
            centre_D=jnp.asarray(centre_D),
            beta=jnp.float32(self.beta),
            base_top_p=None if self.base_top_p is None else jnp.float32(self.base_top_p),
            end_ids=tuple(base.vocabulary.end_ids),
            published=self.published,
        )
        settings = {
            "method": "SubspaceMargin",
            "beta": self.beta,
            "k": self.k,
            "published": self.published,
            "base_top_p": self.base_top_p,
            "subspace": {"path": self.subspace, "sha256": digest},
        }
        return Loaded(
            steering if self.beta else None,
            settings,
            config.max_length,
            reads_ends=not self.published,
        )


@struct.dataclass
class Margins:
    """See `SubspaceMargin`."""

    lookahead: Lookahead
    normal_D: jax.Array
    centre_D: jax.Array
    beta: jax.Array
    base_top_p: jax.Array | None
    end_ids: tuple[int, ...] = struct.field(pytree_node=False)
    published: bool = struct.field(pytree_node=False)

    def start(self, prompts_NP: jax.Array, lengths_N: jax.Array, positions: int) -> State:
        """See `Steering`."""
        return self.lookahead.start(prompts_NP, lengths_N, positions)

    def adjust(
        self, distribution: Distribution, state: State, token_R: jax.Array
    ) -> tuple[Distribution, State]:
        """See `Steering`."""
        distribution = distribution.to_nucleus(self.base_top_p)
        base_RV, k = distribution.logits_RV, self.lookahead.k
        ids_Rk, is_one_Rk = lookahead.candidates(base_RV, distribution.allowed_RV, k)
        text_RD, state = self.lookahead.read(state, token_R)
        ahead_RkD, state = self.lookahead.ahead(state, ids_Rk)
        margin_Rk = self._margin(ahead_RkD)
        if not self.published:
            ends_Rk = lookahead.is_any(ids_Rk, self.end_ids)
            margin_Rk = jnp.where(ends_Rk, self._margin(text_RD)[:, None], margin_Rk)
        added_Rk = formulas.of_margins(margin_Rk, is_one_Rk, self.beta, softmax=self.published)
        width = base_RV.shape[-1]
        steered_RV = base_RV + lookahead.of_candidates(added_Rk, ids_Rk, width)
        kept_RV = lookahead.of_candidates(is_one_Rk, ids_Rk, width)
        return distribution.with_logits(steered_RV).truncate(kept_RV, instead=False), state

    def _margin(self, hidden: jax.Array) -> jax.Array:
        """How far on the clean side states lie, in units of the hidden state."""
        return (hidden - self.centre_D) @ self.normal_D
