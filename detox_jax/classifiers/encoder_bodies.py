"""Encoders of Hugging Face directories without their heads: what a classifier is trained from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Any

import numpy as np
from etils import epath

from detox_jax.classifiers.encoders import EncoderFamily, family_of, read_config
from detox_jax.errors import UserError
from detox_jax.interop.config_fields import read_json
from detox_jax.interop.safetensors_io import TensorReader
from detox_jax.interop.tensors import CONFIG_FILE, MappedTensors
from detox_jax.models.encoder import Encoder
from detox_jax.models.encoder_config import EncoderConfig
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import ID_SHIFT

IGNORE_FIELDS = "ENCODER_IGNORE_FIELDS"
# The logits are of other labels. BERT's pooler is pretrained, RoBERTa's is not.
_FRESH, _FRESH_IF_MISSING = "head_logits/", "head_dense/"
# How TensorFlow named them; the published bert-base still does.
_OLD_NAMES = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}


@dataclasses.dataclass(frozen=True)
class Body:
    """A pretrained encoder, understood but not read.

    Attributes:
      directory: where it is.
      family: of the model.
      config: this package's, for a classifier with the new labels.
      fields: config.json, without those that the user had ignored.
      tensors: the files.
    """

    directory: epath.Path
    family: EncoderFamily
    config: EncoderConfig
    fields: dict[str, Any]
    tensors: TensorReader

    @property
    def files(self) -> list[epath.Path]:
        """All that decides the weights."""
        return [self.directory / CONFIG_FILE, *self.tensors.files]

    def read_parameters(self) -> dict[str, np.ndarray]:
        """The parameters that the files hold, by path, float32; those of a new head are not there.

        Heads of other tasks are left out.

        Raises:
          UserError: if a tensor of the body is missing, left over, of another shape, or holds NaN.
        """
        shapes = meshes.param_shapes(Encoder(self.config))
        stored = self._stored()
        tensors = {
            name: tensor
            for name, tensor in self.family.tensors(self.config.vocab_size - ID_SHIFT).items()
            if (path := tensor.paths[0]) in shapes
            and not path.startswith(_FRESH)
            and not (path.startswith(_FRESH_IF_MISSING) and name not in stored)
        }
        used = {path: shapes[path] for tensor in tensors.values() for path in tensor.paths}
        mapped = MappedTensors(tensors, used, self.config.num_layers)
        mapped.check(self.tensors, stored, str(self.directory))
        for name in sorted(stored.keys() - mapped.expected.keys()):
            if name.startswith(self._prefix) and not re.fullmatch(self.family.buffers, name):
                raise UserError(
                    f"{self.directory}: tensor {stored[name]!r} belongs to no part of a "
                    f"{self.family.model_type} encoder; nothing is dropped silently"
                )
        arrays = {path: np.zeros(shape, np.float32) for path, shape in used.items()}
        for path, place, part in mapped.read(self.tensors, stored):
            arrays[path][place] = part
        return arrays

    @property
    def _prefix(self) -> str:
        return next(iter(self.family.tensors(1))).split(".")[0] + "."

    def _stored(self) -> dict[str, str]:
        """Names as a classifier has them, to those in the files."""
        stored = {}
        bare = not any(name.startswith(self._prefix) for name in self.tensors.shapes)
        for name in self.tensors.shapes:
            full = self._prefix + name if bare else name
            for new, old in _OLD_NAMES.items():
                full = full.removesuffix(old) + new if full.endswith(old) else full
            stored[full] = name
        return stored


def open_body(directory: epath.Path, num_labels: int, ignored: Collection[str] = ()) -> Body:
    """Reads config.json and the headers of the weights; whatever task they were trained for.

    Args:
      directory: of a Hugging Face model.
      num_labels: of the classifier to be.
      ignored: unknown fields of config.json that the user says change nothing.

    Raises:
      UserError: for another kind of model, an unsupported field, or broken files.
    """
    file = directory / CONFIG_FILE
    values = read_json(file)
    family = family_of(values, file, "an encoder")
    config = read_config(family, values, file, num_labels, ignored, IGNORE_FIELDS)
    tensors = TensorReader(directory, auto_class="AutoModel")
    # What is written back has to be read again.
    fields = {name: value for name, value in values.items() if name not in ignored}
    return Body(directory, family, config, fields, tensors)
