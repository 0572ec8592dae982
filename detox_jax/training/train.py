"""Verb `train`: from scratch or from a checkpoint, the whole model or an adaptation."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from detox_jax import progress, records
from detox_jax.errors import UserError
from detox_jax.models import adaptation as adaptations
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.training import checkpoints, metrics
from detox_jax.training import params as params_lib
from detox_jax.training import step as steps_lib
from detox_jax.training.optimizer import AdamW
from detox_jax.vocabulary import BPEVocabulary


@dataclasses.dataclass(frozen=True)
class Periods:
    """Every how many steps something happens; 0 is never."""

    checkpoint: int
    eval: int
    log: int


@dataclasses.dataclass(frozen=True)
class Base:
    """What training starts from."""

    path: str
    params: params_lib.Params
    spec: checkpoints.ModelSpec
    fingerprint: str


def train(
    model: TransformerConfig | None,
    model_dir: str,
    mixture_or_task_name: Any,
    task_feature_lengths: Mapping[str, int],
    train_steps: int | None = None,
    epochs: float | None = None,
    initial_checkpoint_path: str | None = None,
    adaptation: adaptations.Adaptation | None = None,
    optimizer: AdamW | None = None,
    batch_size: int = 512,
    random_seed: int = 0,
    mesh_shape: Mapping[str, int] | None = None,
    checkpoint_period: int = 1000,
    eval_period: int = 1000,
    eval_steps: int = 20,
    log_period: int = 10,
) -> None:
    """Trains a model and leaves it in `model_dir`.

    Args:
      model: sizes; None takes those of the initial checkpoint.
      model_dir: where checkpoints and metrics go; a rerun resumes from the last checkpoint.
      mixture_or_task_name: a seqio task or mixture, or its name.
      task_feature_lengths: `{"targets": length}`, the packed length in tokens.
      train_steps: updates; or give `epochs`.
      epochs: passes over the packed data, instead of `train_steps`.
      initial_checkpoint_path: what to start from; random weights where None.
      adaptation: what to add and train; None trains the whole model.
      optimizer: its settings; SGEAT's where None.
      batch_size: packed rows an update, over all hosts.
      random_seed: of initialisation, data order and dropout.
      mesh_shape: size of the mesh axes `data`, `fsdp`, `model`; all devices on `data` where None.
      checkpoint_period: steps between checkpoints; the last step is always saved.
      eval_period: steps between validation losses, for tasks with a validation split.
      eval_steps: batches of a validation loss.
      log_period: steps between metrics.

    Raises:
      UserError: for settings that do not fit each other, the data or the checkpoint.
    """
    from detox_jax.training import data  # tensorflow: not for `import detox_jax.training.train`

    optimizer = optimizer or AdamW()
    mesh = meshes.create_mesh(mesh_shape)
    task = data.get_task(mixture_or_task_name)
    vocabulary = data.vocabulary_of(task)
    base = _load_initial(initial_checkpoint_path, mesh, adaptation, vocabulary.fingerprint)
    config = _resolve_config(model, base, vocabulary)
    length = _check_lengths(task_feature_lengths, batch_size, config, mesh)
    batches = data.train_batches(task, batch_size=batch_size, length=length, seed=random_seed)
    settings = {
        "config": dataclasses.asdict(config),
        "adaptation": adaptations.to_json(adaptation),
        "optimizer": dataclasses.asdict(optimizer),
        "initial_checkpoint": None if base is None else base.fingerprint,
        "data": batches.identity,
        "train_steps": train_steps,
        "epochs": epochs,
        "random_seed": random_seed,
    }
    output = records.OutputDirectory(model_dir, "train", settings)
    if output.complete:
        return
    steps = _total_steps(
        train_steps,
        epochs,
        lambda: data.batches_per_epoch(task, batch_size=batch_size, length=length),
    )
    spec = _model_spec(config, adaptation, base, vocabulary, output.path)
    checkpoints.write_spec(output.path, spec, vocabulary)
    if base is not None and adaptation is None:
        checkpoints.keep_origin(base.path, output.path)

    network = TransformerLM(config, adaptation)
    transformation = optimizer.transformation(steps)
    # Restart order:
    # 1. the last checkpoint of model_dir: parameters, optimizer, step, position in the data;
    # 2. else the initial checkpoint: parameters alone;
    # 3. else random parameters. An adaptation's own parameters are always random at first.
    if base is not None and adaptation is None:
        # A checkpoint may be stored in fewer bits than training needs: MODEL says which.
        params = params_lib.cast(base.params, config.parameter_dtype)
        base = None  # Its memory is needed, or has become the state's.
        state, frozen = steps_lib.create_state(params, mesh, transformation), {}
    else:
        state = steps_lib.init_trainable(network, mesh, transformation, random_seed)
        frozen = {} if base is None else base.params
    if saved := checkpoints.saved_steps(output.path):
        state, data_state = _restore(output.path, saved[-1], state)
        batches.restore(data_state)

    validation = None
    if eval_period and data.has_split(task, "validation"):
        validation = functools.partial(
            data.validation_batches,
            task,
            batch_size=batch_size,
            length=length,
            max_batches=eval_steps,
        )
    loop = Loop(
        model_dir=output.path,
        total_steps=steps,
        periods=Periods(checkpoint_period, eval_period, log_period),
        mesh=mesh,
        step_fn=steps_lib.jit_train_step(network, transformation, random_seed),
        eval_fn=steps_lib.jit_eval_step(network),
        learning_rate=optimizer.learning_rate_at(steps),
        validation=validation,
    )
    state = loop.run(state, frozen, batches)
    trained, untouched = params_lib.count(state.params), params_lib.count(frozen)
    output.finish(steps=steps, parameters={"trained": trained, "frozen": untouched})
    print(f"{model_dir}: {steps} steps, {trained:,} parameters trained, {untouched:,} frozen")


def _load_initial(
    path: str | None, mesh: Mesh, adaptation: adaptations.Adaptation | None, vocabulary: str
) -> Base | None:
    if path is None:
        if adaptation is not None:
            raise UserError(
                "ADAPTATION needs a model to adapt: set INITIAL_CHECKPOINT_PATH, or "
                "ADAPTATION=None to train from scratch"
            )
        return None
    params, spec, fingerprint = checkpoints.load_params(path, mesh)
    if spec.vocabulary != vocabulary:
        raise UserError(
            f"{path}: trained with vocabulary {spec.vocabulary}, the task uses {vocabulary}; give "
            f"the task the checkpoint's own, {path}/{checkpoints.VOCABULARY_DIR}"
        )
    if spec.adaptation is not None:
        raise UserError(f"{path}: is itself an adaptation; start from its base, {spec.base}")
    return Base(path, params, spec, fingerprint)


def _resolve_config(
    model: TransformerConfig | None, base: Base | None, vocabulary: BPEVocabulary
) -> TransformerConfig:
    """MODEL, checked against the checkpoint and the vocabulary, or the checkpoint's own."""
    if model is None and base is None:
        raise UserError(
            "MODEL is None, which takes a checkpoint's; set MODEL to train from scratch"
        )
    if model is not None and base is not None:
        checkpoints.check_architecture(model, base.spec.config, base.path)
    config = model if base is None or model is not None else base.spec.config
    assert config is not None
    # A checkpoint of another library may have rows that stand for no token, for round numbers.
    rows_to_spare = base is not None and config.vocab_size > vocabulary.vocab_size
    if config.vocab_size != vocabulary.vocab_size and not rows_to_spare:
        raise UserError(
            f"MODEL has vocab_size {config.vocab_size}, but the vocabulary {vocabulary.source} has "
            f"{vocabulary.vocab_size} ids; set VOCAB_SIZE={vocabulary.vocab_size}"
        )
    return config


