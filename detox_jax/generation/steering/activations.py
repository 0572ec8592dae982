"""Steering by vectors that `steer` fitted: hidden states are moved while the model reads."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.generation.steering import activation_formulas, formulas
from detox_jax.generation.steering import vectors as vectors_lib
from detox_jax.generation.steering.editing import Edits, in_float32
from detox_jax.generation.steering.one_pass import Text
from detox_jax.generation.steering.steering import Distribution, Loaded, State
from detox_jax.generation.steering.vectors import Vectors
from detox_jax.models import edits as edits_lib
from detox_jax.models.config import TransformerConfig
from detox_jax.parallel import mesh as meshes

# Strengths of what `steer` fits, where none is given: those that the published programs name, for
# the mean difference the difference itself.
_STRENGTHS = {"mean_difference": 1.0, "in_context": 0.1, "heads": 0.4}


@dataclasses.dataclass(frozen=True)
class ActivationOffset:
    """Adds or turns towards fitted vectors, at every position; how is as `steer` fitted them.

    Attributes:
      vectors: output of `steer`, with FIT `@fitting.MeanDifference()`,
        `@fitting.InContextVectors()` or `@fitting.HeadDirections()`.
      strength: 0 is no steering; None takes 1 of a mean difference, .1 of in-context vectors and .4
        of heads.
      layers: in which it acts, counted from 0; None takes the middle one of a mean difference, else
        all.
    """

    files: ClassVar = {"vectors": vectors_lib.VERB}

    vectors: str
    strength: float | None = None
    layers: Sequence[int] | None = None

    def __post_init__(self):
        if self.strength is not None:
            formulas.require_finite("ActivationOffset", strength=self.strength)

    def load(self, base: LoadedModel, mesh: Mesh) -> Loaded:
        """See `Method`.

        Raises:
          UserError: for vectors of another base, width or kind, or a layer that is not there.
        """
        vectors = vectors_lib.read("ActivationOffset.vectors", self.vectors, base, _STRENGTHS)
        strength = _STRENGTHS[vectors.rule] if self.strength is None else self.strength
        layers = self._layers(vectors.rule, base.module.config.num_layers)
        strength_N: Any = np.zeros(base.module.config.num_layers, np.float32)
        strength_N[layers] = strength
        edit = _offset_of(vectors, strength_N, base.module.config)
        settings = {
            "method": "ActivationOffset",
            "rule": vectors.rule,
            "strength": float(strength),
            "layers": layers,
            "vectors": vectors.reference,
        }
        edit = meshes.to_mesh(edit, meshes.replicated(mesh))
        return Loaded(Edited((edit,)) if strength else None, settings)

    def _layers(self, rule: str, num_layers: int) -> list[int]:
        if self.layers is None:
            return [num_layers // 2] if rule == "mean_difference" else list(range(num_layers))
        layers = self.layers
        if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
            raise UserError(f"ActivationOffset.layers is {layers!r}; give a list, such as [3, 4]")
        for layer in layers:
            is_number = isinstance(layer, int) and not isinstance(layer, bool)
            if not is_number or not 0 <= layer < num_layers:
                raise UserError(
                    f"ActivationOffset.layers holds {layer!r}; the model has layers 0 to "
                    f"{num_layers - 1}"
                )
        return sorted(set(layers))


@dataclasses.dataclass(frozen=True)
class AffineSteering:
    """Moves the final hidden state from the toxic texts' distribution to the clean ones'.

    Attributes:
      vectors: output of `steer` with FIT `@fitting.AffineMap()`.
      strength: the share of the way; 0 is no steering.
      everywhere: also where the fitted probe does not take the state for a toxic one.
    """

    files: ClassVar = {"vectors": vectors_lib.VERB}

    vectors: str
    strength: float = 1.0
    everywhere: bool = False

    def __post_init__(self):
        formulas.require_finite("AffineSteering", strength=self.strength)

    def load(self, base: LoadedModel, mesh: Mesh) -> Loaded:
        """See `Method`.

        Raises:
          UserError: for vectors of another base, width or kind.
        """
        vectors = vectors_lib.read("AffineSteering.vectors", self.vectors, base, ("affine",))
        arrays = vectors.arrays
        D = base.module.config.emb_dim
        for name in ("toxic_mean", "clean_mean", "probe_weight"):
            vectors.require_shape(name, (D,))
        if "map" in arrays:
            vectors.require_shape("map", (D, D))
        edit = Moved(
            toxic_mean_D=arrays["toxic_mean"],
            clean_mean_D=arrays["clean_mean"],
            map_DD=arrays.get("map"),
            probe_D=None if self.everywhere else arrays["probe_weight"],
            least=arrays["probe_least"],
            strength=jnp.float32(self.strength),
        )
        settings = {
            "method": "AffineSteering",
            "strength": float(self.strength),
            "everywhere": self.everywhere,
            "vectors": vectors.reference,
        }
        edit = meshes.to_mesh(edit, meshes.replicated(mesh))
        return Loaded(Edited((edit,)) if self.strength else None, settings)


def _offset_of(vectors: Vectors, strength_N: Any, config: TransformerConfig) -> Any:
    """The edit of all layers; arrays have the layers on axis 0."""
    N, D, H = config.num_layers, config.emb_dim, config.num_heads
    if vectors.rule == "heads":
        K = D // H if vectors.site == edits_lib.ATTENTION else config.head_size
        vectors.require_shape("direction", (N, H, K))
        weight_NH = vectors.arrays.get("weight")
        if weight_NH is not None:
            vectors.require_shape("weight", (N, H))
        return Turned(vectors.arrays["direction"], weight_NH, strength_N, vectors.site)
    vectors.require_shape("direction", (N, D))
    is_added = vectors.rule == "mean_difference"
    rule = activation_formulas.offset if is_added else activation_formulas.in_context
    return Directed(vectors.arrays["direction"], strength_N, rule, vectors.site)


# --- in the loop ------------------------------------------------------------------------------


@struct.dataclass
class Edited:
    """Edits that are the same for every row and position: a steering without a state."""

    edits: Edits

    def start(self, prompts_NP: jax.Array, lengths_N: jax.Array, positions: int) -> State:
        """See `Steering`."""
        del prompts_NP, lengths_N, positions
        return {}

    def prompt_edits(self) -> Edits:
        """See `Editing`."""
        return self.edits

    def step_edits(self, state: State, token_R: jax.Array) -> tuple[Edits, State]:
        """See `Editing`."""
        del token_R
        return self.edits, state

    def adjust(
        self, distribution: Distribution, state: State, token_R: jax.Array
    ) -> tuple[Distribution, State]:
        """See `Steering`."""
        del token_R
        return distribution, state

    def read_text(self, text: Text) -> tuple[()]:
        """See `OnePass`; the edits are all."""
        del text
        return ()

    def adjust_text(self, distribution: Distribution, known: tuple[()]) -> Distribution:
        """See `OnePass`."""
        del known
        return distribution


@struct.dataclass
class Directed:
    """A rule of `activation_formulas` with one direction a layer: `offset` or `in_context`."""

    direction_D: jax.Array
    strength: jax.Array
    rule: Callable[..., jax.Array] = struct.field(pytree_node=False)
    site: str = struct.field(pytree_node=False)

    def __call__(self, h: jax.Array) -> jax.Array:
        """See `Edit`."""
        rule = functools.partial(self.rule, direction_D=self.direction_D, strength=self.strength)
        return in_float32(h, self.strength, rule)


@struct.dataclass
class Turned:
    """See `activation_formulas.per_head`; on a site without heads its width is cut into chunks."""

    toxic_HK: jax.Array
    weight_H: jax.Array | None
    strength: jax.Array
    site: str = struct.field(pytree_node=False)

    def __call__(self, h: jax.Array) -> jax.Array:
        """See `Edit`."""
        real = self.site == edits_lib.HEADS

        def rule(h: jax.Array) -> jax.Array:
            return activation_formulas.per_head(
                h if real else h.reshape(*h.shape[:-1], *self.toxic_HK.shape),
                self.toxic_HK,
                self.weight_H,
                self.strength,
                keep_head_norms=real,
            ).reshape(h.shape)

        return in_float32(h, self.strength, rule)


@struct.dataclass
class Moved:
    """See `activation_formulas.affine`; where a probe, if there is one, finds the state toxic."""

    toxic_mean_D: jax.Array
    clean_mean_D: jax.Array
    map_DD: jax.Array | None
    probe_D: jax.Array | None
    least: jax.Array
    strength: jax.Array
    site: str = struct.field(pytree_node=False, default=edits_lib.FINAL)

    def __call__(self, h: jax.Array) -> jax.Array:
        """See `Edit`."""

        def rule(h: jax.Array) -> jax.Array:
            moved = activation_formulas.affine(
                h, self.toxic_mean_D, self.clean_mean_D, self.map_DD, self.strength
            )
            if self.probe_D is None:
                return moved
            is_toxic = jnp.einsum("...D,D->...", h, self.probe_D) > self.least
            return jnp.where(is_toxic[..., None], moved, h)

        return in_float32(h, self.strength, rule)
