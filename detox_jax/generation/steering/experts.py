"""DExperts (Liu et al., 2021): `base + alpha (expert - anti-expert)`, and its anti-only form."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from detox_jax.checkpoints import identity
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.generation.steering import branches as branches_lib
from detox_jax.generation.steering import formulas, models
from detox_jax.generation.steering.branches import Branches
from detox_jax.generation.steering.one_pass import Text
from detox_jax.generation.steering.steering import MODEL, Distribution, Loaded, State


@dataclasses.dataclass(frozen=True)
class Experts:
    """Adds what an expert on clean text knows better than an anti-expert on toxic text.

    Either may be left out: the model then stands in its place. The experts are whole models of the
    same vocabulary, larger or smaller, or adaptations of the model (of its base, where it is itself
    an adaptation), which share its weights.

    Attributes:
      expert: checkpoint of a model of clean text; None for anti-only.
      anti: checkpoint of a model of toxic text; None for the expert alone.
      alpha: the strength; the paper's is 2.0, and 0 is no steering.
      base_top_p: truncates to the model's own nucleus of this mass before anything is added, in
        place of the sampling's; the published runs have 0.9. The sampling's own where None.
      base: what the experts are adaptations of, where it is not the steered model. None for whole
        models.
    """

    files: ClassVar = {"expert": MODEL, "anti": MODEL, "base": MODEL}

    expert: str | None = None
    anti: str | None = None
    alpha: float = 2.0
    base_top_p: float | None = None
    base: str | None = None

    def __post_init__(self):
        formulas.require_finite("Experts", alpha=self.alpha)
        formulas.check_top_p("Experts", self.base_top_p)

    @property
    def unscored(self) -> str | None:
        """See `Method`."""
        return formulas.why_unscored(base_top_p=self.base_top_p)

    def check_models(self) -> None:
        """See `Method`: a base that no expert adapts would be read and held for nothing.

        Raises:
          UserError: for such a base.
        """
        experts = [path for path in (self.expert, self.anti) if path is not None]
        if self.base is not None and experts and not any(map(models.may_adapt, experts)):
            raise UserError(
                f"Experts.base: {self.base} is given, but {' and '.join(experts)} "
                f"{'is a whole model' if len(experts) == 1 else 'are whole models'}; leave it out"
            )

    def load(self, base: LoadedModel, mesh: Mesh) -> Loaded:
        """See `Method`.

        Raises:
          UserError: if there is neither expert nor anti-expert, or one does not fit the model.
        """
        named = {"expert": self.expert, "anti": self.anti}
        paths = {name: path for name, path in named.items() if path is not None}
        if not paths:
            raise UserError(
                "Experts has neither an expert nor an anti-expert; set experts.Experts.anti, and "
                "experts.Experts.expert where there is one"
            )
        self.check_models()
        shared = models.Base.of_steered(base)
        if self.base is not None:
            shared = models.Base.read(self.base, mesh)
        experts = {
            name: models.read_expert(f"Experts.{name}", path, base, shared, mesh)
            for name, path in paths.items()
        }
        settings = {
            "method": "Experts",
            "alpha": self.alpha,
            "base_top_p": self.base_top_p,
            **{
                name: identity.described(paths[name], experts[name].fingerprint)
                if name in experts
                else None
                for name in named
            },
        }
        steering = Added(
            branches=models.branches_of([*experts.values()]),
            alpha=jnp.float32(self.alpha),
            base_top_p=None if self.base_top_p is None else jnp.float32(self.base_top_p),
            has_expert="expert" in experts,
            has_anti="anti" in experts,
        )
        longest = min(expert.module.config.max_length for expert in experts.values())
        return Loaded(steering if self.alpha else None, settings, longest)


@struct.dataclass
class Added:
    """See `Experts`."""

    branches: tuple[Branches, ...]
    alpha: jax.Array
    base_top_p: jax.Array | None
    has_expert: bool = struct.field(pytree_node=False)
    has_anti: bool = struct.field(pytree_node=False)

    def start(self, prompts_NP: jax.Array, lengths_N: jax.Array, positions: int) -> State:
        """See `Steering`."""
        return branches_lib.start(self.branches, prompts_NP, lengths_N, positions)

    def adjust(
        self, distribution: Distribution, state: State, token_R: jax.Array
    ) -> tuple[Distribution, State]:
        """See `Steering`."""
        width = distribution.logits_RV.shape[-1]
        logits_RKV, state = branches_lib.step(self.branches, state, token_R, width)
        return self._combined(distribution, logits_RKV), state

    def read_text(self, text: Text) -> branches_lib.Known:
        """See `OnePass`."""
        return branches_lib.read_text(self.branches, text)

    def adjust_text(self, distribution: Distribution, known: branches_lib.Known) -> Distribution:
        """See `OnePass`."""
        width = distribution.logits_RV.shape[-1]
        return self._combined(distribution, branches_lib.logits_of(self.branches, known, width))

    def _combined(self, distribution: Distribution, logits_RKV: jax.Array) -> Distribution:
        base_RV = distribution.logits_RV
        expert_RV = logits_RKV[:, 0] if self.has_expert else base_RV
        anti_RV = logits_RKV[:, -1] if self.has_anti else base_RV
        steered_RV = formulas.with_experts(base_RV, expert_RV, anti_RV, self.alpha)
        return distribution.to_nucleus(self.base_top_p).with_logits(steered_RV)
