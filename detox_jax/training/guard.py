"""What a training's losses and gradients say about its health, and what follows.

A step whose loss or gradient is not finite changes nothing (`step.train_step`); here such steps are
counted, and a loss that jumps is noticed. Scalars are read some steps after they were computed, so
that the host never waits for the devices; every process reads the same ones at the same step, and
so all come to the same judgement.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Any

import jax

from detox_jax.parallel import processes

# So many skipped steps in a row are no accident of a batch: the parameters themselves are lost.
SKIPPED_IN_A_ROW = 10
# A run that has to go back so often goes nowhere.
ROLLBACKS = 3
# A loss is a spike beyond so many times the median of so many losses before it.
SPIKE_FACTOR = 1.5
SPIKE_WINDOW = 32


@dataclasses.dataclass
class Guard:
    """Judges the steps of a run, one after the other.

    Attributes:
      skipped_steps: whose update was left out, of the whole run.
      loss_spikes: losses far above those before them, of the whole run.
      rollbacks: how often the run went back to a saved step.
      in_a_row: skipped steps up to the last one that was judged.
    """

    skipped_steps: int = 0
    loss_spikes: int = 0
    rollbacks: int = 0
    in_a_row: int = 0
    _losses: collections.deque[float] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=SPIKE_WINDOW)
    )
    _waiting: collections.deque[tuple[int, Mapping[str, jax.Array]]] = dataclasses.field(
        default_factory=collections.deque
    )

    def after(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Takes note of a step, and judges one that is long computed."""
        kept = {name: scalars[name] for name in ("loss", "grad_norm") if name in scalars}
        self._waiting.append((step, kept))
        if len(self._waiting) > SKIPPED_IN_A_ROW:
            self._judge()

    def settle(self) -> None:
        """Judges all steps up to the last one, for which the host waits."""
        while self._waiting:
            self._judge()

    @property
    def is_lost(self) -> bool:
        """Whether so many steps in a row were skipped that going on is vain."""
        return self.in_a_row >= SKIPPED_IN_A_ROW

    def scalars(self) -> dict[str, float]:
        """What the log shows of it: nothing while all is well."""
        counts = {
            "skipped_steps": self.skipped_steps,
            "loss_spikes": self.loss_spikes,
            "rollbacks": self.rollbacks,
        }
        return {name: float(count) for name, count in counts.items() if count}

    def rolled_back(self) -> None:
        """Forgets what was not yet judged, and counts."""
        self._waiting.clear()
        self.in_a_row = 0
        self.rollbacks += 1

    def state(self) -> dict[str, Any]:
        """What a run that goes on must know, as JSON; all steps must be judged."""
        assert not self._waiting
        return {
            "skipped_steps": self.skipped_steps,
            "loss_spikes": self.loss_spikes,
            "rollbacks": self.rollbacks,
            "losses": list(self._losses),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Guard:
        """The inverse of `state`; a new one where nothing is known."""
        if not state:
            return cls()
        guard = cls(state["skipped_steps"], state["loss_spikes"], state["rollbacks"])
        guard._losses.extend(state["losses"])
        return guard

    def _judge(self) -> None:
        step, scalars = self._waiting.popleft()
        values = {name: float(value) for name, value in jax.device_get(dict(scalars)).items()}
        if all(map(math.isfinite, values.values())):
            self.in_a_row = 0
            self._look_for_spike(step, values["loss"])
            self._losses.append(values["loss"])
            return
        self.skipped_steps += 1
        self.in_a_row += 1
        if self.in_a_row == 1:
            what = ", ".join(f"{name} {value}" for name, value in values.items())
            processes.warn(f"step {step} is not finite ({what}): its update is left out")

    def _look_for_spike(self, step: int, loss: float) -> None:
        if len(self._losses) < SPIKE_WINDOW:
            return
        median = statistics.median(self._losses)
        if loss > SPIKE_FACTOR * median > 0:
            self.loss_spikes += 1
            processes.warn(
                f"step {step} has a loss of {loss:.3f}, after a median of {median:.3f} over "
                f"{SPIKE_WINDOW} steps"
            )
