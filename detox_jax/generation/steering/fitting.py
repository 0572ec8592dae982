"""How `steer` fits vectors: from hidden states of toxic and of clean text, in float64.

A fit says which states it wants (`reading`) and makes arrays of them (`fit`). P pairs, N layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np

from detox_jax.errors import UserError
from detox_jax.generation.steering import formulas
from detox_jax.models import edits

# Both end where a continuation begins; in words of this project.
TOXIC_PREFIX = "The following text is rude, hostile and full of insults:"
CLEAN_PREFIX = "The following text is polite, friendly and respectful:"
_LAST_TOKENS_OF_HEADS = 8
_NEWTON_STEPS = 30
_PUBLISHED_RIDGE = 1e-7

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Reading:
    """Which states of a text are read.

    Attributes:
      site: one of `edits.SITES`.
      last_tokens: over so many of the last tokens their mean is taken.
      toxic_prefix: stands before toxic texts; none where empty.
      clean_prefix: before clean ones.
      skipped_tokens: at a text's start, which are in no mean.
    """

    site: str
    last_tokens: int = 1
    toxic_prefix: str = ""
    clean_prefix: str = ""
    skipped_tokens: int = 0


class Fit(Protocol):
    """A frozen dataclass that fits vectors."""

    @property
    def rule(self) -> str:
        """How the vectors act, see `vectors.Vectors`."""
        ...

    @property
    def site(self) -> str:
        """Where they act."""
        ...

    def reading(self) -> Reading:
        """What is read of every text."""
        ...

    def fit(self, toxic: np.ndarray, clean: np.ndarray, num_heads: int) -> Arrays:
        """Arrays of states `[P, N, ...]`, of the final site `[P, D]`; pairs share their row."""
        ...


@dataclasses.dataclass(frozen=True)
class MeanDifference:
    """Clean minus toxic, of the residual stream behind the last token."""

    @property
    def rule(self) -> str:
        """See `Fit`."""
        return "mean_difference"

    @property
    def site(self) -> str:
        """See `Fit`."""
        return edits.RESIDUAL

    def reading(self) -> Reading:
        """See `Fit`."""
        return Reading(self.site)

    def fit(self, toxic: np.ndarray, clean: np.ndarray, num_heads: int) -> Arrays:
        """See `Fit`."""
        del num_heads
        return {"direction": clean.mean(axis=0) - toxic.mean(axis=0)}


@dataclasses.dataclass(frozen=True)
class InContextVectors:
    """The mean of the differences of pairs, and their first principal component.

    Attributes:
      published: as the published code has it: fitted on the residual stream, though it acts on what
        the MLP adds to it. Ours reads where it acts.
    """

    published: bool = False

    @property
    def rule(self) -> str:
        """See `Fit`."""
        return "in_context"

    @property
    def site(self) -> str:
        """See `Fit`."""
        return edits.MLP

    def reading(self) -> Reading:
        """See `Fit`."""
        return Reading(edits.RESIDUAL if self.published else edits.MLP)

    def fit(self, toxic: np.ndarray, clean: np.ndarray, num_heads: int) -> Arrays:
        """See `Fit`; the component has norm 1 over all layers and the mean's side.

        Raises:
          UserError: for fewer than two pairs, which have no component.
        """
        del num_heads
        if len(toxic) < 2:
            raise UserError("InContextVectors needs at least 2 pairs; lower MARGIN or score more")
        difference_PX = (clean - toxic).reshape(len(toxic), -1)
        mean_X = difference_PX.mean(axis=0)
        _, _, components = np.linalg.svd(difference_PX - mean_X, full_matrices=False)
        component_X = components[0]
        if component_X @ mean_X < 0:  # the sign of a component is the library's own
            component_X = -component_X
        return {"direction": (mean_X + component_X).reshape(toxic.shape[1:])}


@dataclasses.dataclass(frozen=True)
class HeadDirections:
    """Toxic minus clean, of every head's output, each text behind its prefix.

    Every head is weighted by 1 + the accuracy of its own direction as a probe, on pairs that it was
    not fitted on.

    Attributes:
      published: as the published code has it: chunks of what attention adds to the stream in place
        of heads, and no weights, which cancel there.
      toxic_prefix: stands before the toxic texts.
      clean_prefix: before the clean ones.
    """

    published: bool = False
    toxic_prefix: str = TOXIC_PREFIX
    clean_prefix: str = CLEAN_PREFIX

    @property
    def rule(self) -> str:
        """See `Fit`."""
        return "heads"

    @property
    def site(self) -> str:
        """See `Fit`."""
        return edits.ATTENTION if self.published else edits.HEADS

    def reading(self) -> Reading:
        """See `Fit`."""
        return Reading(self.site, _LAST_TOKENS_OF_HEADS, self.toxic_prefix, self.clean_prefix)

    def fit(self, toxic: np.ndarray, clean: np.ndarray, num_heads: int) -> Arrays:
        """See `Fit`.

        Raises:
          UserError: for a width that no number of chunks divides, or fewer than two pairs.
        """
        if len(toxic) < 2:
            raise UserError("HeadDirections needs at least 2 pairs; lower MARGIN or score more")
        if self.published:
            if toxic.shape[-1] % num_heads:
                raise UserError(
                    f"HeadDirections.published cuts a width of {toxic.shape[-1]} into {num_heads} "
                    "chunks, which it is no multiple of; leave it out"
                )
            shape = (*toxic.shape[:-1], num_heads, -1)
            toxic, clean = toxic.reshape(shape), clean.reshape(shape)
            return {"direction": (toxic - clean).mean(axis=0)}
        weight_NH = 1 + probe_accuracy(toxic, clean)
        return {"direction": (toxic - clean).mean(axis=0), "weight": weight_NH}


def probe_accuracy(toxic_PNHK: np.ndarray, clean_PNHK: np.ndarray) -> np.ndarray:
    """How often the other half's mean difference tells toxic from clean, by head, `[N, H]`."""
    halves = [np.arange(len(toxic_PNHK)) % 2 == half for half in (0, 1)]
    right, count = 0.0, 0
    for fitted, judged in (halves, halves[::-1]):
        toxic, clean = toxic_PNHK[fitted].mean(axis=0), clean_PNHK[fitted].mean(axis=0)
        direction_NHK, middle_NHK = toxic - clean, (toxic + clean) / 2
        for states_PNHK, sign in ((toxic_PNHK[judged], 1), (clean_PNHK[judged], -1)):
            side_PNH = np.sum((states_PNHK - middle_NHK) * direction_NHK, axis=-1) * sign
            right = right + np.sum((side_PNH > 0) + 0.5 * (side_PNH == 0), axis=0)
            count += len(states_PNHK)
    return np.asarray(right / count)


