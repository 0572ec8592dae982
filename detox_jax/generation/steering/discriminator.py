"""GeDi (Krause et al., 2021): what is drawn is likelier in clean text than in toxic, by Bayes."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from detox_jax.checkpoints import identity
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.generation.steering import branches as branches_lib
from detox_jax.generation.steering import formulas, models, one_pass
from detox_jax.generation.steering.branches import Branches
from detox_jax.generation.steering.steering import MODEL, Distribution, Loaded, State, is_token

# In a state, beside the places of branches, which count from 0.
_TEXT = -1

_Known = tuple[branches_lib.Known, jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class GenerativeDiscriminator:
    """Multiplies probabilities by P(clean | text, token) to a power.

    P(clean) is Bayes' rule over two language models: one model behind two codes (`model` and
    `codes`, the published form), or two models as DExperts has them (`clean` and `dirty`). Both
    read prompt and continuation; their log-likelihoods are divided by the number of tokens.

    Attributes:
      model: checkpoint of a model that was trained on text behind its code; small is enough.
      codes: texts that stand before clean and before toxic text, joined with the prompt as ids.
      clean: in place of `model`, checkpoint of a model of clean text, as `experts.Experts` has it.
      dirty: the same of toxic text.
      omega: the strength; the published 30 is for greedy decoding. 0 is no steering.
      bias: log-odds of clean before anything is read; the published 2.
      scale: of the mean difference of log-likelihoods, 1 where it was not trained.
      filter_mass: rho: the tokens least likely to be clean go, as many as hold this mass of what
        is steered; None for no filter. The published 0.8.
      filter_threshold: tau: tokens whose P(clean) is at least this, the bias added, stay.
    """

    files: ClassVar = {"model": MODEL, "clean": MODEL, "dirty": MODEL}

    model: str | None = None
    codes: tuple[str, str] | None = None
    clean: str | None = None
    dirty: str | None = None
    omega: float = 30.0
    bias: float = 2.0
    scale: float = 1.0
    filter_mass: float | None = 0.8
    filter_threshold: float = 0.8

    def __post_init__(self):
        name = "GenerativeDiscriminator"
        formulas.require_finite(name, omega=self.omega, bias=self.bias, scale=self.scale)
        if self.filter_mass is not None and not 0 < self.filter_mass <= 1:
            raise UserError(f"{name}.filter_mass is {self.filter_mass}; must be in (0, 1], or None")
        if not 0 < self.filter_threshold < 1:
            raise UserError(
                f"{name}.filter_threshold is {self.filter_threshold}; must be in (0, 1)"
            )
        pair = (self.clean, self.dirty)
        if (self.model is None) == (pair == (None, None)) or (self.model is None and None in pair):
            raise UserError(
                f"{name} needs one model behind two codes, or two models; set "
                f"discriminator.{name}.model and .codes, or .clean and .dirty"
            )
        codes = self.codes
        if self.model is None and codes is not None:
            raise UserError(
                f"{name}.codes is {codes!r}, but .clean and .dirty are two models, which are read "
                "behind no code; leave it out"
            )
        if self.model is not None and not (
            isinstance(codes, tuple | list) and len(codes) == 2 and codes[0] != codes[1]
        ):
            raise UserError(
                f"{name}.codes is {codes!r}; give two texts, what stands before clean and what "
                "before toxic text where the model was trained"
            )

    @property
    def unscored(self) -> str | None:
        """See `Method`."""
        return formulas.why_unscored(filter_mass=self.filter_mass)

    def load(self, base: LoadedModel, mesh: Mesh) -> Loaded:
        """See `Method`.

        Raises:
          UserError: if a model does not fit the one that is steered, or a code has no tokens.
        """
        shared = models.Base.of_steered(base)
        named = {"model": self.model, "clean": self.clean, "dirty": self.dirty}
        experts = {
            name: models.read_expert(f"GenerativeDiscriminator.{name}", path, base, shared, mesh)
            for name, path in named.items()
            if path is not None
        }
        if self.model is not None:
            assert self.codes is not None
            branches = (_behind_codes(experts["model"], self.codes, base),)
        else:
            branches = models.branches_of([*experts.values()])
        logit = math.log(self.filter_threshold / (1 - self.filter_threshold)) + self.bias
        steering = Discriminated(
            branches=branches,
            omega=jnp.float32(self.omega),
            bias=jnp.float32(self.bias),
            scale=jnp.float32(self.scale),
            filter_mass=None if self.filter_mass is None else jnp.float32(self.filter_mass),
            filter_threshold=jax.nn.log_sigmoid(jnp.float32(logit)),
            vocab_size=base.module.vocab_size,
            width=base.module.config.padded_vocab_size,
        )
        settings = {
            "method": "GenerativeDiscriminator",
            **{
                name: getattr(self, name)
                for name in ("omega", "bias", "scale", "filter_mass", "filter_threshold")
            },
            "codes": None if self.codes is None else list(self.codes),
            **{
                name: identity.described(str(named[name]), expert.fingerprint)
                for name, expert in experts.items()
            },
        }
        longest = min(expert.module.config.max_length for expert in experts.values())
        longest -= max(branch.longest_prefix for branch in branches)
        return Loaded(steering if self.omega else None, settings, longest)


def _behind_codes(expert: models.Expert, codes: tuple[str, str], base: LoadedModel) -> Branches:
    prefixes = base.vocabulary.encode_batch(list(codes))
    if empty := [code for code, ids in zip(codes, prefixes, strict=True) if not ids]:
        raise UserError(f"GenerativeDiscriminator.codes: {empty[0]!r} has no tokens; give a text")
    if (longest := max(map(len, prefixes))) >= expert.module.config.max_length:
        raise UserError(
            f"GenerativeDiscriminator.codes: has {longest} tokens, but the model reads "
            f"{expert.module.config.max_length}, the text included; shorten it"
        )
    params = models.whole_params(expert)
    return Branches.of_prefixes(expert.module, params, prefixes, base.vocabulary.bos_id)


@struct.dataclass
class Discriminated:
    """See `GenerativeDiscriminator`; the first branch is clean, the second dirty."""

    branches: tuple[Branches, ...]
    omega: jax.Array
    bias: jax.Array
    scale: jax.Array
    filter_mass: jax.Array | None
    filter_threshold: jax.Array
    vocab_size: int = struct.field(pytree_node=False)
    width: int = struct.field(pytree_node=False)

    def start(self, prompts_NP: jax.Array, lengths_N: jax.Array, positions: int) -> State:
        """See `Steering`; beside caches, what is known of the text so far.

        `next_RV` is what each token would add to the difference of log-likelihoods, of which the
        one that is drawn is added when it is read.
        """
        state, likelihood_NK, predicted_NK = branches_lib.read(
            self.branches, prompts_NP, lengths_N, positions
        )
        text = {
            "difference_R": likelihood_NK[:, 0] - likelihood_NK[:, 1],
            "tokens_R": predicted_NK[:, 0],
            "next_RV": jnp.zeros((lengths_N.shape[0], self.width), jnp.float32),
            "starts_R": jnp.ones(lengths_N.shape, bool),
        }
        return {**state, 0: {**state[0], _TEXT: text}}

    def adjust(
        self, distribution: Distribution, state: State, token_R: jax.Array
    ) -> tuple[Distribution, State]:
        """See `Steering`."""
        text = state[0][_TEXT]
        logits_RKV, state = branches_lib.step(self.branches, state, token_R, self.width)
        next_RV = self._next(logits_RKV)
        # The prompt's last token is in its likelihood already.
        drawn_R = jnp.take_along_axis(text["next_RV"], token_R[:, None], axis=-1)[:, 0]
        difference_R = text["difference_R"] + jnp.where(text["starts_R"], 0.0, drawn_R)
        read_R = text["tokens_R"] + jnp.where(text["starts_R"], 0, 1)
        after = {
            "difference_R": difference_R,
            "tokens_R": read_R,
            "next_RV": next_RV,
            "starts_R": jnp.zeros_like(text["starts_R"]),
        }
        steered = self._combined(distribution, next_RV, difference_R, read_R)
        return steered, {**state, 0: {**state[0], _TEXT: after}}

    def read_text(self, text: one_pass.Text) -> _Known:
        """See `OnePass`; the branches' states, and what is known of the text before each place."""
        _, likelihood_NK, predicted_NK = branches_lib.read(
            self.branches, text.prompts_NP, text.lengths_N, text.prompts_NP.shape[1]
        )
        states = branches_lib.read_text(self.branches, text)

        def add(states: branches_lib.Known, target_R: jax.Array) -> jax.Array:
            next_RV = self._next(branches_lib.logits_of(self.branches, states, self.width))
            return jnp.take_along_axis(next_RV, target_R[:, None], axis=-1)[:, 0]

        added_NT = one_pass.by_places(add, states, text.targets_NT)
        # What each target adds counts from the next place on.
        before_NT = jnp.cumsum(added_NT, axis=1) - added_NT
        difference_N1 = (likelihood_NK[:, 0] - likelihood_NK[:, 1])[:, None]
        read_NT = predicted_NK[:, :1] + jnp.arange(text.targets_NT.shape[1])
        return states, difference_N1 + before_NT, read_NT

    def adjust_text(self, distribution: Distribution, known: _Known) -> Distribution:
        """See `OnePass`."""
        states, difference_R, read_R = known
        next_RV = self._next(branches_lib.logits_of(self.branches, states, self.width))
        return self._combined(distribution, next_RV, difference_R, read_R)

    def _next(self, logits_RKV: jax.Array) -> jax.Array:
        """What each token would add to the difference of log-likelihoods."""
        log_probs_RKV = formulas.log_probs(logits_RKV, is_token(self.width, self.vocab_size))
        return log_probs_RKV[:, 0] - log_probs_RKV[:, 1]

    def _combined(
        self,
        distribution: Distribution,
        next_RV: jax.Array,
        difference_R: jax.Array,
        read_R: jax.Array,
    ) -> Distribution:
        base_RV, tokens_V = distribution.logits_RV, is_token(self.width, self.vocab_size)
        log_clean_RV = formulas.log_clean(
            difference_R[:, None] + next_RV, read_R + 1, self.scale, self.bias
        )
        steered_RV = base_RV + self.omega * jnp.where(tokens_V, log_clean_RV, 0.0)
        steered = distribution.with_logits(steered_RV)
        if self.filter_mass is not None:
            kept_RV = formulas.desired_mask(
                steered_RV,
                log_clean_RV,
                distribution.allowed_RV,
                self.filter_mass,
                self.filter_threshold,
            )
            steered = steered.truncate(kept_RV, instead=False)
        return steered
