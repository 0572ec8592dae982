"""Steering away from what the model itself would write behind a bad prefix."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from detox_jax.checkpoints import identity
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.generation.steering import formulas, models
from detox_jax.generation.steering.branches import Branches
from detox_jax.generation.steering.one_pass import Text
from detox_jax.generation.steering.steering import MODEL, Distribution, Loaded, State, is_token

_FORMS = ("logits", "probabilities")
_ANNOUNCEMENT = "The following text is rude, hostile, and full of insults and threats.\n\n"
# One for each of six attributes of toxic text, in words of this project.
_DESCRIPTIONS = (
    "The following text contains hateful, aggressive or disrespectful language:\n",
    "The following text contains extremely hateful and very aggressive language:\n",
    "The following text insults somebody in a negative or hateful way:\n",
    "The following text threatens somebody with pain, injury or violence:\n",
    "The following text attacks somebody for who they are:\n",
    "The following text contains swear words or other obscene language:\n",
)


@dataclasses.dataclass(frozen=True)
class PrefixContrast:
    """Moves away from the same model behind a bad prefix.

    `logits` is PREADD (Pei et al., 2023) of strength `-alpha`: `base + alpha (base - dirty)`.
    `probabilities` is DetoxiGen's form: `p' ~ max(0, p + alpha (p - p_dirty))`, for which no code
    was published; where nothing would be left, the most probable token is.

    Attributes:
      text: the prefix, joined with the prompt as ids; the package's own sentence where it and
        `prefix` are None.
      prefix: checkpoint of an adaptation of the model that was trained on toxic text, such as a
        prefix (`adaptation.PrefixConfig`), in place of a text.
      alpha: the strength; 0 is no steering.
      form: `logits` or `probabilities`.
      base_top_p: truncates to the model's own nucleus of this mass, in place of the sampling's;
        the sampling's own where None.
    """

    files: ClassVar = {"prefix": MODEL}

    text: str | None = None
    prefix: str | None = None
    alpha: float = 1.0
    form: str = "logits"
    base_top_p: float | None = None

    def __post_init__(self):
        formulas.require_finite("PrefixContrast", alpha=self.alpha)
        formulas.check_top_p("PrefixContrast", self.base_top_p)
        if self.form not in _FORMS:
            raise UserError(f"PrefixContrast.form is {self.form!r}; one of {', '.join(_FORMS)}")
        if self.text is not None and self.prefix is not None:
            raise UserError("PrefixContrast has a text and a trained prefix; give one of them")

    @property
    def shown_text(self) -> str:
        """The text, where no trained prefix stands in its place."""
        return _ANNOUNCEMENT if self.text is None else self.text

    @property
    def unscored(self) -> str | None:
        """See `Method`."""
        if self.form == "probabilities":
            return "leaves out every token that the bad prefix makes likely enough"
        return formulas.why_unscored(base_top_p=self.base_top_p)

    def load(self, base: LoadedModel, mesh: Mesh) -> Loaded:
        """See `Method`.

        Raises:
          UserError: for a prefix without tokens, or that was trained on another base.
        """
        behind: dict[str, Any]
        if self.prefix is not None:
            shared = models.Base.of_steered(base)
            dirty = models.read_expert("PrefixContrast.prefix", self.prefix, base, shared, mesh)
            branch = Branches.of_model(dirty.module, models.whole_params(dirty))
            behind = {"prefix": identity.described(self.prefix, dirty.fingerprint)}
        else:
            branch = branches_behind("PrefixContrast.text", [self.shown_text], base)
            behind = {"text": self.shown_text}
        steering = Contrast(
            branch=branch,
            alpha=jnp.float32(self.alpha),
            base_top_p=None if self.base_top_p is None else jnp.float32(self.base_top_p),
            form=self.form,
            vocab_size=base.module.vocab_size,
        )
        settings = {
            "method": "PrefixContrast",
            "form": self.form,
            "alpha": self.alpha,
            "base_top_p": self.base_top_p,
            **behind,
        }
        longest = branch.module.config.max_length - branch.longest_prefix
        return Loaded(steering if self.alpha else None, settings, longest)


@dataclasses.dataclass(frozen=True)
class SelfDebiasing:
    """Lowers what becomes likelier behind descriptions of bad text (Schick et al., 2021).

    Attributes:
      prefixes: the descriptions; six of the package's own where None.
      decay: the strength, the paper's lambda; 0 is no steering.
      floor: the smallest factor of a probability, the paper's epsilon.
    """

    prefixes: Sequence[str] | None = None
    decay: float = 50.0
    floor: float = 0.01

    def __post_init__(self):
        formulas.require_finite("SelfDebiasing", decay=self.decay, floor=self.floor)
        if not 0 < self.floor <= 1:
            raise UserError(f"SelfDebiasing.floor is {self.floor}; must be in (0, 1]")
        if self.decay < 0:
            raise UserError(f"SelfDebiasing.decay is {self.decay}; must not be negative")

    @property
    def shown_prefixes(self) -> Sequence[str]:
        """The descriptions."""
        return _DESCRIPTIONS if self.prefixes is None else self.prefixes

    def load(self, base: LoadedModel, mesh: Mesh) -> Loaded:
        """See `Method`.

        Raises:
          UserError: for no prefix, or one without tokens.
        """
        del mesh
        prefixes = self.shown_prefixes
        branch = branches_behind("SelfDebiasing.prefixes", prefixes, base)
        steering = Debiasing(
            branch=branch,
            decay=jnp.float32(self.decay),
            floor=jnp.float32(self.floor),
            vocab_size=base.module.vocab_size,
        )
        settings = {
            "method": "SelfDebiasing",
            "decay": self.decay,
            "floor": self.floor,
            "prefixes": list(prefixes),
        }
        longest = base.module.config.max_length - branch.longest_prefix
        return Loaded(steering if self.decay else None, settings, longest)


def branches_behind(owner: str, texts: Sequence[str], base: LoadedModel) -> Branches:
    """The model behind each of the texts.

    Args:
      owner: of the setting that holds them, for messages.
      texts: the prefixes.
      base: the model.

    Raises:
      UserError: for none, or one without tokens or as long as the context.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts) or not texts:
        raise UserError(f"{owner} is {texts!r}; give at least one text, in a list")
    prefixes = base.vocabulary.encode_batch(texts)
    if empty := [text for text, ids in zip(texts, prefixes, strict=True) if not ids]:
        raise UserError(f"{owner}: {empty[0]!r} has no tokens; give a text")
    longest = max(map(len, prefixes))
    if longest >= base.module.config.max_length:
        raise UserError(
            f"{owner}: has {longest} tokens, but the model reads "
            f"{base.module.config.max_length}, the text included; shorten it"
        )
    return Branches.of_prefixes(base.module, base.params, prefixes, base.vocabulary.bos_id)


@struct.dataclass
class _Prefixed:
    """Combines the model's logits with its own behind prefixes.

    Attributes:
      branch: the model behind each prefix.
    """

    branch: Branches

    def start(self, prompts_NP: jax.Array, lengths_N: jax.Array, positions: int) -> State:
        """See `Steering`."""
        return self.branch.start(prompts_NP, lengths_N, positions)

    def adjust(
        self, distribution: Distribution, state: State, token_R: jax.Array
    ) -> tuple[Distribution, State]:
        """See `Steering`."""
        width = distribution.logits_RV.shape[-1]
        prefixed_RKV, state = self.branch.step(state, token_R, width)
        return self._combined(distribution, prefixed_RKV), state

    def read_text(self, text: Text) -> jax.Array:
        """See `OnePass`."""
        return self.branch.read_text(text)

    def adjust_text(self, distribution: Distribution, known: jax.Array) -> Distribution:
        """See `OnePass`."""
        width = distribution.logits_RV.shape[-1]
        return self._combined(distribution, self.branch.logits_of(known, width))

    def _combined(self, distribution: Distribution, prefixed_RKV: jax.Array) -> Distribution:
        raise NotImplementedError


@struct.dataclass
class Contrast(_Prefixed):
    """See `PrefixContrast`."""

    alpha: jax.Array
    base_top_p: jax.Array | None
    form: str = struct.field(pytree_node=False)
    vocab_size: int = struct.field(pytree_node=False)

    def _combined(self, distribution: Distribution, prefixed_RKV: jax.Array) -> Distribution:
        base_RV, dirty_RV = distribution.logits_RV, prefixed_RKV[:, 0]
        width = base_RV.shape[-1]
        distribution = distribution.to_nucleus(self.base_top_p)
        if self.form == "logits":
            steered_RV = formulas.with_experts(base_RV, base_RV, dirty_RV, self.alpha)
            return distribution.with_logits(steered_RV)
        steered_RV, positive_RV = formulas.contrast_of_probabilities(
            base_RV, dirty_RV, self.alpha, is_token(width, self.vocab_size)
        )
        # Clipping may leave nothing of what truncations left.
        left_R1 = jnp.any(distribution.allowed_RV & positive_RV, axis=-1, keepdims=True)
        candidates_RV = jnp.where(distribution.allowed_RV, base_RV, -jnp.inf)
        best_RV = jnp.arange(width) == jnp.argmax(candidates_RV, axis=-1)[:, None]
        kept_RV = jnp.where(left_R1, positive_RV, best_RV)
        return distribution.with_logits(steered_RV).truncate(kept_RV, instead=False)


@struct.dataclass
class Debiasing(_Prefixed):
    """See `SelfDebiasing`."""

    decay: jax.Array
    floor: jax.Array
    vocab_size: int = struct.field(pytree_node=False)

    def _combined(self, distribution: Distribution, prefixed_RKV: jax.Array) -> Distribution:
        base_RV = distribution.logits_RV
        tokens_V = is_token(base_RV.shape[-1], self.vocab_size)
        steered_RV = formulas.debiased(base_RV, prefixed_RKV, self.decay, self.floor, tokens_V)
        return distribution.with_logits(steered_RV)
