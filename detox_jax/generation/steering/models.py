"""The models that steer: read from disk, checked against the model that is steered."""

from __future__ import annotations

import dataclasses

from jax.sharding import Mesh

from detox_jax import preview
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints.model_dir import LoadedModel
from detox_jax.errors import UserError
from detox_jax.generation.steering.branches import Branches
from detox_jax.generation.steering.steering import require_vocabulary
from detox_jax.models import adaptation as adaptations
from detox_jax.models.transformer import TransformerLM


@dataclasses.dataclass(frozen=True)
class Base:
    """What adaptations belong to.

    Attributes:
      params: its parameters, without an adaptation's.
      spec: what its `model.json` says.
      fingerprint: of the parameters.
      name: for messages.
    """

    params: params_lib.Params
    spec: checkpoints.ModelSpec
    fingerprint: str
    name: str

    @classmethod
    def of_steered(cls, steered: LoadedModel) -> Base:
        """The steered model, or the base of its adaptation; no array is copied."""
        if steered.spec.base is None:
            return cls(steered.params, steered.spec, steered.fingerprint, "the model")
        pattern = adaptations.trainable_pattern(steered.spec.adaptation)
        _, params = params_lib.partition(steered.params, pattern)
        return cls(params, steered.spec, steered.spec.base["fingerprint"], "the model's base")

    @classmethod
    def read(cls, checkpoint_path: str, mesh: Mesh) -> Base:
        """A base that is not the steered model's."""
        params, spec, fingerprint = checkpoints.load_params(checkpoint_path, mesh)
        return cls(params, spec, fingerprint, checkpoint_path)


@dataclasses.dataclass(frozen=True)
class Expert:
    """A model that steers.

    Attributes:
      module: the network, in the dtype of the steered model.
      params: all of them, or of an adaptation its own, to which `base` has the others.
      base: of an adaptation; None for a whole model.
      fingerprint: of all parameters, those of the base included.
    """

    module: TransformerLM
    params: params_lib.Params
    base: Base | None
    fingerprint: str


def may_adapt(checkpoint_path: str) -> bool:
    """Whether a checkpoint is an adaptation, or an earlier step has still to write it."""
    if isinstance(checkpoint_path, preview.Coming):
        return True
    return checkpoints.read_spec(checkpoints.resolve(checkpoint_path)[0]).base is not None


def read_expert(
    owner: str,
    checkpoint_path: str,
    steered: LoadedModel,
    base: Base,
    mesh: Mesh,
    is_reward: bool = False,
) -> Expert:
    """Reads a whole model, or of an adaptation what was trained.

    Args:
      owner: of the setting that names it, for messages.
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.
      steered: the model whose text it steers.
      base: what an adaptation must belong to.
      mesh: where its arrays go.
      is_reward: whether it is what `train_reward` trained.

    Raises:
      UserError: for another vocabulary, or an adaptation of another base.
    """
    model_dir, step = checkpoints.resolve(checkpoint_path, is_reward)
    spec = checkpoints.read_spec(model_dir)
    require_vocabulary(owner, checkpoint_path, spec, steered.spec)
    checkpoints.require_divided(f"STEERING {owner}: {checkpoint_path}", spec, mesh)
    dtype = steered.module.config.dtype
    if spec.base is None:
        loaded = checkpoints.load_model(checkpoint_path, mesh, dtype, is_reward=is_reward)
        return Expert(loaded.module, loaded.params, None, loaded.fingerprint)
    if spec.base["fingerprint"] != base.fingerprint:
        raise UserError(
            f"{owner}: {checkpoint_path} is an adaptation of base {spec.base['fingerprint']}, but "
            f"{base.name} is {base.fingerprint}; give one of that base"
            + ", or name its base with Experts.base"
            * owner.startswith("Experts.")
        )
    config = dataclasses.replace(spec.config, dropout_rate=0.0, remat="none", dtype=dtype)
    module = checkpoints.network(config, spec.adaptation, steered.vocabulary)
    trained = checkpoints.load_trained(model_dir, mesh, only=step)
    fingerprint = params_lib.fingerprint(params_lib.combine(base.params, trained))
    return Expert(module, trained, base, fingerprint)


def branches_of(experts: list[Expert]) -> tuple[Branches, ...]:
    """Branches in the order of the experts; adaptations that can be are one call."""
    if len(experts) > 1 and _stack(experts):
        base = experts[0].base
        assert base is not None
        adapted = [expert.params for expert in experts]
        return (Branches.of_adaptations(experts[0].module, base.params, adapted),)
    return tuple(Branches.of_model(expert.module, whole_params(expert)) for expert in experts)


def _stack(experts: list[Expert]) -> bool:
    first = experts[0]
    return first.base is not None and all(
        expert.base is first.base and expert.module == first.module for expert in experts
    )


def whole_params(expert: Expert) -> params_lib.Params:
    """All parameters of an expert; those of its base are the base's own arrays."""
    if expert.base is None:
        return expert.params
    return params_lib.combine(expert.base.params, expert.params)
