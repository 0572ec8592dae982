"""Toxification reversal: every step is first read behind a toxic and a clean prefix, per head."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.generation.steering import activation_formulas, formulas
from detox_jax.generation.steering.branches import Branches
from detox_jax.generation.steering.contrast import branches_behind
from detox_jax.generation.steering.editing import Edits, in_float32
from detox_jax.generation.steering.fitting import CLEAN_PREFIX, TOXIC_PREFIX
from detox_jax.generation.steering.steering import Distribution, Loaded, State
from detox_jax.models import edits as edits_lib
from detox_jax.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class ToxificationReversal:
    """Moves the heads away from what a toxic prefix makes of them (Leong et al., 2023).

    From the prompt's last token on, at each position as it is read; keys and values of what was
    edited stay in the cache.

    Attributes:
      toxic: the toxic prefix; the package's own sentence where None.
      clean: the clean one, likewise.
      strength: of the change; 0 is no steering.
      by_size: the exponent of the change's own size, the paper's alpha.
      by_likeness: of the likeness to the end of the toxic prefix, the paper's beta.
    """

    toxic: str | None = None
    clean: str | None = None
    strength: float = 1.0
    by_size: float = 0.4
    by_likeness: float = 0.6

    def __post_init__(self):
        formulas.require_finite(
            "ToxificationReversal",
            strength=self.strength,
            by_size=self.by_size,
            by_likeness=self.by_likeness,
        )

    @property
    def shown_prefixes(self) -> list[str]:
        """The toxic and the clean one."""
        return [
            TOXIC_PREFIX if self.toxic is None else self.toxic,
            CLEAN_PREFIX if self.clean is None else self.clean,
        ]

    @property
    def unscored(self) -> str | None:
        """See `Method`."""
        return "acts from a prompt's last token on, so that it depends on where the text is cut"

    def load(self, base: LoadedModel, mesh: Mesh) -> Loaded:
        """See `Method`.

        Raises:
          UserError: for a prefix without tokens, or two that are the same.
        """
        texts = self.shown_prefixes
        if texts[0] == texts[1]:
            raise UserError("ToxificationReversal: its two prefixes are the same text; change one")
        branch = branches_behind("ToxificationReversal", texts, base)
        steering = Reversal(
            branch=branch,
            end_N2HK=_end_of_first_prefix(branch, mesh),
            strength=jnp.float32(self.strength),
            exponents_2=jnp.asarray([self.by_size, self.by_likeness], jnp.float32),
        )
        settings = {
            "method": "ToxificationReversal",
            "toxic": texts[0],
            "clean": texts[1],
            "strength": float(self.strength),
            "by_size": float(self.by_size),
            "by_likeness": float(self.by_likeness),
        }
        longest = base.module.config.max_length - branch.longest_prefix
        return Loaded(steering if self.strength else None, settings, longest)


def _end_of_first_prefix(branch: Branches, mesh: Mesh) -> np.ndarray:
    """The heads at the toxic prefix's last token: alone, and behind the token of a new document."""
    prefix = np.asarray(branch.prefix_KQ)[0, : int(branch.lengths_K[0])]
    tokens_2L = np.stack([np.append(prefix, 0), np.append(branch.bos_id, prefix)]).astype(np.int32)

    @jax.jit
    def read(params: params_lib.Params, tokens_2L: jax.Array) -> jax.Array:
        _, variables = branch.module.apply(
            {"params": params}, tokens_2L, enable_dropout=False, mutable=[edits_lib.RECORDED]
        )
        heads_N2LHK = edits_lib.recorded(variables)[edits_lib.HEADS]
        return jnp.stack([heads_N2LHK[:, 0, -2], heads_N2LHK[:, 1, -1]], axis=1)

    tokens = meshes.to_mesh(tokens_2L, meshes.replicated(mesh))
    with meshes.sharding_scope(mesh):
        return meshes.to_host(read(branch.shared, tokens))


@struct.dataclass
class Reversal:
    """See `ToxificationReversal`; of the branches the first is the toxic one."""

    branch: Branches
    end_N2HK: jax.Array | np.ndarray
    strength: jax.Array
    exponents_2: jax.Array

    def start(self, prompts_NP: jax.Array, lengths_N: jax.Array, positions: int) -> State:
        """See `Steering`; rows of a cache and of the prefix's end are on axis 1."""
        state = self.branch.start(prompts_NP, lengths_N, positions)
        begins_R = (prompts_NP[:, 0] == self.branch.bos_id).astype(jnp.int32)
        end_NRHK = jnp.take(jnp.asarray(self.end_N2HK), begins_R, axis=1)
        return {0: state[0], 1: {"cache": state[1], "end": end_NRHK}}

    def prompt_edits(self) -> Edits:
        """See `Editing`."""
        return ()

    def step_edits(self, state: State, token_R: jax.Array) -> tuple[Edits, State]:
        """See `Editing`."""
        of_branch = {0: state[0], 1: state[1]["cache"]}
        heads_NRKHK, after = self.branch.step_heads(of_branch, token_R)
        N = len(heads_NRKHK)
        edit = Reversed(
            toxic_RHK=heads_NRKHK[:, :, 0],
            clean_RHK=heads_NRKHK[:, :, 1],
            end_RHK=state[1]["end"],
            strength=jnp.broadcast_to(self.strength, N),
            exponents_2=jnp.broadcast_to(self.exponents_2, (N, 2)),
        )
        return (edit,), {0: after[0], 1: {**state[1], "cache": after[1]}}

    def adjust(
        self, distribution: Distribution, state: State, token_R: jax.Array
    ) -> tuple[Distribution, State]:
        """See `Steering`."""
        del token_R
        return distribution, state


@struct.dataclass
class Reversed:
    """See `activation_formulas.reversal`; of one layer and one position a row."""

    toxic_RHK: jax.Array
    clean_RHK: jax.Array
    end_RHK: jax.Array
    strength: jax.Array
    exponents_2: jax.Array
    site: str = struct.field(pytree_node=False, default=edits_lib.HEADS)

    def __call__(self, h: jax.Array) -> jax.Array:
        """See `Edit`; `[R, 1, H, K]`."""
        toxic, clean, end = (
            states.astype(jnp.float32)[:, None]
            for states in (self.toxic_RHK, self.clean_RHK, self.end_RHK)
        )
        exponents = self.exponents_2[0], self.exponents_2[1]
        return in_float32(
            h,
            self.strength,
            lambda h: activation_formulas.reversal(h, toxic, clean, end, self.strength, exponents),
        )
