"""What STEERING adds to a program that decodes: the branches that its methods run, from shapes.

The functions are the methods' own, as `load` puts them together; only what they hold is shapes. A
checkpoint that is named and is there says its sizes in `model.json`. One that is still to be
trained is planned as what the plan trains.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import places
from detox_jax.errors import UserError
from detox_jax.generation.steering import (
    activations,
    contrast,
    discriminator,
    experts,
    linear,
    reversal,
    reward,
    subspace,
    words,
)
from detox_jax.generation.steering import steering as steering_lib
from detox_jax.generation.steering.branches import Branches
from detox_jax.generation.steering.lookahead import Lookahead
from detox_jax.generation.steering.steering import Steering
from detox_jax.models import adaptation as adaptations
from detox_jax.models.transformer import TransformerLM
from detox_jax.planning.models import Model

# Tables and vectors alone: nothing beside the model's own step.
_NOTHING = (
    words.BannedWords,
    activations.ActivationOffset,
    activations.AffineSteering,
    linear.LinearSteering,
)
# A plan knows no vocabulary. Of English a token is four characters and more.
_CHARACTERS_A_TOKEN = 3
_BOS_ID, _END_IDS = 2, (1,)  # What they are changes no shape.


@dataclasses.dataclass(frozen=True)
class Branch:
    """What a method runs at every step beside the model that is steered.

    Attributes:
      name: of the setting that asks for it.
      model: what is run.
      held: what of its parameters lies in memory beside the steered model's; of an adaptation of
        another base that base too.
      rows: K in place of each row of the model, read in one call.
      prefix: tokens before each prompt, about.
      candidates: read one step ahead of a row, which has one cache; 0 where rows are branches.
      is_planned: whether the checkpoint is not there yet.
    """

    name: str
    model: Model
    held: Literal["all", "adaptation", "adaptation and base", "nothing"]
    rows: int = 1
    prefix: int = 0
    candidates: int = 0
    is_planned: bool = False

    @property
    def module(self) -> TransformerLM:
        """As `generate` runs it."""
        return self.model.generating.module

    @property
    def tokens_a_row(self) -> int:
        """How many tokens a step reads for each row of the steered model."""
        return self.candidates or self.rows

    def params(self, mesh: Mesh) -> params_lib.Params:
        """Shapes of the parameters that it holds, of several adaptations on a new axis 0."""
        trained, frozen = self.model.params(mesh)
        if self.held == "nothing":
            return {}
        if self.held == "all":
            return params_lib.combine(trained, frozen) if frozen else trained
        if self.rows > 1:
            trained = jax.tree.map(functools.partial(_stacked, self.rows), trained)
        return {"own": trained, "base": frozen if self.held == "adaptation and base" else {}}

    def num_bytes(self) -> int:
        """Of the parameters that it holds, all devices together."""
        if self.held == "nothing":
            return 0
        trained, frozen = self.model.shapes()
        held = [trained] * (1 if self.held == "all" else self.rows)
        held += [] if self.held == "adaptation" else [frozen]
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(held))

    def cache_bytes(self, rows: int, positions: int, lanes: int = 1) -> int:
        """Of its caches, all devices together.

        Args:
          rows: of the steered model.
          positions: of each, in the model's own cache.
          lanes: of a device's registers, to which a head's width is filled up.
        """
        of_row = positions + self.prefix + self.candidates
        return self.model.cache_bytes(rows * self.rows * of_row, lanes)

    def to_json(self) -> dict[str, Any]:
        """What `plan.json` says of it."""
        return {
            "name": self.name,
            "rows": self.rows,
            "prefix": self.prefix,
            "candidates": self.candidates,
            "held": self.held,
            "parameter_bytes": self.num_bytes(),
            "is_planned": self.is_planned,
            "config": dataclasses.asdict(self.model.config),
            "adaptation": adaptations.to_json(self.model.adaptation),
        }

    def branches(self, params: params_lib.Params, base: params_lib.Params, own: Any) -> Branches:
        """The same as it runs.

        Args:
          params: the steered model's.
          base: those of them that are no adaptation's.
          own: of `params`, as arrays.
        """
        if self.held.startswith("adaptation"):
            base, own = own["base"] or base, own["own"]
            if self.rows > 1:
                return Branches.of_stacked(self.module, base, own, self.rows)
            return Branches.of_model(self.module, params_lib.combine(base, own))
        whole = own if self.held == "all" else params
        if not self.prefix:
            return Branches.of_model(self.module, whole)
        return Branches.of_prefixes(self.module, whole, [[1] * self.prefix] * self.rows, _BOS_ID)


@dataclasses.dataclass(frozen=True)
class Steered:
    """A method of STEERING as a plan has it.

    Attributes:
      branches: that it runs.
      make: the method as the loop has it, of the branches.
      numbers: of the method.
    """

    branches: tuple[Branch, ...]
    make: Callable[[Sequence[Any]], Steering]
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What `plan.json` says of it."""
        return {**self.numbers, "branches": [branch.to_json() for branch in self.branches]}


