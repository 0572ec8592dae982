"""The training loop: steps, metrics, validation and checkpoints, for whatever is trained."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from etils import epath
from jax.sharding import Mesh

from detox_jax import terminal
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import places
from detox_jax.checkpoints import steps as saved
from detox_jax.checkpoints.background import BackgroundSaves
from detox_jax.errors import UserError
from detox_jax.kinds import Count, Period
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel import preemption, processes
from detox_jax.training import base_model, host_memory, metric_log, optimizer
from detox_jax.training import step as steps_lib
from detox_jax.training.ahead import Ahead
from detox_jax.training.course import Course
from detox_jax.training.frontier import Frontier, Rule, Watch
from detox_jax.training.guard import ROLLBACKS, Guard

_POINTS = "frontier"  # in what a saved step knows of its run


@dataclasses.dataclass(frozen=True)
class Periods:
    """Every how many steps something happens, 0 being never, and how long a validation is.

    Attributes:
      checkpoint: steps between checkpoints; the last step is always saved.
      eval: steps between validation losses, where there is something to validate on. It decides
        nothing, and a run that goes on may be given other text: its losses then are of either.
      log: steps between metrics.
      eval_steps: batches of a validation.
    """

    checkpoint: Period = 1000
    eval: Period = 1000
    log: Period = 10
    eval_steps: Count = 20


@dataclasses.dataclass(frozen=True)
class Restored:
    """A saved step.

    Attributes:
      state: in the shardings that were asked for.
      position: in the data.
      guard: of the run up to there.
      points: the `Frontier.state` of the run up to there; empty without a probe.
    """

    state: steps_lib.TrainState
    position: dict[str, Any]
    guard: Guard
    points: list[dict[str, Any]]


def restore(model_dir: epath.Path, step: int, state: steps_lib.TrainState) -> Restored:
    """A saved step, in the shardings of `state`.

    Raises:
      Damaged: if it cannot be read, or is not what was saved.
    """
    record = saved.read_record(model_dir, step)

    def read(item: str, like: Any) -> Any:
        abstract = jax.tree.map(_abstract, like)
        return saved.restore_arrays(model_dir, step, item, abstract, record)

    position = saved.restore_data(model_dir, step, record)
    restored = steps_lib.TrainState(
        step=jax.device_put(jnp.asarray(step, state.step.dtype), state.step.sharding),
        params=read("params", state.params),
        opt_state=read("opt_state", state.opt_state),
    )
    run = {} if record is None else dict(record["run"])
    points = run.pop(_POINTS, [])
    return Restored(restored, position, Guard.from_state(run), points)


def resume(model_dir: epath.Path, like: steps_lib.TrainState, *, strict: bool) -> Restored:
    """The newest step that is whole; damaged later ones are set aside, and it says so.

    Args:
      model_dir: holds at least one step.
      like: arrays or their shapes, with shardings.
      strict: refuse a damaged newest step instead.

    Raises:
      UserError: if no step is whole, or `strict` refuses the one before.
    """
    step, restored = saved.newest_whole(
        model_dir, lambda at: restore(model_dir, at, like), strict=strict
    )
    saved.set_aside_after(model_dir, step)
    return restored


def emptied(state: steps_lib.TrainState) -> steps_lib.TrainState:
    """Shapes and shardings of a state, whose memory is given back."""
    abstract = jax.tree.map(_abstract, state)
    jax.tree.map(lambda x: x.delete(), state)
    return abstract


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
      learning_rate: as a function of the updates before it, for the log.
      figures_fn: from `step.jit_figures`: what else is logged of a batch that is trained on, before
        the step, and of those that are held out; nothing where None.
      validation: makes the validation batches, or None where there are none.
      starts_from: the macro by which another run starts from a saved step; None without one.
      guard: judges the steps; knows of those before, where the run goes on.
      watch: measures toxicity and perplexity, and ends the training; None for neither.
      frontier: what it measured; knows of the steps before, where the run goes on.
    """

    model_dir: epath.Path
    total_steps: int
    periods: Periods
    mesh: Mesh
    step_fn: Callable[..., Any]
    eval_fns: Mapping[str, Callable[..., Any]]
    learning_rate: optax.Schedule
    validation: Callable[[], Any] | None
    starts_from: str | None = None
    figures_fn: Callable[..., Any] | None = None
    guard: Guard = dataclasses.field(default_factory=Guard)
    watch: Watch | None = None
    frontier: Frontier = dataclasses.field(default_factory=lambda: Frontier(Rule(None)))

    def run(
        self, state: steps_lib.TrainState, frozen: params_lib.Params, batches: Any
    ) -> steps_lib.TrainState:
        """Trains from `state` to the end and returns the last state, or the one that is taken.

        Args:
          state: where to start.
          frozen: the other parameters.
          batches: behind the last one that `state` has seen.

        Raises:
          UserError: if training diverges.
          Stopped: where it was asked to stop, once a step is saved.
        """
        start = int(state.step)
        guard = self.guard
        with (
            metric_log.MetricLog(self.model_dir, start) as log,
            meshes.sharding_scope(self.mesh),
            preemption.put_off(),
            host_memory.kept() if self._on_cpu else contextlib.nullcontext(),
            BackgroundSaves(self.model_dir) as saves,
            terminal.bar("train", self.total_steps, start, unit="steps") as advance,
        ):
            course, step, told = Course(start), start, start
            ahead = Ahead(batches, self._to_mesh)
            if self.watch and not self.frontier.points:
                log.forget_after(step - 1)  # Of a run that was killed before its first save.
                if self._probe(log, step, state, frozen):
                    self._save(saves, log, step, state, ahead.state())
            while step < self.total_steps and not self._ends:
                saves.check()
                step += 1
                batch = ahead.take()
                is_logged = self._is_due(self.periods.log, step)
                # Read before the step begins: it takes the memory, and on CPUs the threads.
                figures = self._logged_figures(state, frozen, batch) if is_logged else {}
                state, scalars = self.step_fn(state, frozen, batch)
                if step < self.total_steps:
                    ahead.read()
                guard.after(step, scalars)
                course.after_step(step, batch, scalars)
                if is_logged:
                    self._log(log, step, state, {**scalars, **figures})
                    course.logged(step, scalars)
                if self.validation and self._is_due(self.periods.eval, step):
                    validated = self._validate(state, frozen)
                    log.write(step, validated)
                    course.logged(step, validated)
                is_chosen = (
                    self._probe(log, step, state, frozen) if self._is_probed(step) else False
                )
                stops = preemption.reached()
                if stops or is_chosen or self._is_due(self.periods.checkpoint, step):
                    self._save(saves, log, step, state, ahead.state())
                advance(course.done - told, course.note())
                told = course.done
                if stops:
                    saves.wait()
                    raise preemption.Stopped(self._where())
                is_left_out = guard.in_a_row > 0 and step == self.total_steps
                if guard.is_lost or is_left_out:
                    if guard.is_lost:
                        state = self._roll_back(step, state, saves, log)
                    else:
                        state = self._take_again(step, state, log)
                    step = int(state.step)
                    course.went_back(step)
                    advance(step - told)
                    told = step
        if step > start:
            print(f"{self.model_dir}: {course.closing()}")
        return self._taken(state) if self._chooses else state

    @property
    def _on_cpu(self) -> bool:
        return self.mesh.devices.flat[0].platform == "cpu"

    # --- the frontier of toxicity and perplexity --------------------------------------------------

    @property
    def _chooses(self) -> bool:
        """Whether another step than the last one may be what is left."""
        return self.watch is not None and self.frontier.rule.budget is not None

    @property
    def _ends(self) -> bool:
        """Whether the budget is broken for good."""
        return self._chooses and self.frontier.is_broken

    def _is_probed(self, step: int) -> bool:
        return self.watch is not None and self._is_due(self.watch.period, step)

    def _probe(
        self,
        log: metric_log.MetricLog,
        step: int,
        state: steps_lib.TrainState,
        frozen: params_lib.Params,
    ) -> bool:
        """Measures the model, logs and says it; whether it is the one to take from now on."""
        assert self.watch is not None
        self.guard.settle()
        if self.guard.in_a_row:  # Its last updates were left out, and the run may go back.
            return False
        jax.block_until_ready(state)
        params = params_lib.combine(state.params, base_model.without_base(frozen))
        measure = self.watch.figures
        if not self.frontier.points:
            measure = self.watch.of_step_0 or measure
        figures = processes.current().first_decides(functools.partial(dict, measure(params)))
        is_chosen = self.frontier.add(step, figures)
        log.write(step, figures)
        print(f"{self.model_dir}: step {step}: {self.frontier.said(self.frontier.points[-1])}")
        if self._ends and step < self.total_steps:
            patience = self.frontier.rule.patience
            processes.warn(
                f"{self.model_dir}: step {step}: {patience} probes in a row are beyond the budget "
                f"of perplexity: TRAINING ENDS, {self.total_steps - step} steps early"
            )
        return is_chosen

    def _taken(self, state: steps_lib.TrainState) -> steps_lib.TrainState:
        """The state of the step that is taken; all other steps go, so that it is the last one."""
        chosen = self.frontier.chosen
        assert chosen is not None
        if chosen != int(state.step):
            like = emptied(state)
            _, restored = saved.newest_whole(
                self.model_dir,
                lambda at: restore(self.model_dir, at, like),
                only=chosen,
                remedy="put it back from a copy, or train into another directory",
            )
            state = restored.state
        saved.remove(self.model_dir, [step for step in self._saved() if step != chosen])
        say = print if chosen else processes.warn
        say(f"{self.model_dir}: {self.frontier.outcome()}")
        return state

    def _is_due(self, period: int, step: int) -> bool:
        return step == self.total_steps or (period > 0 and step % period == 0)

    def _log(
        self,
        log: metric_log.MetricLog,
        step: int,
        state: steps_lib.TrainState,
        scalars: Mapping[str, Any],
    ) -> None:
        values = {name: float(value) for name, value in scalars.items()}
        self.guard.settle()  # All values of the step are there.
        # That of this step's update: steps that were left out are none. Where it is one of them,
        # the optimizer stands where it stood.
        updates = optimizer.updates(state.opt_state)
        learning_rate: Any = self.learning_rate(updates - (self.guard.in_a_row == 0))
        log.write(step, {**values, "learning_rate": float(learning_rate), **self.guard.scalars()})

    def _save(
        self,
        saves: BackgroundSaves,
        log: metric_log.MetricLog,
        step: int,
        state: steps_lib.TrainState,
        position: dict[str, Any],
    ) -> None:
        """Begins to save a step that is worth going on from, when the one before is saved."""
        saves.wait()
        self.guard.settle()
        # Of skipped steps nobody knows yet whether the batch or the model is bad.
        if self.guard.in_a_row:
            return
        self._check_finite(step, state)
        log.flush()
        run = self.guard.state()
        if self.watch is not None:
            run[_POINTS] = self.frontier.state()
        chosen = self.frontier.chosen if self._chooses else None
        keep = () if chosen is None else (chosen,)
        _save(saves, step, state, position, run, keep)

    def _check_finite(self, step: int, state: steps_lib.TrainState) -> None:
        """What is saved must be worth going on from: a later step replaces the last good one."""
        trees = {"parameter": state.params, "optimizer state": state.opt_state}
        for what, tree in trees.items():
            if path := params_lib.first_not_finite(tree):
                raise self._diverged(f"{what} {path} is not finite at step {step}")

    def _take_again(
        self, step: int, state: steps_lib.TrainState, log: metric_log.MetricLog
    ) -> steps_lib.TrainState:
        """Before a last step that was left out: the next batch says whether it was batch or model.

        A good one ends the run; a model that is lost leaves out all that come (`Guard.is_lost`).
        """
        log.forget_after(step - 1)
        processes.warn(f"{self.model_dir}: step {step} is taken again, with the batch that is next")
        before = jax.device_put(jnp.asarray(step - 1, state.step.dtype), state.step.sharding)
        return steps_lib.TrainState(before, state.params, state.opt_state)

    def _roll_back(
        self,
        step: int,
        state: steps_lib.TrainState,
        saves: BackgroundSaves,
        log: metric_log.MetricLog,
    ) -> steps_lib.TrainState:
        """The last saved step, to go on from with the batches that come next, not with the same."""
        saves.wait()
        guard = self.guard
        what = f"{guard.in_a_row} steps up to {step} are not finite"
        if guard.rollbacks + 1 >= ROLLBACKS:
            raise self._diverged(f"{what}, after {guard.rollbacks} returns to a saved step")
        if not self._saved():
            raise self._diverged(what)
        found = resume(self.model_dir, emptied(state), strict=False)
        restored = found.state
        at = int(restored.step)
        self.frontier.restore(found.points)
        guard.rolled_back()
        log.forget_after(at)
        processes.warn(
            f"{self.model_dir}: {what}: BACK TO STEP {at}, on to other batches; "
            f"time {guard.rollbacks}, and the last time is {ROLLBACKS - 1}"
        )
        return restored

    def _saved(self) -> list[int]:
        return processes.current().first_decides(lambda: saved.saved_steps(self.model_dir))

    def _where(self) -> str:
        steps = self._saved()
        return f"{self.model_dir}: step {steps[-1]} is saved" if steps else "no step is saved yet"

    def _diverged(self, what: str) -> UserError:
        steps = self._saved()
        known = f"the last good step is {steps[-1]}" if steps else "no step is saved"
        if not steps:
            advice = f"{known}; run it again with a lower LEARNING_RATE"
        elif self.starts_from is None:
            advice = (
                f"{known}; lower LEARNING_RATE, and run it again into another directory or with "
                "this one removed"
            )
        else:
            step = self.model_dir / places.CHECKPOINTS_DIR / str(steps[-1])
            advice = (
                f"{known}; go on from it into another directory with a lower LEARNING_RATE: "
                f"--gin.{self.starts_from}={step} --gin.MODEL_DIR=..."
            )
        return UserError(f"{self.model_dir}: {what}: training has diverged; {advice}")

    def _validate(self, state: steps_lib.TrainState, frozen: params_lib.Params) -> dict[str, float]:
        assert self.validation is not None
        means = _Means()
        for batch in self.validation():
            on_mesh = self._to_mesh(batch)
            for name, eval_fn in self.eval_fns.items():
                means.add(name, *eval_fn(state.params, frozen, on_mesh))
            for name, figure in self._figures(state, frozen, on_mesh).items():
                means.add(f"validation_{name}", *figure)
        return means.values()

    def _figures(
        self, state: steps_lib.TrainState, frozen: params_lib.Params, batch: Mapping[str, Any]
    ) -> Mapping[str, tuple[jax.Array, jax.Array]]:
        """What else there is to say of a batch: sums and weights, by name."""
        return self.figures_fn(state.params, frozen, batch) if self.figures_fn else {}

    def _logged_figures(
        self, state: steps_lib.TrainState, frozen: params_lib.Params, batch: Mapping[str, Any]
    ) -> dict[str, float]:
        """Means of `_figures`."""
        means = _Means()
        for name, figure in self._figures(state, frozen, batch).items():
            means.add(name, *figure)
        return means.values()

    def _to_mesh(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Each host's rows as one array over the mesh."""
        return meshes.rows_to_mesh(self.mesh, batch)


class _Means:
    """Means of sums and weights that are added up, by name."""

    def __init__(self):
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, name: str, total: Any, weight: Any) -> None:
        before = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = before[0] + float(total), before[1] + float(weight)

    def values(self) -> dict[str, float]:
        return {name: total / max(weight, 1.0) for name, (total, weight) in self._sums.items()}


def _save(
    saves: BackgroundSaves,
    step: int,
    state: steps_lib.TrainState,
    data: dict[str, Any],
    run: dict[str, Any],
    keep: Sequence[int],
) -> None:
    arrays = {"params": state.params, "opt_state": state.opt_state}
    saves.save(step, saved.content_of(arrays, data, run), keep)
