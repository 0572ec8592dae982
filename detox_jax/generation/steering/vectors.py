"""What `steer` fits, on disk: arrays beside the manifest, bound to the model that they are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from etils import epath

from detox_jax import outputs
from detox_jax.checkpoints import array_file
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.models import edits

FILE = "vectors.npz"


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Fitted vectors, read.

    Attributes:
      rule: how they act: `mean_difference`, `in_context`, `heads` or `affine`.
      site: where, one of `edits.SITES`.
      arrays: by name.
      directory: where they were read.
      sha256: of their file, the first digits.
    """

    rule: str
    site: str
    arrays: Mapping[str, Any]
    directory: str
    sha256: str

    @property
    def reference(self) -> dict[str, str]:
        """What stands for them in settings."""
        return {"path": self.directory, "sha256": self.sha256}

    def require_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuses an array of another width.

        Raises:
          UserError: naming both.
        """
        found = self.arrays[name].shape if name in self.arrays else None
        if found != shape:
            raise UserError(
                f"{self.directory}: its {name} is {'not there' if found is None else found}, the "
                f"model needs {shape}; run `steer` again on this model"
            )


def write(output: outputs.OutputDirectory, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes what `steer` fitted, see `array_file.write`."""
    array_file.write(output, FILE, arrays)


def read(owner: str, directory: str, base: LoadedModel, rules: Collection[str]) -> Vectors:
    """Reads what `steer` wrote of the model that is steered, or of the base that it adapts.

    Args:
      owner: of the setting that names the directory, for messages.
      directory: output of `steer`.
      base: the model that is steered.
      rules: that its method understands.

    Raises:
      UserError: for no or unfinished vectors, and for those of another model or rule.
    """
    path = epath.Path(directory)
    manifest = outputs.read_manifest(path) if path.exists() else None
    if manifest is None or manifest["verb"] != "steer":
        raise UserError(f"{owner}: {directory} holds no vectors; give an output of `steer`")
    if not manifest["complete"]:
        raise UserError(f"{owner}: {directory} is unfinished; rerun the `steer` that writes it")
    settings = manifest["settings"]
    theirs = settings["checkpoint"]["fingerprint"]
    ours = {base.fingerprint: "the model"}
    if base.spec.base is not None:
        ours[base.spec.base["fingerprint"]] = "its base"
    if theirs not in ours:
        model = ", ".join(f"{name} is {fingerprint}" for fingerprint, name in ours.items())
        raise UserError(
            f"{owner}: {directory} was fitted on model {theirs}, but {model}; run `steer` on it"
        )
    rule, site = manifest["rule"], manifest["site"]
    if rule not in rules or site not in edits.SITES:
        raise UserError(
            f"{owner}: {directory} holds vectors of rule {rule!r}; needed: {', '.join(rules)}"
        )
    digest, arrays = array_file.read(path / FILE, "steer")
    return Vectors(rule, site, arrays, directory, digest)
