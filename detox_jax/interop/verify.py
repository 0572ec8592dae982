"""Compares a checkpoint with the directory that transformers reads: weights, logits and ids.

Weights must be equal to the bit once both sides are rounded to the dtype of the side that was
written; logits of those equal weights within float32's own error. What the rounding does to the
logits is measured and printed apart: it is a loss that was asked for, not a mistake.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from detox_jax import terminal
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import places, streamed
from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.errors import UserError
from detox_jax.interop import huggingface, safetensors_io, token_ids
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import ID_SHIFT

# Float32 sums in another order differ by far less at the usual scale of logits.
TOLERANCE = 1e-3
_LENGTHS = (5, 17, 32, 32)


def verify(checkpoint_path: str, hf_directory: str, dtype: str = "float32") -> float:
    """Compares the two models, and prints and returns the largest difference between their logits.

    Args:
      checkpoint_path: a checkpoint of this package.
      hf_directory: the same model as transformers reads it.
      dtype: of the weights that the conversion wrote, on whichever side.

    Raises:
      UserError: if transformers or torch is not installed, or the models differ.
    """
    # Elsewhere than on a CPU float32 products are TF32 or bfloat16 by default.
    full = jax.default_matmul_precision("highest")
    with terminal.stage("compare with transformers"), full:
        return _compare(checkpoint_path, hf_directory, dtype)


def _compare(checkpoint_path: str, hf_directory: str, dtype: str) -> float:
    checkpoint = Checkpoint.open(checkpoint_path)
    recorded = huggingface.read_origin(checkpoint) or {}
    source = huggingface.open_source(
        epath.Path(hf_directory), ignored=recorded.get("ignored_fields", ())
    )
    model = load_torch(hf_directory, **huggingface.meant_fields(source.family, source.fields))
    count = _compare_weights(checkpoint, source, dtype)
    print(f"{count} tensors equal, as {dtype}")
    config = checkpoint.spec.config
    tokens_BL, mask_BL = random_batch(config.vocab_size, config.max_length)
    exact_BLV = _logits(checkpoint, None, tokens_BL)
    ours_BLV = _logits(checkpoint, dtype, tokens_BL)
    whole_BLV = torch_logits(model, tokens_BL - ID_SHIFT, mask_BL)
    _round_torch(model, dtype)
    theirs_BLV = torch_logits(model, tokens_BL - ID_SHIFT, mask_BL)
    tokens = slice(ID_SHIFT, theirs_BLV.shape[-1] + ID_SHIFT)
    scale = max(1.0, float(np.abs(theirs_BLV[mask_BL]).max()))

    def most(one_BLV: np.ndarray, other_BLV: np.ndarray) -> float:
        return float(np.abs(one_BLV - other_BLV)[mask_BL].max())

    difference = most(ours_BLV[..., tokens], theirs_BLV)
    print(f"max |Δlogit| = {difference:.2e} (logits up to {scale:.1f})")
    # One of the two sides is what was rounded; the other has that dtype already.
    effect = max(most(exact_BLV, ours_BLV), most(whole_BLV, theirs_BLV))
    if effect:
        print(f"rounding to {dtype} moves logits by up to {effect:.2e}")
    _require_small(difference, scale, f"{hf_directory}: logits differ from transformers")
    if checkpoint.spec.adaptation is not None:
        adapted_BLV = _adapted_logits(checkpoint_path, tokens_BL)
        merging = most(exact_BLV[..., tokens], adapted_BLV[..., tokens])
        _require_small(merging, scale, f"{checkpoint_path}: merging its LoRA changes logits")
    token_ids.compare(str(checkpoint.model_dir / places.VOCABULARY_DIR), hf_directory)
    return difference


def _require_small(difference: float, scale: float, what: str) -> None:
    if not difference <= TOLERANCE * scale:
        raise UserError(
            f"{what} by {difference:.2e}, more than {TOLERANCE * scale:.0e}; do not use this "
            "conversion"
        )


def _compare_weights(checkpoint: Checkpoint, source: huggingface.Source, dtype: str) -> int:
    """How many tensors there are, all of them equal once both sides are rounded."""
    stored = huggingface.stored_names(source)
    count = 0
    for name, ours in huggingface.foreign_tensors(checkpoint, source.family):
        where = f"{source.directory}: tensor {name!r}"
        theirs = safetensors_io.rounded(source.tensors.read(stored[name]), dtype, where)
        if not np.array_equal(safetensors_io.rounded(ours, dtype, where), theirs):
            raise UserError(
                f"{where} is not the checkpoint's, as {dtype}; do not use this conversion"
            )
        del ours  # with the parameter that it is a part of
        count += 1
    return count


def _logits(checkpoint: Checkpoint, dtype: str | None, tokens_BL: np.ndarray) -> np.ndarray:
    """Ours `[B, L, V]`, LoRA merged; of weights rounded to `dtype`, or as they are."""
    config = _float32(checkpoint.spec.config)
    params = {}
    for path in streamed.shapes_of(config):
        value = checkpoint.merged(path)
        value = value if dtype is None else safetensors_io.rounded(value, dtype, path)
        params[path] = jnp.asarray(value, jnp.float32)
    return _apply(TransformerLM(config), streamed.nested(params), tokens_BL)


def _adapted_logits(checkpoint_path: str, tokens_BL: np.ndarray) -> np.ndarray:
    """Ours `[B, L, V]`, of the base with its adaptation beside it."""
    mesh = meshes.create_mesh(devices=meshes.all_devices()[:1])
    loaded = checkpoints.load_model(checkpoint_path, mesh)
    module = TransformerLM(_float32(loaded.spec.config), loaded.spec.adaptation)
    params = jax.tree.map(lambda x: x.astype(jnp.float32), loaded.params)
    return _apply(module, params, tokens_BL)


def _float32(config: Any) -> Any:
    return dataclasses.replace(
        config, dtype="float32", param_dtype="float32", dropout_rate=0.0, remat="none"
    )


def _apply(module: TransformerLM, params: Any, tokens_BL: np.ndarray) -> np.ndarray:
    return np.asarray(module.apply({"params": params}, tokens_BL, enable_dropout=False))


def random_batch(vocab_size: int, max_length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ids of this package, padded on the right with some token, and where they count."""
    lengths = [min(length, max_length) for length in _LENGTHS]
    noise = np.random.default_rng(seed)
    tokens_BL = noise.integers(1, vocab_size, (len(lengths), max(lengths)), dtype=np.int32)
    mask_BL = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    return np.where(mask_BL, tokens_BL, 1), mask_BL


def load_torch(directory: str, **fields: Any) -> Any:
    """The model as transformers reads it, float32.

    Args:
      directory: of the model.
      **fields: of config.json that are read in place of the file's.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise UserError(f"--verify needs {error.name}: pip install 'detox-jax[hf]'") from None
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", **fields
    )
    return model.eval()


def _round_torch(model: Any, dtype: str) -> None:
    torch: Any = importlib.import_module("torch")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(getattr(torch, dtype)).float())


def torch_logits(model: Any, ids_BL: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
    """Logits of a transformers model, `[B, L, tokens]`."""
    torch: Any = importlib.import_module("torch")
    with torch.no_grad():
        result = model(
            input_ids=torch.tensor(ids_BL, dtype=torch.long),
            attention_mask=torch.tensor(mask_BL.astype(np.int64)),
        )
    return result.logits.numpy()
