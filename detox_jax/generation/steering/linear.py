"""LM-Steer (Han et al., 2024): a map that `train_linear` trained moves the final hidden state."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from detox_jax.checkpoints import array_file
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.generation.steering import formulas
from detox_jax.generation.steering.activations import Edited
from detox_jax.generation.steering.steering import Loaded
from detox_jax.models.linear_edit import FILE, SWITCHES, LinearEdit
from detox_jax.parallel import mesh as meshes

_VERB = "train_linear"


@dataclasses.dataclass(frozen=True)
class LinearSteering:
    """Moves the final hidden state by a trained map of low rank, at every position.

    Attributes:
      linear: output of `train_linear`, on the model that is steered or on the base that it adapts.
      strength: of the clean switch, which was trained at 1 on clean and at -1 on toxic text; the
        published 5. 0 is no steering.
      domain: of the switch that was trained at 1 on all text; the published 1. 0 leaves the domain
        of that text out.
    """

    files: ClassVar = {"linear": _VERB}

    linear: str
    strength: float = 5.0
    domain: float = 1.0

    def __post_init__(self):
        formulas.require_finite("LinearSteering", strength=self.strength, domain=self.domain)

    def load(self, base: LoadedModel, mesh: Mesh) -> Loaded:
        """See `Method`.

        Raises:
          UserError: for no or an unfinished map, one of another model, or one that is damaged.
        """
        path = epath.Path(self.linear)
        models = array_file.model_or_base(base)
        array_file.require_fitted(
            "LinearSteering.linear", self.linear, _VERB, models, made="trained"
        )
        digest, arrays = array_file.read(path / FILE, _VERB)
        rank = arrays["down"].shape[-1] if arrays.get("down", jnp.zeros(0)).ndim == 3 else 0
        for name in ("down", "up"):
            shape = (len(SWITCHES), base.module.config.emb_dim, rank)
            array_file.require_shape(path / FILE, arrays, name, shape)
        edit = LinearEdit.of(arrays, jnp.array([self.strength, self.domain], jnp.float32))
        edit = meshes.to_mesh(edit, meshes.replicated(mesh))
        settings = {
            "method": "LinearSteering",
            "strength": float(self.strength),
            "domain": float(self.domain),
            "linear": {"path": self.linear, "sha256": digest},
        }
        return Loaded(Edited((edit,)) if self.strength else None, settings)
