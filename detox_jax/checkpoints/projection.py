"""ProFS: a toxic subspace is projected out of the matrices that write to the residual stream.

Uppaal et al. (2025), "Model Editing as a Robust and Denoised Variant of DPO: A Case Study on
Toxicity". `steer` with `@toxic_subspace.ToxicSubspace()` finds the subspace of every layer;
`combine` takes it out of the second matrix of the MLP: `W (I - sum of v v^T)`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from etils import epath

from detox_jax.checkpoints import array_file
from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.errors import UserError

RULE = "subspace"  # of the vectors that are read, as `steer` names it
FILE = "vectors.npz"
EDITED = "layers/mlp/wo/kernel"
_HOW = " with FIT=@toxic_subspace.ToxicSubspace()"


@dataclasses.dataclass(frozen=True)
class Projection:
    """Takes a toxic subspace out of what the MLPs of some layers write.

    Attributes:
      subspace: what `steer` with `@toxic_subspace.ToxicSubspace()` wrote, of the base.
      layers: the first and the last layer that are edited, counted from 0. Where None, the upper
        14 of 24: GPT-2 medium's as published, and of other depths as many in proportion.
    """

    subspace: str
    layers: tuple[int, int] | None = None

    def check(self, base: Checkpoint) -> None:
        """Refuses what can be refused before a parameter of the model is read.

        Raises:
          UserError: if the subspace is none, or names layers that are not there.
        """
        config = base.spec.config
        if config.post_norms:
            raise UserError(
                f"Projection: {base.model_dir} has a norm between MLP and residual stream: no "
                "projection of their matrices takes a direction out of it"
            )
        first, last = self._edited(config.num_layers)
        if not 0 <= first <= last < config.num_layers:
            raise UserError(
                f"Projection.layers is {self.layers}; give the first and the last of the layers 0 "
                f"to {config.num_layers - 1}"
            )
        manifest = array_file.require_finished(
            "Projection", self.subspace, "steer", nothing="no subspace", how=_HOW
        )
        if manifest["rule"] != RULE:
            raise UserError(
                f"Projection: {self.subspace} holds no subspace; give an output of `steer`{_HOW}"
            )

    def open(self, base: Checkpoint) -> Projected:
        """Reads the subspace of this model.

        Raises:
          UserError: as `check` does, and if it is of another model.
        """
        self.check(base)
        config = base.spec.config
        array_NRD, sha256 = _read(self.subspace, base)
        if array_NRD.shape[::2] != (config.num_layers, config.emb_dim):
            raise UserError(f"{self.subspace}: {array_NRD.shape} is no subspace of this model")
        return Projected(self.subspace, sha256, array_NRD, *self._edited(config.num_layers))

    def _edited(self, num_layers: int) -> tuple[int, int]:
        """The first and the last layer that are edited."""
        return self.layers or (num_layers * 10 // 24, num_layers - 1)


@dataclasses.dataclass(frozen=True)
class Projected:
    """A subspace that has been read, see `arithmetic.Edited`.

    Attributes:
      directory: where it was.
      sha256: of its file, the first digits.
      subspace_NRD: orthonormal rows for each layer.
      first: layer that is edited.
      last: layer that is edited.
    """

    directory: str
    sha256: str
    subspace_NRD: np.ndarray
    first: int
    last: int

    def reference(self) -> dict[str, Any]:
        """See `arithmetic.Edited`."""
        return {
            "method": "Projection",
            "subspace": {"path": self.directory, "sha256": self.sha256},
            "layers": [self.first, self.last],
        }

    def apply(self, path: str, layer: int, value: np.ndarray) -> np.ndarray:
        """See `arithmetic.Edited`."""
        if path != EDITED or not self.first <= layer <= self.last:
            return value
        return without(value, self.subspace_NRD[layer])


def without(matrix_FD: np.ndarray, subspace_RD: np.ndarray) -> np.ndarray:
    """Rows of a matrix without their parts in a subspace, in float64.

    Args:
      matrix_FD: what is edited.
      subspace_RD: rows that span the subspace, orthonormal but for rounding.
    """
    basis_DR, _ = np.linalg.qr(subspace_RD.astype(np.float64).T)
    return matrix_FD - (matrix_FD @ basis_DR) @ basis_DR.T


def _read(directory: str, base: Checkpoint) -> tuple[np.ndarray, str]:
    path, models = epath.Path(directory), {base.fingerprint: str(base.model_dir)}
    array_file.require_fitted(
        "Projection", directory, "steer", models, nothing="no subspace", how=_HOW
    )
    digest, arrays = array_file.read(path / FILE, "steer")
    if RULE not in arrays or arrays[RULE].ndim != 3:
        raise UserError(f"{path / FILE}: is no subspace; run `steer` again")
    return arrays[RULE], digest
