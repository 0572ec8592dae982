"""A trained sequence classifier as a Hugging Face directory: config.json and model.safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from detox_jax import atomic_files
from detox_jax.checkpoints import params as params_lib
from detox_jax.classifiers.encoders import FAMILIES
from detox_jax.interop.safetensors_io import SINGLE_FILE
from detox_jax.interop.tensors import CONFIG_FILE, MappedTensors, active_lines
from detox_jax.models.encoder import Encoder
from detox_jax.models.encoder_config import EncoderConfig
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import ID_SHIFT

_LABEL_FIELDS = ("num_labels", "_num_labels", "torch_dtype", "finetuning_task")


def bert_fields(config: EncoderConfig) -> dict[str, Any]:
    """config.json of a BERT of this architecture, without its labels."""
    assert config.activation == "gelu_exact" and config.head_activation == "tanh"
    return {
        "model_type": "bert",
        "vocab_size": config.vocab_size - ID_SHIFT,
        "hidden_size": config.emb_dim,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "intermediate_size": config.mlp_dim,
        "max_position_embeddings": config.max_length,
        "type_vocab_size": config.type_vocab_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout_rate,
        "initializer_range": config.init_std,
        "layer_norm_eps": config.norm_epsilon,
        "pad_token_id": 0,
    }


def write(
    directory: epath.Path,
    params: Mapping[str, np.ndarray],
    config: EncoderConfig,
    fields: Mapping[str, Any],
    labels: Sequence[str],
) -> None:
    """Writes a classifier whose labels are independent of each other.

    Args:
      directory: exists; files of these names are replaced.
      params: by path.
      config: of the encoder.
      fields: config.json of the encoder that it was trained from, or `bert_fields`.
      labels: names of the outputs.

    Raises:
      UserError: for parameters that are not finite.
    """
    params_lib.require_finite(dict(params), str(directory))
    family = FAMILIES[fields["model_type"]]
    shapes = meshes.param_shapes(Encoder(config))
    lines = active_lines(family.tensors(config.vocab_size - ID_SHIFT), shapes)
    mapped = MappedTensors(lines, shapes, config.num_layers)
    tensors = {}
    for name, (tensor, layer) in mapped.expected.items():
        ours = [params[path][layer] if tensor.layered else params[path] for path in tensor.paths]
        tensors[name] = np.ascontiguousarray(tensor.layout.write(ours), np.float32)
    content = safetensors.numpy.save(tensors, metadata={"format": "pt"})
    atomic_files.write_bytes(directory / SINGLE_FILE, content)
    unlabelled = {name: value for name, value in fields.items() if name not in _LABEL_FIELDS}
    labelled = {
        "architectures": [family.architecture],
        "problem_type": "multi_label_classification",
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "dtype": "float32",
    }
    atomic_files.write_json(directory / CONFIG_FILE, {**unlabelled, **labelled})
