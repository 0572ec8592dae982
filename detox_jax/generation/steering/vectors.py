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
VERB = "steer"


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
    models = array_file.model_or_base(base)
    manifest = array_file.require_fitted(owner, directory, VERB, models, nothing="no vectors")
    rule, site = manifest["rule"], manifest["site"]
    if rule not in rules or site not in edits.SITES:
        raise UserError(
            f"{owner}: {directory} holds vectors of rule {rule!r}; needed: {', '.join(rules)}"
        )
    digest, arrays = array_file.read(epath.Path(directory) / FILE, VERB)
    return Vectors(rule, site, arrays, directory, digest)
