"""AdamW with the schedules that the SGEAT paper and its pretraining use."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from detox_jax.errors import UserError
from detox_jax.kinds import Period

# Biases, norm scales and gates are not decayed, as in GPT-2's and Megatron's training.
_NO_DECAY = r".*(bias|scale|gate)"


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW; the defaults are SGEAT's domain-adaptive training (SPEC: constant 2e-5, no warm-up).

    Attributes:
      learning_rate: the peak.
      schedule: `constant`, or `cosine` from the peak to `min_learning_rate` at the last step. It
        counts updates: a step that is left out, see `step.train_step`, leaves it where it was.
      warmup_steps: linear from 0.
      min_learning_rate: where a cosine ends.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      weight_decay: of matrices and embeddings.
      max_grad_norm: gradients are clipped to this global norm; not at all where None.
      mu_dtype: of the first moment, which bfloat16 holds in half the memory; the parameters' own
        where None. The second moment stays in theirs: its steps are too small for bfloat16.
    """

    learning_rate: float = 2e-5
    schedule: str = "constant"
    warmup_steps: Period = 0
    min_learning_rate: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-5
    weight_decay: float = 0.1
    max_grad_norm: float | None = 1.0
    mu_dtype: str | None = None

    def __post_init__(self):
        if self.schedule not in ("constant", "cosine"):
            raise UserError(f"AdamW.schedule is {self.schedule!r}; one of constant, cosine")
        if self.mu_dtype not in (None, "float32", "bfloat16"):
            raise UserError(
                f"AdamW.mu_dtype is {self.mu_dtype!r}; one of float32, bfloat16, or None"
            )
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in ("learning_rate", "eps"):
            if not getattr(self, name) > 0:
                raise UserError(f"AdamW.{name} is {getattr(self, name)}; must be positive")
        for name in ("min_learning_rate", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise UserError(f"AdamW.{name} is {getattr(self, name)}; must not be negative")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"AdamW.{name} is {getattr(self, name)}; must be at least 0 and below 1"
                )
        # Elsewhere 0 clips nothing; a norm of 0 would leave nothing of a gradient.
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise UserError(
                f"AdamW.max_grad_norm is {self.max_grad_norm}; must be positive, or None, which "
                "clips nothing"
            )

    def learning_rate_at(self, total_steps: int) -> optax.Schedule:
        """The learning rate as a function of the step."""
        if self.schedule == "cosine":
            return optax.schedules.warmup_cosine_decay_schedule(
                init_value=0.0 if self.warmup_steps else self.learning_rate,
                peak_value=self.learning_rate,
                warmup_steps=self.warmup_steps,
                decay_steps=max(total_steps, self.warmup_steps + 1),
                end_value=self.min_learning_rate,
            )
        return optax.schedules.warmup_constant_schedule(
            init_value=0.0 if self.warmup_steps else self.learning_rate,
            peak_value=self.learning_rate,
            warmup_steps=self.warmup_steps,
        )

    def transformation(self, total_steps: int) -> optax.GradientTransformation:
        """The optimizer for a run of `total_steps`."""
        norm = self.max_grad_norm
        return optax.chain(
            optax.identity() if norm is None else _clip_by_global_norm(norm),
            optax.adamw(
                self.learning_rate_at(total_steps),
                b1=self.b1,
                b2=self.b2,
                eps=self.eps,
                weight_decay=self.weight_decay,
                mask=_is_decayed,
                mu_dtype=self.mu_dtype,
            ),
        )


def _clip_by_global_norm(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """`optax.clip_by_global_norm`, by one factor.

    A caller that knows the norm hands it over as `grad_norm`. Optax chooses between a gradient and
    its quotient, and XLA writes both out before anything else reads them.
    """

    def init(params: optax.Params) -> optax.OptState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        grad_norm: jax.Array | None = None,
        **_: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        norm = optax.global_norm(updates) if grad_norm is None else grad_norm
        factor = max_norm / jnp.maximum(norm, max_norm)
        return jax.tree.map(lambda x: (x * factor).astype(x.dtype), updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def updates(opt_state: optax.OptState) -> int:
    """How many updates the schedule of an `AdamW` has counted."""
    states = jax.tree.leaves(opt_state, is_leaf=_is_schedule)
    (schedule,) = filter(_is_schedule, states)
    return int(schedule.count)


def _is_schedule(state: Any) -> bool:
    return isinstance(state, optax.ScaleByScheduleState)


def require_masters(param_dtype: str) -> None:
    """Refuses to train parameters in fewer bits than an update needs.

    Half a step of bfloat16 is 0.2 % of a number, and an update of SGEAT's 2e-5 less than that of
    every weight above 0.01: rounded back, such a weight never moves.

    Args:
      param_dtype: that a MODEL asks for.

    Raises:
      UserError: if it is not float32.
    """
    if param_dtype != "float32":
        raise UserError(
            f"MODEL has param_dtype {param_dtype!r}, in which small updates are lost; what is "
            "trained is float32: leave it out (what is frozen keeps its checkpoint's dtype)"
        )


def _is_decayed(params: optax.Params) -> optax.Params:
    def decide(path: tuple, leaf: jax.Array) -> bool:
        del leaf
        return not re.fullmatch(_NO_DECAY, jax.tree_util.keystr(path, simple=True, separator="/"))

    return jax.tree_util.tree_map_with_path(decide, params)
