"""What tells one model from another where its parameters need not be read: for settings."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from detox_jax import manifests, output_settings
from detox_jax.checkpoints import places


def identity(checkpoint_path: str) -> dict[str, Any]:
    """A model by what it was made from, and its step; by its parameters where no manifest says it.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.

    Returns:
      `path`, which is a note, `step` and `made_from`; a place that holds no model is its own name.

    Raises:
      UserError: if it is damaged.
    """
    model_dir, step = places.split(checkpoint_path)
    if (model_dir / manifests.MANIFEST).exists():
        manifest = manifests.read_manifest(model_dir)
        decided = [output_settings.without_notes(manifest["settings"]), manifest.get("versions")]
        made_from = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
        step = manifest.get("steps") if step is None else step
    elif (model_dir / places.MODEL_FILE).exists():
        from detox_jax.checkpoints import streamed  # loads JAX

        checkpoint = streamed.Checkpoint.open(checkpoint_path)
        made_from, step = checkpoint.fingerprint, checkpoint.step
    else:
        made_from, step = checkpoint_path, None
    return {"path": checkpoint_path, "step": step, "made_from": made_from}
