"""ProFS: a toxic subspace is projected out of the matrices that write to the residual stream.

Uppaal et al. (2025), "Model Editing as a Robust and Denoised Variant of DPO: A Case Study on
Toxicity". `steer` with `@toxic_subspace.ToxicSubspace()` finds the subspace of every layer;
`combine` takes it out of the second matrix of the MLP: `W (I - sum of v v^T)`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from typing import Any

import numpy as np
from etils import epath

from detox_jax import outputs
from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.errors import UserError

RULE = "subspace"  # of the vectors that are read, as `steer` names it
FILE = "vectors.npz"
EDITED = "layers/mlp/wo/kernel"


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

    def open(self, base: Checkpoint) -> Projected:
        """Reads the subspace of this model.

        Raises:
          UserError: if it is none, of another model, or names layers that are not there.
        """
        config = base.spec.config
        if config.post_norms:
            raise UserError(
                f"Projection: {base.model_dir} has a norm between MLP and residual stream: no "
                "projection of their matrices takes a direction out of it"
            )
        array_NRD, sha256 = _read(self.subspace, base)
        if array_NRD.shape[::2] != (config.num_layers, config.emb_dim):
            raise UserError(f"{self.subspace}: {array_NRD.shape} is no subspace of this model")
        first, last = self.layers or (config.num_layers * 10 // 24, config.num_layers - 1)
        if not 0 <= first <= last < config.num_layers:
            raise UserError(
                f"Projection.layers is {self.layers}; give the first and the last of the layers 0 "
                f"to {config.num_layers - 1}"
            )
        return Projected(self.subspace, sha256, array_NRD, first, last)


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
    path = epath.Path(directory)
    manifest = outputs.read_manifest(path) if path.exists() else None
    if manifest is None or manifest["verb"] != "steer" or manifest.get("rule", RULE) != RULE:
        raise UserError(
            f"Projection: {directory} holds no subspace; give an output of `steer` with "
            "FIT=@toxic_subspace.ToxicSubspace()"
        )
    if not manifest["complete"]:
        raise UserError(f"Projection: {directory} is unfinished; rerun the `steer` that writes it")
    theirs = manifest["settings"]["checkpoint"]["fingerprint"]
    if theirs != base.fingerprint:
        raise UserError(
            f"Projection: {directory} was fitted on model {theirs}, but {base.model_dir} is "
            f"{base.fingerprint}; run `steer` on it"
        )
    file = path / FILE
    try:
        content = file.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
            array_NRD = loaded[RULE]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: cannot be read: {error}; run `steer` again") from None
    if array_NRD.ndim != 3 or not np.isfinite(array_NRD).all():
        raise UserError(f"{file}: is no subspace of finite numbers; run `steer` again")
    return array_NRD, hashlib.sha256(content).hexdigest()[:16]
