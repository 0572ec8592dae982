"""Sequence classifiers of Hugging Face directories, read as they are and ready to run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util

from detox_jax.classifiers.encoders import EncoderFamily, family_of, read_config
from detox_jax.errors import UserError
from detox_jax.interop.config_fields import architectures, read_json
from detox_jax.interop.safetensors_io import TensorReader
from detox_jax.interop.tensors import CONFIG_FILE, MappedTensors, active_lines
from detox_jax.models.encoder import Encoder
from detox_jax.models.encoder_config import EncoderConfig
from detox_jax.parallel import mesh as meshes
from detox_jax.vocabulary import ID_SHIFT

IGNORE_FIELDS = "CLASSIFIER_IGNORE_FIELDS"
_MOST_LABELS = 100_000
_PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A classifier, understood but not read.

    Attributes:
      directory: where it is.
      family: of the model.
      config: this package's.
      labels: names of the outputs, in order.
      problem_type: as config.json names it, or None.
      tensors: the files.
    """

    directory: epath.Path
    family: EncoderFamily
    config: EncoderConfig
    labels: tuple[str, ...]
    problem_type: str | None
    tensors: TensorReader

    @property
    def files(self) -> list[epath.Path]:
        """All that decides a logit."""
        return [self.directory / CONFIG_FILE, *self.tensors.files]

    def read_parameters(self, shardings: Any = None) -> Any:
        """The parameters, on the devices, in the config's `param_dtype`.

        Args:
          shardings: of every parameter, see `parallel.mesh.param_shardings`; the default device
            where None.

        Raises:
          UserError: if a tensor is missing, left over, of another shape, or holds NaN.
        """
        shapes = meshes.param_shapes(Encoder(self.config))
        tensors = active_lines(self.family.tensors(self.config.vocab_size - ID_SHIFT), shapes)
        stored = {name: name for name in self.tensors.shapes}
        mapped = MappedTensors(tensors, shapes, self.config.num_layers)
        mapped.check(self.tensors, stored, str(self.directory))
        self._check_left_over(stored.keys() - mapped.expected.keys())
        arrays = {path: np.zeros(s, self.config.parameter_dtype) for path, s in shapes.items()}
        for path, place, part in mapped.read(self.tensors, stored):
            arrays[path][place] = part
        return meshes.to_mesh(traverse_util.unflatten_dict(arrays, sep="/"), shardings)

    def _check_left_over(self, names: set[str]) -> None:
        for name in sorted(names):
            if not re.fullmatch(self.family.buffers, name):
                raise UserError(
                    f"{self.directory}: tensor {name!r} belongs to no part of a "
                    f"{self.family.model_type} classifier; nothing is dropped silently"
                )


def open_classifier(
    directory: epath.Path, dtype: str = "float32", ignored: Collection[str] = ()
) -> Classifier:
    """Reads config.json and the headers of the weights.

    Args:
      directory: of a Hugging Face model.
      dtype: of activations and parameters.
      ignored: unknown fields of config.json that the user says change nothing.

    Raises:
      UserError: for another kind of model, an unsupported field, or broken files.
    """
    file = directory / CONFIG_FILE
    values = read_json(file)
    family = family_of(values, file, "a classifier")
    named = architectures(values, str(file), family.architecture)
    if family.architecture not in named:
        raise UserError(
            f"{file}: architectures {named} is no sequence classifier; expected "
            f"{family.architecture}"
        )
    labels = _labels(values, str(file))
    problem_type = values.get("problem_type")
    if problem_type is not None and problem_type not in _PROBLEM_TYPES:
        raise UserError(
            f"{file}: problem_type {problem_type!r} is unknown; one of {', '.join(_PROBLEM_TYPES)}"
        )
    config = read_config(family, values, file, len(labels), ignored, IGNORE_FIELDS)
    config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
    tensors = TensorReader(directory, auto_class="AutoModelForSequenceClassification")
    return Classifier(directory, family, config, labels, problem_type, tensors)


def _labels(values: dict[str, Any], where: str) -> tuple[str, ...]:
    """Names of the outputs; transformers' two where config.json names none."""
    named = values.get("id2label")
    if named is None:
        count = values.get("num_labels", 2)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 < count < _MOST_LABELS:
            raise UserError(f'{where}: "num_labels" is {count!r}; expected a whole number')
        return tuple(f"LABEL_{i}" for i in range(count))
    try:
        by_id = {int(index): str(name) for index, name in named.items()}
    except (AttributeError, ValueError):
        raise UserError(f'{where}: "id2label" is no map from ids to labels: {named!r}') from None
    if sorted(by_id) != list(range(len(by_id))):
        raise UserError(f'{where}: "id2label" has ids {sorted(by_id)}; expected 0, 1, 2 and so on')
    labels = tuple(by_id[i] for i in range(len(by_id)))
    if len(set(labels)) != len(labels):
        raise UserError(f'{where}: "id2label" names a label twice: {", ".join(labels)}')
    return labels
