"""A network as a plan has it: sizes, and how its parameters are stored."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.models import adaptation as adaptations
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class Model:
    """A network and how its parameters are stored.

    Attributes:
      config: sizes.
      adaptation: what is trained, or None for the whole model.
      checkpoint_dtype: of the parameters of the base as its checkpoint holds them.
    """

    config: TransformerConfig
    adaptation: adaptations.Adaptation | None
    checkpoint_dtype: str

    @property
    def module(self) -> TransformerLM:
        """As `train` runs it."""
        return TransformerLM(self.config, self.adaptation)

    @property
    def base(self) -> Model:
        """Before training, as `generate` loads it to write documents."""
        config = dataclasses.replace(self.config, param_dtype=self.checkpoint_dtype)
        return Model(config, None, self.checkpoint_dtype)

    @property
    def generating(self) -> Model:
        """As `generate` runs it: without dropout and rematerialisation."""
        config = dataclasses.replace(self.config, dropout_rate=0.0, remat="none")
        return dataclasses.replace(self, config=config)

    def cache_bytes(self, positions: int, lanes: int = 1) -> int:
        """Of keys and values, all devices together.

        Args:
          positions: of all rows.
          lanes: of a device's registers, which the widths of heads fill up: of narrow ones several
            side by side, where the mesh leaves a device as many (`kv_cache.cache_shapes`).
        """
        config = self.config
        layers = 2 * config.num_layers * config.activation_dtype.itemsize
        together = max(lanes // config.head_size, 1)
        width = -(-together * config.head_size // lanes) * lanes
        return layers * positions * -(-config.kv_heads // together) * width

    def params(self, mesh: Mesh) -> tuple[params_lib.Params, params_lib.Params]:
        """Shapes of the trained parameters, and of the frozen ones in the checkpoint's dtype."""
        return self._parted(checkpoints.abstract_on_mesh(self.module, mesh))

    def shapes(self) -> tuple[params_lib.Params, params_lib.Params]:
        """The same on no mesh."""
        return self._parted(meshes.abstract_params(self.module)[0])

    def _parted(self, params: params_lib.Params) -> tuple[params_lib.Params, params_lib.Params]:
        pattern = adaptations.trainable_pattern(self.adaptation)
        trained, frozen = params_lib.partition(params, pattern)
        dtype = jnp.dtype(self.checkpoint_dtype)
        return trained, jax.tree.map(lambda x: x.update(dtype=dtype), frozen)
