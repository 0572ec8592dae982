"""Reads the tensors that a family's map names, each once and each of the shape that is due."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from detox_jax.checkpoints.params import Shapes
from detox_jax.errors import UserError
from detox_jax.interop.family import Map
from detox_jax.interop.layouts import Tensor
from detox_jax.interop.safetensors_io import TensorReader

CONFIG_FILE = "config.json"


def layer_shapes(tensor: Tensor, shapes: Shapes) -> list[tuple[int, ...]]:
    """The shapes of one layer of the parameters that a line names."""
    return [shapes[path][1:] if tensor.layered else shapes[path] for path in tensor.paths]


def foreign_names(name: str, tensor: Tensor, num_layers: int) -> list[str]:
    """The Hugging Face names of a line, one for each layer."""
    return [name.format(i) for i in range(num_layers)] if tensor.layered else [name]


def active_lines(tensors: Map, shapes: Shapes) -> Map:
    """The lines of a family's map whose parameters a model has.

    Lines whose parameters a config lacks (biases, an untied head) drop out; what is left names
    every parameter of the model once, or the map is wrong.
    """
    active = {name: tensor for name, tensor in tensors.items() if tensor.paths[0] in shapes}
    covered = [path for tensor in active.values() for path in tensor.paths]
    assert sorted(covered) == sorted(shapes), set(covered) ^ set(shapes)
    return active


@dataclasses.dataclass(frozen=True)
class MappedTensors:
    """The tensors that a model of known shapes must have.

    Attributes:
      tensors: the lines of the map whose parameters the model has.
      shapes: of those parameters.
      num_layers: of the model.
    """

    tensors: Map
    shapes: Shapes
    num_layers: int

    @functools.cached_property
    def expected(self) -> dict[str, tuple[Tensor, int]]:
        """Line and layer of every Hugging Face tensor."""
        return {
            foreign: (tensor, layer)
            for name, tensor in self.tensors.items()
            for layer, foreign in enumerate(foreign_names(name, tensor, self.num_layers))
        }

    def check(self, reader: TensorReader, stored: Mapping[str, str], where: str) -> None:
        """Compares with what the files hold.

        Args:
          reader: of the files.
          stored: expected names to those in the files.
          where: names the directory in errors.

        Raises:
          UserError: if a tensor is missing or has another shape.
        """
        for foreign, (tensor, _) in self.expected.items():
            if foreign not in stored:
                raise UserError(f"{where}: tensor {foreign!r} is missing; download the model again")
            wanted = tensor.layout.foreign_shape(layer_shapes(tensor, self.shapes))
            shape = reader.shapes[stored[foreign]]
            if shape != wanted:
                raise UserError(
                    f"{where}: tensor {foreign!r} has shape {list(shape)}, but {CONFIG_FILE} "
                    f"implies {list(wanted)}"
                )

    def read(
        self, reader: TensorReader, stored: Mapping[str, str]
    ) -> Iterator[tuple[str, Any, np.ndarray]]:
        """Path of a parameter, index of the layer in it (`...` for all of it), and values."""
        for foreign, (tensor, layer) in self.expected.items():
            value = reader.read(stored[foreign])
            parts = tensor.layout.read(value, layer_shapes(tensor, self.shapes))
            for path, part in zip(tensor.paths, parts, strict=True):
                yield path, layer if tensor.layered else ..., part