@dataclasses.dataclass(frozen=True)
class AffineMap:
    """Means, and with `covariance` a map between covariances, of the final hidden state.

    A logistic probe beside them says which states are toxic.

    Attributes:
      covariance: fits the map too; otherwise means alone are matched.
      ridge: added to the diagonal of covariances, in units of their mean variance.
      published: as the published code has it: a ridge of 1e-7 on every entry, and a probe whose
        logit, not probability, must exceed one half.
    """

    covariance: bool = False
    ridge: float = 1e-2
    published: bool = False

    def __post_init__(self):
        formulas.require_finite("AffineMap", ridge=self.ridge)
        if self.ridge < 0:
            raise UserError(f"AffineMap.ridge is {self.ridge}; must not be negative")

    @property
    def rule(self) -> str:
        """See `Fit`."""
        return "affine"

    @property
    def site(self) -> str:
        """See `Fit`."""
        return edits.FINAL

    def reading(self) -> Reading:
        """See `Fit`."""
        return Reading(self.site)

    def fit(self, toxic: np.ndarray, clean: np.ndarray, num_heads: int) -> Arrays:
        """See `Fit`.

        Raises:
          UserError: for fewer than two pairs, which have no covariance.
        """
        del num_heads
        arrays: Arrays = {"toxic_mean": toxic.mean(axis=0), "clean_mean": clean.mean(axis=0)}
        if self.covariance:
            if len(toxic) < 2:
                raise UserError("AffineMap.covariance needs at least 2 pairs; give more text")
            arrays["map"] = covariance_map(self._covariance(toxic), self._covariance(clean))
        weight_D, bias = logistic_probe(toxic, clean)
        # What the weighted state must exceed, the bias on the other side.
        arrays |= {"probe_weight": weight_D, "probe_least": 0.5 * self.published - bias}
        return arrays

    def _covariance(self, states_PD: np.ndarray) -> np.ndarray:
        covariance_DD = np.cov(states_PD, rowvar=False)
        if self.published:
            return covariance_DD + _PUBLISHED_RIDGE
        D = len(covariance_DD)
        return covariance_DD + self.ridge * np.trace(covariance_DD) / D * np.eye(D)


def covariance_map(toxic_DD: np.ndarray, clean_DD: np.ndarray) -> np.ndarray:
    """The symmetric A with `A toxic A = clean`: `t^-1/2 (t^1/2 c t^1/2)^1/2 t^-1/2`.

    Raises:
      UserError: for a toxic covariance that has no inverse.
    """
    values, vectors = np.linalg.eigh(toxic_DD)
    if values.min() <= 1e-12 * values.max():
        raise UserError(
            "AffineMap: the toxic states' covariance has no inverse; raise AffineMap.ridge or give "
            "more pairs than the model is wide"
        )
    root_DD = (vectors * np.sqrt(values)) @ vectors.T
    inverse_DD = (vectors / np.sqrt(values)) @ vectors.T
    values, vectors = np.linalg.eigh(root_DD @ clean_DD @ root_DD)
    middle_DD = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return inverse_DD @ middle_DD @ inverse_DD


def logistic_probe(toxic_PD: np.ndarray, clean_PD: np.ndarray) -> tuple[np.ndarray, Any]:
    """Weights and bias of a logistic regression, with half the squared weights as penalty."""
    x_RD = np.concatenate([toxic_PD, clean_PD])
    y_R = np.repeat([1.0, 0.0], [len(toxic_PD), len(clean_PD)])
    x_RE = np.concatenate([x_RD, np.ones((len(x_RD), 1))], axis=1)
    penalty_E = np.append(np.ones(x_RD.shape[1]), 1e-9)
    weight_E = np.zeros(x_RE.shape[1])

    def loss(weight_E: np.ndarray) -> float:
        margin_R = x_RE @ weight_E
        misfit_R = np.logaddexp(0, margin_R) - y_R * margin_R
        return float(np.sum(misfit_R) + penalty_E @ weight_E**2 / 2)

    for _ in range(_NEWTON_STEPS):
        p_R = 1 / (1 + np.exp(-np.clip(x_RE @ weight_E, -500, 500)))
        gradient_E = x_RE.T @ (p_R - y_R) + penalty_E * weight_E
        hessian_EE = (x_RE.T * (p_R * (1 - p_R))) @ x_RE + np.diag(penalty_E)
        step_E, size = np.linalg.solve(hessian_EE, gradient_E), 1.0
        while loss(weight_E - size * step_E) > loss(weight_E) and size > 1e-6:
            size /= 2  # a whole step of Newton's may go too far
        weight_E = weight_E - size * step_E
        if np.abs(size * step_E).max() < 1e-10:
            break
    return weight_E[:-1], weight_E[-1]
