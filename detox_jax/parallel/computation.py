"""How something is computed: `Computation`, what every verb that runs a network is told of it.

It stands in `parallel`, the lowest room that knows both meshes and a model's config, so that
training, generation and planning can share it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated

from jax.sharding import Mesh

from detox_jax.errors import UserError
from detox_jax.kinds import Count, OneOf
from detox_jax.models.config import CHOICES, TransformerConfig
from detox_jax.parallel import mesh as meshes

Remat = Annotated[str, OneOf(CHOICES["remat"])]
AttentionKernel = Annotated[str, OneOf(CHOICES["attention_kernel"])]
MeshShape = Mapping[str, int] | str | None


@dataclasses.dataclass(frozen=True)
class Computation:
    """How something is computed, and never what comes out, but for rounding (docs/PARALLELISM.md).

    The one exception is what `decides`.

    Attributes:
      mesh_shape: sizes of the mesh's axes `data`, `fsdp` and `model`, 1 where not named and -1 for
        what is left, as a dict or as text, `data=1,fsdp=64,model=8`; of several slices also `dcn`,
        see `mesh.create_mesh`. All devices on `data` where None.
      accumulation_steps: parts of a batch that are computed one after the other, for less memory;
        the update stays that of the whole batch.
      remat: overrides the model's where not None, see `TransformerConfig`.
      attention_kernel: the same.
      logits_chunk: the same.
    """

    mesh_shape: MeshShape = None
    accumulation_steps: Count = 1
    remat: Remat | None = None
    attention_kernel: AttentionKernel | None = None
    logits_chunk: Count | None = None

    def create_mesh(self) -> Mesh:
        """The mesh, over all devices; every call gives the same.

        Raises:
          UserError: for sizes that make no mesh of them.
        """
        return meshes.create_mesh(read_mesh_shape(self.mesh_shape))

    def decides(self, dropout_rate: float) -> dict[str, int]:
        """What of it decides a training: under dropout each part of a batch has masks of its own.

        Args:
          dropout_rate: of what is trained.
        """
        return {"accumulation_steps": self.accumulation_steps} if dropout_rate > 0 else {}

    @property
    def overrides(self) -> dict[str, str | int]:
        """The fields of a `TransformerConfig` that are chosen here, by name."""
        fields = {
            "remat": self.remat,
            "attention_kernel": self.attention_kernel,
            "logits_chunk": self.logits_chunk,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def configure(self, config: TransformerConfig) -> TransformerConfig:
        """The model's config with what is chosen here in place of its own.

        Raises:
          UserError: for a value that the field does not take.
        """
        return dataclasses.replace(config, **self.overrides)


def read_mesh_shape(shape: MeshShape, flag: str = "MESH_SHAPE") -> dict[str, int] | None:
    """The sizes of a mesh's axes as a dict, None where there are none.

        >>> read_mesh_shape("data=1,fsdp=64,model=8")
        {'data': 1, 'fsdp': 64, 'model': 8}

    Args:
      shape: a dict, or text.
      flag: what the user set, for the error.

    Raises:
      UserError: if it is neither.
    """
    if shape is None or isinstance(shape, Mapping):
        return None if shape is None else dict(shape)
    try:
        pairs = [part.split("=") for part in str(shape).split(",") if part]
        return {name.strip(): int(size) for name, size in pairs}
    except ValueError:
        raise UserError(
            f"{flag}={shape}: expected sizes of the axes, such as data=1,fsdp=64,model=8"
        ) from None