def of_methods(methods: Sequence[steering_lib.Method], model: Model) -> tuple[Steered, ...]:
    """What a plan has of STEERING; nothing of what runs no branch.

    Args:
      methods: as `generate` takes them.
      model: that is steered.

    Raises:
      UserError: for what is no list of methods, or a method whose cost is not known.
    """
    steering_lib.check(methods)
    return tuple(steered for method in methods if (steered := _of(method, model)) is not None)


def held(steered: Sequence[Steered], mesh: Mesh) -> list[list[params_lib.Params]]:
    """Shapes of the parameters that methods hold, for `steerings`."""
    return [[branch.params(mesh) for branch in method.branches] for method in steered]


def steerings(
    steered: Sequence[Steered], model: Model, params: params_lib.Params, own: Any
) -> tuple[Steering, ...]:
    """The methods as the loop has them.

    Args:
      steered: the methods.
      model: that is steered.
      params: all of its parameters, as arrays.
      own: `held`, as arrays.
    """
    pattern = adaptations.trainable_pattern(model.adaptation)
    base = params if model.adaptation is None else params_lib.partition(params, pattern)[1]
    return tuple(
        method.make(
            [
                Lookahead(branch.module, arrays or params, branch.candidates)
                if branch.candidates
                else branch.branches(params, base, arrays)
                for branch, arrays in zip(method.branches, of_method, strict=True)
            ]
        )
        for method, of_method in zip(steered, own, strict=True)
    )


