"""The training loop: steps, metrics, validation and checkpoints, for whatever is trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from detox_jax import terminal
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.parallel import mesh as meshes
from detox_jax.training import metric_log
from detox_jax.training import step as steps_lib


@dataclasses.dataclass(frozen=True)
class Periods:
    """Every how many steps something happens, 0 being never, and how long a validation is.

    Attributes:
      checkpoint: steps between checkpoints; the last step is always saved.
      eval: steps between validation losses, where there is something to validate on.
      log: steps between metrics.
      eval_steps: batches of a validation.
    """

    checkpoint: int = 1000
    eval: int = 1000
    log: int = 10
    eval_steps: int = 20


def restore(
    model_dir: epath.Path, step: int, state: steps_lib.TrainState
) -> tuple[steps_lib.TrainState, dict[str, Any]]:
    """The state of a saved step, in the shardings of `state`, and the position in the data."""

    def read(item: str, like: Any) -> Any:
        return checkpoints.restore_arrays(model_dir, step, item, jax.tree.map(_abstract, like))

    data_state = checkpoints.restore_item(model_dir, step, "data", ocp.args.JsonRestore())
    restored = steps_lib.TrainState(
        step=jax.device_put(state.step + step, state.step.sharding),
        params=read("params", state.params),
        opt_state=read("opt_state", state.opt_state),
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
      eval_fns: from `step.jit_eval_step`, by the name that the log knows their mean by.
      learning_rate: as a function of the step, for the log.
      validation: makes the validation batches, or None where there are none.
    """

    model_dir: epath.Path
    total_steps: int
    periods: Periods
    mesh: Mesh
    step_fn: Callable[..., Any]
    eval_fns: Mapping[str, Callable[..., Any]]
    learning_rate: optax.Schedule
    validation: Callable[[], Any] | None

    def run(
        self, state: steps_lib.TrainState, frozen: params_lib.Params, batches: Any
    ) -> steps_lib.TrainState:
        """Trains from `state` to the end and returns the last state."""
        start = int(state.step)
        log = metric_log.MetricLog(self.model_dir, start)
        manager = checkpoints.manager(self.model_dir, max_to_keep=2)
        with (
            meshes.sharding_scope(self.mesh),
            manager,
            terminal.bar("train", self.total_steps, start) as advance,
        ):
            description = "train"
            for step in range(start + 1, self.total_steps + 1):
                state, scalars = self.step_fn(state, frozen, self._to_mesh(next(batches)))
                if self._is_due(self.periods.log, step):
                    self._log(log, step, scalars)
                    description = f"train, loss {scalars['loss']:.3f}"
                if self.validation and self._is_due(self.periods.eval, step):
                    log.write(step, self._validate(state, frozen))
                if self._is_due(self.periods.checkpoint, step):
                    self._check_finite(step, state)
                    log.flush()
                    _save(manager, step, state, batches.state())
                advance(1, description)
        return state

    def _is_due(self, period: int, step: int) -> bool:
        return step == self.total_steps or (period > 0 and step % period == 0)

    def _log(self, log: metric_log.MetricLog, step: int, scalars: dict[str, jax.Array]) -> None:
        values = {name: float(value) for name, value in scalars.items()}
        if not math.isfinite(values["loss"]):
            raise self._diverged(f"the loss is {values['loss']} at step {step}")
        learning_rate: Any = self.learning_rate(step - 1)
        log.write(step, {**values, "learning_rate": float(learning_rate)})

    def _check_finite(self, step: int, state: steps_lib.TrainState) -> None:
        """What is saved must be worth going on from: a later step replaces the last good one."""
        trees = {"parameter": state.params, "optimizer state": state.opt_state}
        for what, tree in trees.items():
            if path := params_lib.first_not_finite(tree):
                raise self._diverged(f"{what} {path} is not finite at step {step}")

    def _diverged(self, what: str) -> UserError:
        steps = checkpoints.saved_steps(self.model_dir)
        saved = f"the last good step is {steps[-1]}" if steps else "no step is saved"
        return UserError(
            f"{self.model_dir}: {what}: training has diverged; {saved}; train into another "
            "directory with a lower learning rate"
        )

    def _validate(self, state: steps_lib.TrainState, frozen: params_lib.Params) -> dict[str, float]:
        assert self.validation is not None
        totals, weights = dict.fromkeys(self.eval_fns, 0.0), dict.fromkeys(self.eval_fns, 0.0)
        for batch in self.validation():
            on_mesh = self._to_mesh(batch)
            for name, eval_fn in self.eval_fns.items():
                total, weight = eval_fn(state.params, frozen, on_mesh)
                totals[name] += float(total)
                weights[name] += float(weight)
        return {name: totals[name] / max(weights[name], 1.0) for name in self.eval_fns}

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