def _check_lengths(
    task_feature_lengths: Mapping[str, int], batch_size: int, config: TransformerConfig, mesh: Mesh
) -> int:
    length = task_feature_lengths.get("targets")
    if set(task_feature_lengths) != {"targets"} or not isinstance(length, int) or length < 2:
        raise UserError(
            f"TASK_FEATURE_LENGTHS is {dict(task_feature_lengths)}; expected {{'targets': length}}"
        )
    if length > config.max_length:
        raise UserError(
            f"TASK_FEATURE_LENGTHS: targets of {length} are beyond the model's max_length "
            f"{config.max_length}"
        )
    shards = meshes.num_batch_shards(mesh)
    if batch_size < 1 or batch_size % shards:
        raise UserError(
            f"BATCH_SIZE {batch_size} is no multiple of the mesh's {shards} batch shards"
        )
    return length


def _total_steps(
    train_steps: int | None, epochs: float | None, batches_per_epoch: Callable[[], float]
) -> int:
    if (train_steps is None) == (epochs is None):
        raise UserError("set one of TRAIN_STEPS and EPOCHS, and leave the other None")
    if train_steps is None:
        assert epochs is not None
        train_steps = round(epochs * batches_per_epoch())
    if train_steps < 1:
        raise UserError(f"nothing to train: {train_steps} steps; set TRAIN_STEPS or EPOCHS higher")
    return train_steps


