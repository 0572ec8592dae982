"""What a verb fitted, as a few arrays in one file beside its manifest."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from detox_jax import atomic_files, manifests, outputs
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError, in_one_line, unread


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
    atomic_files.write_bytes(output.path / file, stream.getvalue())


def require_fitted(
    owner: str,
    directory: str,
    verb: str,
    models: Mapping[str, str],
    *,
    nothing: str = "none",
    made: str = "fitted",
    how: str = "",
) -> dict[str, Any]:
    """The manifest of a finished output of a verb that fits something to a model.

    Args:
      owner: of the setting that names the directory, for messages.
      directory: the output.
      verb: that writes it.
      models: names, for messages, by the fingerprints that it may have been fitted on.
      nothing: what a directory without it holds.
      made: what the verb does to it.
      how: behind the verb's name, where it needs to be told so.

    Raises:
      UserError: where there is none, or an unfinished one, or one of another model.
    """
    manifest = require_finished(owner, directory, verb, nothing=nothing, how=how)
    theirs = manifest["settings"]["checkpoint"]["fingerprint"]
    if theirs not in models:
        ours = ", ".join(f"{name} is {fingerprint}" for fingerprint, name in models.items())
        raise UserError(
            f"{owner}: {directory} was {made} on model {theirs}, but {ours}; run `{verb}` on it"
        )
    return manifest


def require_finished(
    owner: str, directory: str, verb: str, *, nothing: str = "none", how: str = ""
) -> dict[str, Any]:
    """The manifest of a finished output of a verb; see `require_fitted`.

    Raises:
      UserError: where there is none, or an unfinished one.
    """
    path = epath.Path(directory)
    is_ours = (path / manifests.MANIFEST).exists()
    manifest = manifests.read_manifest(path) if is_ours else None
    if manifest is None or manifest["verb"] != verb:
        raise UserError(f"{owner}: {directory} holds {nothing}; give an output of `{verb}`{how}")
    if not manifest["complete"]:
        raise UserError(f"{owner}: {directory} is unfinished; rerun the `{verb}` that writes it")
    return manifest


def model_or_base(model: LoadedModel) -> dict[str, str]:
    """What `require_fitted` is told of a model, and of the base that it may adapt."""
    models = {model.fingerprint: "the model"}
    if model.spec.base is not None:
        models[model.spec.base["fingerprint"]] = "its base"
    return models


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
        raise unread(file, error) or UserError(
            f"{file}: cannot be read: {in_one_line(error)}; run `{verb}` again"
        ) from None
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
