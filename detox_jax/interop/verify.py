"""Compares this package's logits with those of transformers, on a ragged batch of random ids."""

from __future__ import annotations

import importlib
from typing import Any

import jax
import numpy as np

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.errors import UserError
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import ID_SHIFT

# Float32 sums in another order differ by far less at the usual scale of logits.
TOLERANCE = 1e-3
_LENGTHS = (5, 17, 32, 32)


def verify(checkpoint_path: str, hf_directory: str) -> float:
    """Prints and returns the largest difference between the two models' logits.

    Args:
      checkpoint_path: a checkpoint of this package.
      hf_directory: the same model as transformers reads it.

    Raises:
      UserError: if transformers or torch is not installed, or the models differ.
    """
    mesh = meshes.create_mesh(devices=jax.devices()[:1])
    loaded = checkpoints.load_model(checkpoint_path, mesh, "float32")
    tokens_BL, mask_BL = random_batch(loaded.spec.config.vocab_size, loaded.spec.config.max_length)
    ours_BLV = loaded.module.apply({"params": loaded.params}, tokens_BL, enable_dropout=False)
    theirs_BLV = torch_logits(load_torch(hf_directory), tokens_BL - ID_SHIFT, mask_BL)
    size = theirs_BLV.shape[-1]
    same_BLV = np.asarray(ours_BLV)[..., ID_SHIFT : size + ID_SHIFT]
    difference = np.abs(same_BLV - theirs_BLV)[mask_BL].max()
    scale = max(1.0, float(np.abs(theirs_BLV[mask_BL]).max()))
    print(f"max |Δlogit| = {difference:.2e} (logits up to {scale:.1f})")
    if not difference <= TOLERANCE * scale:
        raise UserError(
            f"{hf_directory}: logits differ from transformers by {difference:.2e}, more than "
            f"{TOLERANCE * scale:.0e}; do not use this conversion"
        )
    return float(difference)


def random_batch(vocab_size: int, max_length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ids of this package, padded on the right with some token, and where they count."""
    lengths = [min(length, max_length) for length in _LENGTHS]
    noise = np.random.default_rng(seed)
    tokens_BL = noise.integers(1, vocab_size, (len(lengths), max(lengths)), dtype=np.int32)
    mask_BL = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    return np.where(mask_BL, tokens_BL, 1), mask_BL


def load_torch(directory: str) -> Any:
    """The model as transformers reads it, float32."""
    try:
        transformers: Any = importlib.import_module("transformers")
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise UserError(f"--verify needs {error.name}: pip install 'detox-jax[hf]'") from None
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def torch_logits(model: Any, ids_BL: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
    """Logits of a transformers model, `[B, L, tokens]`."""
    torch: Any = importlib.import_module("torch")
    with torch.no_grad():
        result = model(
            input_ids=torch.tensor(ids_BL, dtype=torch.long),
            attention_mask=torch.tensor(mask_BL.astype(np.int64)),
        )
    return result.logits.numpy()
