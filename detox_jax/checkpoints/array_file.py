"""What a verb fitted, as a few arrays in one file beside its manifest."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from detox_jax import outputs
from detox_jax.errors import UserError


def write(output: outputs.OutputDirectory, file: str, arrays: Mapping[str, np.ndarray]) -> None:
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


def read(file: epath.Path, verb: str) -> tuple[str, dict[str, Any]]:
    """Reads what `write` wrote.

    Args:
      file: where.
      verb: that writes it, for messages.

    Returns:
      The first digits of the file's SHA-256, and the arrays by name.

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


def require_shape(file: epath.Path, arrays: Mapping[str, Any], name: str, shape: Any) -> None:
    """Refuses an array of another shape.

    Raises:
      UserError: naming both.
    """
    found = arrays[name].shape if name in arrays else None
    if found != shape:
        raise UserError(
            f"{file}: its {name} is {'not there' if found is None else found}, the model needs "
            f"{shape}; fit it again on this model"
        )
