"""What tells one model from another where its parameters need not be read: for settings."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from etils import epath

from detox_jax import output_settings, outputs

_STEPS_DIR = "checkpoints"  # of `model_dir`, which loads JAX


def identity(checkpoint_path: str) -> dict[str, Any]:
    """A model by what it was made from, and its step; by its parameters where no manifest says it.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.

    Returns:
      `path`, which is a note, `step` and `made_from`; a place that holds no model is its own name.

    Raises:
      UserError: if it is damaged.
    """
    path = epath.Path(checkpoint_path)
    names_step = path.parent.name == _STEPS_DIR and path.name.isdigit()
    model_dir = path.parent.parent if names_step else path
    if (model_dir / outputs.MANIFEST).exists():
        manifest = outputs.read_manifest(model_dir)
        decided = [output_settings.without_notes(manifest["settings"]), manifest.get("versions")]
        made_from = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
        step = int(path.name) if names_step else manifest.get("steps")
    elif model_dir.exists() and (model_dir / "model.json").exists():
        from detox_jax.checkpoints import streamed  # loads JAX

        checkpoint = streamed.Checkpoint.open(checkpoint_path)
        made_from, step = checkpoint.fingerprint, checkpoint.step
    else:
        made_from, step = checkpoint_path, None
    return {"path": checkpoint_path, "step": step, "made_from": made_from}
