"""Reward-augmented decoding (Deng and Raffel, 2023): candidates behind which no toxicity comes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from detox_jax import output_settings
from detox_jax.checkpoints import array_file, identity, places
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.generation.steering import formulas, lookahead, models
from detox_jax.generation.steering.lookahead import Lookahead
from detox_jax.generation.steering.steering import Distribution, Loaded, State
from detox_jax.models import reward as rewards
from detox_jax.parallel import processes


@dataclasses.dataclass(frozen=True)
class RewardAugmented:
    """Prefers candidates behind which a small causal model expects little toxicity.

    Of the model's k likeliest tokens, each is read one step ahead; the others are not drawn. The
    toxicity of a token that ends the text is that of the text so far.

    Attributes:
      reward: checkpoint of `train_reward`, of the vocabulary of the model that is steered.
      beta: the strength; the published runs go up to hundreds, their README has 50. 0 is no
        steering.
      k: candidates; a step costs as many rows of the small model.
    """

    files: ClassVar = {"reward": places.REWARD_VERB}

    reward: str
    beta: float = 50.0
    k: int = 20

    def __post_init__(self):
        formulas.require_finite("RewardAugmented", beta=self.beta)
        if not isinstance(self.k, int) or self.k < 1:
            raise UserError(f"RewardAugmented.k is {self.k!r}; must be at least 1")

    @property
    def unscored(self) -> str | None:
        """See `Method`."""
        return f"draws among its {self.k} candidates alone"

    def load(self, base: LoadedModel, mesh: Mesh) -> Loaded:
        """See `Method`.

        Raises:
          UserError: for what is no finished reward model, or has another vocabulary.
        """
        owner = "RewardAugmented.reward"
        model_dir, _ = checkpoints.resolve(self.reward, is_reward=True)
        manifest = array_file.require_finished(owner, str(model_dir), places.REWARD_VERB)
        if output_settings.LEARNS not in manifest["settings"]:
            processes.warn(
                f"{owner}: {self.reward} was trained on texts without the token that starts a "
                "document, behind which it reads here; train it anew with `train_reward`"
            )
        shared = models.Base.of_steered(base)
        model = models.read_expert(owner, self.reward, base, shared, mesh, is_reward=True)
        config = model.module.config
        steering = Rewarded(
            lookahead=Lookahead(
                model.module, model.params, min(self.k, model.module.vocab_size - 1)
            ),
            head_D=rewards.head(config, model.params),
            beta=jnp.float32(self.beta),
            end_ids=tuple(base.vocabulary.end_ids),
        )
        settings = {
            "method": "RewardAugmented",
            "beta": self.beta,
            "k": self.k,
            "reward": identity.described(self.reward, model.fingerprint),
        }
        steering = steering if self.beta else None
        return Loaded(steering, settings, config.max_length, reads_ends=True)


@struct.dataclass
class Rewarded:
    """See `RewardAugmented`."""

    lookahead: Lookahead
    head_D: jax.Array
    beta: jax.Array
    end_ids: tuple[int, ...] = struct.field(pytree_node=False)

    def start(self, prompts_NP: jax.Array, lengths_N: jax.Array, positions: int) -> State:
        """See `Steering`."""
        return self.lookahead.start(prompts_NP, lengths_N, positions)

    def adjust(
        self, distribution: Distribution, state: State, token_R: jax.Array
    ) -> tuple[Distribution, State]:
        """See `Steering`."""
        base_RV, k = distribution.logits_RV, self.lookahead.k
        ids_Rk, is_one_Rk = lookahead.candidates(base_RV, distribution.allowed_RV, k)
        text_RD, state = self.lookahead.read(state, token_R)
        ahead_RkD, state = self.lookahead.ahead(state, ids_Rk)
        of_text_R1 = rewards.toxicity(text_RD, self.head_D)[:, None]
        ends_Rk = lookahead.is_any(ids_Rk, self.end_ids)
        toxicity_Rk = jnp.where(ends_Rk, of_text_R1, rewards.toxicity(ahead_RkD, self.head_D))
        added_Rk = formulas.of_rewards(toxicity_Rk, is_one_Rk, self.beta)
        width = base_RV.shape[-1]
        steered_RV = base_RV + lookahead.of_candidates(added_Rk, ids_Rk, width)
        kept_RV = lookahead.of_candidates(is_one_Rk, ids_Rk, width)
        return distribution.with_logits(steered_RV).truncate(kept_RV, instead=False), state
