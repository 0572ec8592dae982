"""One training for every objective: the state, where it goes on from, and the loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath

from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import steps as saved
from detox_jax.errors import UserError
from detox_jax.kinds import Count, Positive
from detox_jax.parallel import processes
from detox_jax.parallel.computation import Computation
from detox_jax.training import loop as loops
from detox_jax.training import step as steps_lib
from detox_jax.training.frontier import Frontier, Rule, Watch
from detox_jax.training.guard import Guard
from detox_jax.training.objective import Batches, Objective
from detox_jax.training.optimizer import AdamW


@dataclasses.dataclass(frozen=True)
class Budget:
    """For how long to train: one of the two.

    Attributes:
      train_steps: updates.
      epochs: passes over the training data.

    Raises:
      UserError: if both are given, or none.
    """

    train_steps: Count | None = None
    epochs: Positive | None = None

    def __post_init__(self):
        if (self.train_steps is None) == (self.epochs is None):
            raise UserError("set one of TRAIN_STEPS and EPOCHS, and leave the other None")

    def steps(self, batches_per_epoch: Callable[[], float]) -> int:
        """How many updates that is.

        Args:
          batches_per_epoch: counts them, which may read all of the data; asked of epochs alone.

        Raises:
          UserError: if it is no update at all.
        """
        steps = self.train_steps
        if steps is None:
            assert self.epochs is not None
            batches = batches_per_epoch()
            steps = round(self.epochs * batches)
            if steps < 1 and self.epochs and batches:
                raise UserError(
                    f"nothing to train: the data fills {batches:.2g} batches, and EPOCHS is "
                    f"{self.epochs:g}; lower BATCH_SIZE, or set EPOCHS higher"
                )
        if steps < 1:
            raise UserError(f"nothing to train: {steps} steps; set TRAIN_STEPS or EPOCHS higher")
        return steps


def fit(
    network: Any,
    params: params_lib.Params | None,
    frozen: params_lib.Params,
    objective: Objective,
    batches: Batches,
    validation: Callable[[], Iterable[steps_lib.Batch]] | None,
    *,
    steps: int,
    optimizer: AdamW,
    computation: Computation,
    periods: loops.Periods,
    seed: int,
    directory: epath.Path,
    strict: bool = False,
    starts_from: str | None = None,
    watch: Watch | None = None,
    frontier: Frontier | None = None,
) -> steps_lib.TrainState:
    """Trains up to `steps`, or goes on where an earlier run in `directory` stopped.

    Args:
      network: a module whose config has a `dropout_rate`.
      params: where the trainable parameters start, on the mesh of `computation`; they are used up.
        Random ones of a language model, or of its adaptation, where None.
      frozen: the other parameters; empty where all are trained.
      objective: what is minimised.
      batches: of the objective.
      validation: makes the held-out batches anew for each validation; None for no validation.
      steps: of the whole run, those of earlier runs included.
      optimizer: its settings.
      computation: mesh, and parts of a batch; what a config holds is the network's already.
      periods: how often to log, validate and save.
      seed: of random parameters and of dropout.
      directory: where checkpoints and metrics go; exists.
      strict: refuse a damaged newest step, in place of going on from the one before.
      starts_from: the macro by which another run starts from a step of this one.
      watch: measures toxicity and perplexity while training goes on, and may end it.
      frontier: takes note of what it measures, earlier runs in `directory` included.

    Returns:
      The last state; with a budget of perplexity the one that is taken.

    Raises:
      UserError: if training diverges, a saved position belongs to other data, or no saved step is
        whole.
      Stopped: where a signal asked for it, once a step is saved.
    """
    mesh = computation.create_mesh()
    transformation = optimizer.transformation(steps)

    # Restart order:
    # 1. the last whole step in `directory`: parameters, optimizer, step, position in the data;
    # 2. else `params`, which a checkpoint held: parameters alone;
    # 3. else random parameters. An adaptation's own parameters are always random at first.
    if params is None:
        state = steps_lib.init_trainable(network, mesh, transformation, seed)
    else:
        state = steps_lib.create_state(params, mesh, transformation)
    saved.remove_unfinished(directory)
    guard = Guard()
    frontier = frontier or Frontier(Rule(None) if watch is None else watch.rule)
    if processes.current().first_decides(lambda: saved.saved_steps(directory)):
        # The caller's frame still refers to `params`: without this the loop would hold them twice.
        restored = loops.resume(directory, loops.emptied(state), strict=strict)
        state, guard = restored.state, restored.guard
        frontier.restore(restored.points)
        batches.restore(restored.position)

    losses = {"loss": objective.loss, **objective.measures()}
    loop = loops.Loop(
        model_dir=directory,
        total_steps=steps,
        periods=periods,
        mesh=mesh,
        step_fn=steps_lib.jit_train_step(
            network,
            transformation,
            seed,
            objective.loss,
            accumulation_steps=computation.accumulation_steps,
        ),
        eval_fns={
            f"validation_{name}": steps_lib.jit_eval_step(network, loss)
            for name, loss in losses.items()
        },
        learning_rate=optimizer.learning_rate_at(steps),
        validation=validation,
        starts_from=starts_from,
        figures_fn=steps_lib.jit_figures(network, objective.figures),
        guard=guard,
        watch=watch,
        frontier=frontier,
    )
    return loop.run(state, frozen, batches)
