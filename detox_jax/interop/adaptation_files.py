"""What an adaptation trained: read from a checkpoint without its base, written beside a config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util
from safetensors.numpy import save

from detox_jax import atomic_files
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.models import adaptation as adaptations
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes

Arrays = dict[str, np.ndarray]


def read(
    model_dir: str, kind: type[adaptations.Adaptation] | tuple[type[adaptations.Adaptation], ...]
) -> tuple[Arrays, adaptations.Adaptation, TransformerConfig]:
    """The trained parameters of an adaptation, by path, float32, the layers in front.

    Args:
      model_dir: the checkpoint.
      kind: the adaptation's config class, or several of which it is one.

    Returns:
      `{"layers/attention/query/lora_a": [layers, ...]}`, the adaptation and the model's config.

    Raises:
      UserError: if the checkpoint is missing, holds another adaptation, or holds NaN or infinity.
    """
    path, step = checkpoints.resolve(model_dir)
    spec = checkpoints.read_spec(path)
    if not isinstance(spec.adaptation, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        written = " or ".join(one.__name__ for one in kinds)
        found = "none" if spec.adaptation is None else type(spec.adaptation).__name__
        raise UserError(f"{model_dir}: its adaptation is {found}; this export writes {written}")
    mesh = meshes.create_mesh(devices=meshes.all_devices()[:1])
    abstract = checkpoints.abstract_on_mesh(TransformerLM(spec.config, spec.adaptation), mesh)
    pattern = adaptations.trainable_pattern(spec.adaptation)
    wanted = abstract if spec.base is None else params_lib.partition(abstract, pattern)[0]
    restored = checkpoints.restore_arrays(path, step, "params", wanted)
    trained, _ = params_lib.partition(restored, pattern)
    params_lib.require_finite(trained, f"{model_dir}, step {step}")
    flat = traverse_util.flatten_dict(trained, sep="/")
    arrays = {name: np.asarray(leaf, np.float32) for name, leaf in flat.items()}
    return arrays, spec.adaptation, spec.config


def write(
    to: str, weights_name: str, weights: Arrays, config_name: str, config: Mapping[str, Any]
) -> None:
    """Writes safetensors and their config; the config goes last and makes the directory complete.

    Args:
      to: the directory.
      weights_name: the name of the file of weights.
      weights: the arrays by the names that the other library gives them.
      config_name: the name of the config's file.
      config: what the other library must know to build the adaptation.

    Raises:
      UserError: if the directory holds an adaptation already.
    """
    directory = epath.Path(to)
    for name in (weights_name, config_name):
        if (directory / name).exists():
            raise UserError(f"{directory / name}: there already; choose another directory")
    directory.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    atomic_files.write_bytes(directory / weights_name, save(contiguous, metadata={"format": "pt"}))
    content = json.dumps(config, indent=2, sort_keys=True) + "\n"
    atomic_files.write_bytes(directory / config_name, content.encode())
