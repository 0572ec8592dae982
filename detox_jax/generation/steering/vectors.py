"""What `steer` fits, on disk: arrays beside the manifest, bound to the model that they are of."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from etils import epath

from detox_jax import outputs
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
    """Writes what `steer` fitted, see `write_arrays`."""
    write_arrays(output, FILE, arrays)


def write_arrays(
    output: outputs.OutputDirectory, file: str, arrays: Mapping[str, np.ndarray]
) -> None:
    """Writes arrays whole or not at all, in float32; equal ones make equal bytes.

    Args:
      output: of the verb that fitted them.
      file: its name there.
      arrays: by name.

    Raises:
      UserError: for numbers that are not finite.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"{output.path}: the fitted {name} is not finite; give more or other text"
            )
    stream = io.BytesIO()
    singles: dict[str, Any] = {n: np.asarray(arrays[n], np.float32) for n in sorted(arrays)}
    np.savez(stream, **singles)
    outputs.write_bytes(output.path / file, stream.getvalue())


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
    digest, arrays = read_arrays(path / FILE, "steer")
    return Vectors(rule, site, arrays, directory, digest)


def read_arrays(file: epath.Path, verb: str) -> tuple[str, dict[str, Any]]:
    """Reads what `write_arrays` wrote: the first digits of the file's SHA-256, and the arrays.

    Args:
      file: where.
      verb: that writes it, for messages.

    Raises:
      UserError: if it cannot be read, or holds numbers that are not finite.
    """
    try:
        content = file.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: cannot be read: {error}; run `{verb}` again") from None
    if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise UserError(f"{file}: its {bad[0]} is not finite; run `{verb}` again")
    return hashlib.sha256(content).hexdigest()[:16], arrays