def _model_spec(
    config: TransformerConfig,
    adaptation: adaptations.Adaptation | None,
    base: Base | None,
    vocabulary: BPEVocabulary,
    model_dir: epath.Path,
) -> checkpoints.ModelSpec:
    reference = None
    if base is not None and adaptation is not None:
        path = checkpoints.base_reference(base.path, model_dir)
        reference = {"path": path, "fingerprint": base.fingerprint}
    return checkpoints.ModelSpec(config, adaptation, reference, vocabulary.fingerprint)


def _restore(
    model_dir: epath.Path, step: int, state: steps_lib.TrainState
) -> tuple[steps_lib.TrainState, dict[str, Any]]:
    """The state of a saved step, in the shardings of `state`, and the position in the data."""

    def restore(item: str, like: Any) -> Any:
        return checkpoints.restore_arrays(model_dir, step, item, jax.tree.map(_abstract, like))

    data_state = checkpoints.restore_item(model_dir, step, "data", ocp.args.JsonRestore())
    restored = steps_lib.TrainState(
        step=jax.device_put(state.step + step, state.step.sharding),
        params=restore("params", state.params),
        opt_state=restore("opt_state", state.opt_state),
    )
    return restored, data_state


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


@dataclasses.dataclass(frozen=True)
class Loop:
    """Steps until `total_steps`, with metrics, validation and checkpoints on the way.

    Attributes:
      model_dir: where checkpoints and metrics go.
      total_steps: at which step to stop.
      periods: how often to log, validate and save.
      mesh: on which the batches are laid out.
      step_fn: from `step.jit_train_step`.
      eval_fn: from `step.jit_eval_step`.
      learning_rate: as a function of the step, for the log.
      validation: makes the validation batches, or None where there are none.
    """

    model_dir: epath.Path
    total_steps: int
    periods: Periods
    mesh: Mesh
    step_fn: Callable[..., Any]
    eval_fn: Callable[..., Any]
    learning_rate: optax.Schedule
    validation: Callable[[], Any] | None

    def run(
        self, state: steps_lib.TrainState, frozen: params_lib.Params, batches: Any
    ) -> steps_lib.TrainState:
        """Trains from `state` to the end and returns the last state."""
        start = int(state.step)
        log = metrics.MetricLog(self.model_dir, start)
        manager = checkpoints.manager(self.model_dir, max_to_keep=2)
        with (
            meshes.sharding_scope(self.mesh),
            manager,
            progress.bar("train", self.total_steps, start) as advance,
        ):
            description = "train"
            for step in range(start + 1, self.total_steps + 1):
                state, scalars = self.step_fn(state, frozen, self._to_mesh(next(batches)))
                if self._is_due(self.periods.log, step):
                    self._log(log, step, scalars)
                    description = f"train, loss {scalars['loss']:.3f}"
                if self.validation and self._is_due(self.periods.eval, step):
                    loss = self._validation_loss(state, frozen)
                    log.write(step, {"validation_loss": loss})
                if self._is_due(self.periods.checkpoint, step):
                    log.flush()
                    _save(manager, step, state, batches.state())
                advance(1, description)
        return state

    def _is_due(self, period: int, step: int) -> bool:
        return step == self.total_steps or (period > 0 and step % period == 0)

    def _log(self, log: metrics.MetricLog, step: int, scalars: dict[str, jax.Array]) -> None:
        values = {name: float(value) for name, value in scalars.items()}
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"{self.model_dir}: the loss is {values['loss']} at step {step}; lower the "
                "learning rate and rerun from the last checkpoint"
            )
        learning_rate: Any = self.learning_rate(step - 1)
        log.write(step, {**values, "learning_rate": float(learning_rate)})

    def _validation_loss(self, state: steps_lib.TrainState, frozen: params_lib.Params) -> float:
        assert self.validation is not None
        total = tokens = 0.0
        for batch in self.validation():
            batch_total, batch_tokens = self.eval_fn(state.params, frozen, self._to_mesh(batch))
            total, tokens = total + float(batch_total), tokens + float(batch_tokens)
        return total / max(tokens, 1.0)

    def _to_mesh(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Each host's rows as one array over the mesh."""
        sharding = meshes.batch_sharding(self.mesh)
        return {
            name: jax.make_array_from_process_local_data(sharding, rows)
            for name, rows in batch.items()
        }


def _save(
    manager: ocp.CheckpointManager, step: int, state: steps_lib.TrainState, data: dict[str, Any]
) -> None:
    items = ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        opt_state=ocp.args.StandardSave(state.opt_state),
        data=ocp.args.JsonSave(data),
    )
    manager.save(step, args=items)