def _stacked(number: int, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    sharding: Any = leaf.sharding
    spec = PartitionSpec(None, *sharding.spec)
    return jax.ShapeDtypeStruct(
        (number, *leaf.shape), leaf.dtype, sharding=NamedSharding(sharding.mesh, spec)
    )


def _of_models(
    paths: Mapping[str, str], model: Model, other_base: bool = False
) -> tuple[Branch, ...]:
    """Branches of checkpoints; adaptations of one kind and size are one call.

    Args:
      paths: of the checkpoints, by the setting that names each.
      model: that is steered.
      other_base: whether adaptations are of another base than the steered model's.
    """
    branches = []
    for name, path in paths.items():
        of_path, is_planned = _model_of(path, model)
        held = "all"
        if of_path.adaptation is not None:
            held = "adaptation and base" if other_base else "adaptation"
        branches.append(Branch(name, of_path, held, is_planned=is_planned))
    first = branches[0]
    if first.held == "all" or any(branch.model != first.model for branch in branches):
        return tuple(branches)
    is_planned = any(branch.is_planned for branch in branches)
    name = ", ".join(paths)
    return (dataclasses.replace(first, name=name, rows=len(branches), is_planned=is_planned),)


def _model_of(path: str, model: Model) -> tuple[Model, bool]:
    """A checkpoint's network; where none is, that of the plan, and that it was taken for it."""
    model_dir, _ = places.split(path)
    if not model_dir.exists():
        return model, True
    spec = checkpoints.read_spec(model_dir)
    return dataclasses.replace(model, config=spec.config, adaptation=spec.adaptation), False


def _behind(name: str, texts: Sequence[str], model: Model) -> Branch:
    """The steered model behind each of the texts."""
    longest = max(map(_num_tokens, texts))
    return Branch(name, model, "nothing", rows=len(texts), prefix=longest)


def _num_tokens(text: str) -> int:
    return max(1, -(-len(text) // _CHARACTERS_A_TOKEN))


# --- method by method -------------------------------------------------------------------------


def _of(method: Any, model: Model) -> Steered | None:
    if isinstance(method, _NOTHING):
        return None
    for kind, plan in _PLANNED.items():
        if isinstance(method, kind):
            steered = plan(method, model)
            return steered and dataclasses.replace(steered, numbers=_numbers(method))
    raise UserError(
        f"STEERING: what {type(method).__name__} costs is not known to `plan`; leave it out"
    )


def _numbers(method: Any) -> dict[str, Any]:
    """What a method says of itself, without places and texts."""
    fields = dataclasses.asdict(method).items()
    kept = {k: x for k, x in fields if x is None or isinstance(x, int | float) or k == "form"}
    return {"method": type(method).__name__, **kept}


def _experts(method: experts.Experts, model: Model) -> Steered | None:
    paths = {"expert": method.expert, "anti": method.anti}
    paths = {f"Experts.{name}": path for name, path in paths.items() if path is not None}
    branches = _of_models(paths, model, other_base=method.base is not None)
    top_p = None if method.base_top_p is None else jnp.float32(method.base_top_p)
    make = functools.partial(
        _added,
        alpha=method.alpha,
        base_top_p=top_p,
        has_expert=method.expert is not None,
        has_anti=method.anti is not None,
    )
    return Steered(branches, make) if method.alpha else None


def _added(branches: Sequence[Branches], alpha: float, **how: Any) -> Steering:
    return experts.Added(branches=tuple(branches), alpha=jnp.float32(alpha), **how)


def _contrast(method: contrast.PrefixContrast, model: Model) -> Steered | None:
    if method.prefix is not None:
        (branch,) = _of_models({"PrefixContrast.prefix": method.prefix}, model)
    else:
        branch = _behind("PrefixContrast.text", [method.shown_text], model)

    def make(branches: Sequence[Branches]) -> Steering:
        return contrast.Contrast(
            branch=branches[0],
            alpha=jnp.float32(method.alpha),
            base_top_p=None if method.base_top_p is None else jnp.float32(method.base_top_p),
            form=method.form,
            vocab_size=model.config.vocab_size,
        )

    return Steered((branch,), make) if method.alpha else None


def _debiasing(method: contrast.SelfDebiasing, model: Model) -> Steered | None:
    def make(branches: Sequence[Branches]) -> Steering:
        return contrast.Debiasing(
            branch=branches[0],
            decay=jnp.float32(method.decay),
            floor=jnp.float32(method.floor),
            vocab_size=model.config.vocab_size,
        )

    branch = _behind("SelfDebiasing.prefixes", method.shown_prefixes, model)
    return Steered((branch,), make) if method.decay else None


def _discriminator(method: discriminator.GenerativeDiscriminator, model: Model) -> Steered | None:
    name = "GenerativeDiscriminator"
    if method.model is not None:
        # Behind its codes an adaptation is run as a model of its own.
        of_model, is_planned = _model_of(method.model, model)
        longest = max(map(_num_tokens, method.codes or ("",)))
        branches = (Branch(f"{name}.model", of_model, "all", 2, longest, is_planned=is_planned),)
    else:
        paths = {f"{name}.clean": method.clean, f"{name}.dirty": method.dirty}
        branches = _of_models({k: path for k, path in paths.items() if path is not None}, model)

    def make(made: Sequence[Branches]) -> Steering:
        return discriminator.Discriminated(
            branches=tuple(made),
            omega=jnp.float32(method.omega),
            bias=jnp.float32(method.bias),
            scale=jnp.float32(method.scale),
            filter_mass=None if method.filter_mass is None else jnp.float32(method.filter_mass),
            filter_threshold=jnp.float32(method.filter_threshold),
            vocab_size=model.config.vocab_size,
            width=model.config.padded_vocab_size,
        )

    return Steered(branches, make) if method.omega else None


def _reversal(method: reversal.ToxificationReversal, model: Model) -> Steered | None:
    config = model.config
    shape = (config.num_layers, 2, config.num_heads, config.head_size)

    def make(branches: Sequence[Branches]) -> Steering:
        return reversal.Reversal(
            branch=branches[0],
            end_N2HK=jnp.zeros(shape, config.activation_dtype),
            strength=jnp.float32(method.strength),
            exponents_2=jnp.asarray([method.by_size, method.by_likeness], jnp.float32),
        )

    branch = _behind("ToxificationReversal", method.shown_prefixes, model)
    return Steered((branch,), make) if method.strength else None


def _subspace(method: subspace.SubspaceMargin, model: Model) -> Steered | None:
    k, D = min(method.k, model.config.vocab_size - 1), model.config.emb_dim

    def make(ahead: Sequence[Lookahead]) -> Steering:
        return subspace.Margins(
            lookahead=ahead[0],
            normal_D=jnp.zeros(D),
            centre_D=jnp.zeros(D),
            beta=jnp.float32(method.beta),
            base_top_p=None if method.base_top_p is None else jnp.float32(method.base_top_p),
            end_ids=_END_IDS,
            published=method.published,
        )

    branch = Branch("SubspaceMargin", model, "nothing", candidates=k)
    return Steered((branch,), make) if method.beta else None


def _reward(method: reward.RewardAugmented, model: Model) -> Steered | None:
    (of_model,) = _of_models(
        {"RewardAugmented.reward": method.reward}, dataclasses.replace(model, adaptation=None)
    )
    k = min(method.k, of_model.model.config.vocab_size - 1)

    def make(ahead: Sequence[Lookahead]) -> Steering:
        head_D = jnp.zeros(of_model.model.config.emb_dim)
        return reward.Rewarded(ahead[0], head_D, jnp.float32(method.beta), _END_IDS)

    branch = dataclasses.replace(of_model, candidates=k)
    return Steered((branch,), make) if method.beta else None


_PLANNED: dict[type, Callable[[Any, Model], Steered | None]] = {
    experts.Experts: _experts,
    contrast.PrefixContrast: _contrast,
    contrast.SelfDebiasing: _debiasing,
    discriminator.GenerativeDiscriminator: _discriminator,
    reversal.ToxificationReversal: _reversal,
    subspace.SubspaceMargin: _subspace,
    reward.RewardAugmented: _reward,
}
