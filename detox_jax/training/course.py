"""What is said of a training: loss and speed while it runs, and its course in a line at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax

from detox_jax import preview, terminal
from detox_jax.compilations import COMPILATIONS
from detox_jax.training.guard import SKIPPED_IN_A_ROW

_TARGETS = "decoder_target_tokens"
_SLOW_S = 0.5  # Waiting for a step takes nothing beside so much.


class Course:
    """What a run of a training has seen; nothing of it is written to a file.

    Devices compute behind the host, which hands them step after step. So that what is said to be
    done is done, the host waits where steps are slow: for the one before the last, so that the
    devices are never idle.

    Args:
      start: the step it goes on from.

    Attributes:
      done: the last step that is known to be computed.
    """

    def __init__(self, start: int):
        self.done = start
        self._compiled_before = COMPILATIONS.seconds
        self._began = time.monotonic()
        # Of the steps after the first, which is compiled, and up to the last one that is done.
        self._first_ended = self._last_ended = self._began
        self._previous: Any = None
        self._is_slow = True
        # Steps and losses, by name: of the first that is known, and of the last.
        self._first: dict[str, tuple[int, float]] = {}
        self._last: dict[str, tuple[int, float]] = {}
        self._counts: dict[int, Any] = {}  # on the devices until their step is done
        self._counted, self._unit = 0.0, "rows"

    def after_step(self, step: int, batch: Mapping[str, Any], scalars: Mapping[str, Any]) -> None:
        """Takes note of a step that the devices were given.

        Args:
          step: its number.
          batch: that it trains on, with the rows of all hosts on axis 0.
          scalars: what `step.train_step` returns of it; its tokens are those of all hosts.
        """
        if _TARGETS in batch:
            self._unit, self._counts[step] = "tokens", scalars["tokens"]
        else:
            self._counts[step] = len(next(iter(batch.values())))
        if not self._first:
            self._add("loss", step, scalars)
            self._counts.clear()
            self.done, self._first_ended = step, time.monotonic()
            self._last_ended = self._first_ended
        elif self._previous is not None and self._is_slow:
            jax.block_until_ready(self._previous)
            self._is_done(step - 1)
        elif step - SKIPPED_IN_A_ROW > self.done:  # The guard has read it.
            self._is_done(step - SKIPPED_IN_A_ROW)
        self._previous = scalars["loss"]

    def _is_done(self, step: int) -> None:
        if step <= self.done:
            return
        now = time.monotonic()
        self._is_slow = (now - self._last_ended) / (step - self.done) > _SLOW_S
        self.done, self._last_ended = step, now
        for at in [at for at in self._counts if at <= step]:
            self._counted += float(self._counts.pop(at))

    def logged(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Takes note of the losses that a step is logged with, of training or of validation."""
        for name in ("loss", "validation_loss"):
            if name in scalars:
                self._add(name, step, scalars)
        self._is_done(step)

    def _add(self, name: str, step: int, scalars: Mapping[str, Any]) -> None:
        self._last[name] = step, float(scalars[name])
        self._first.setdefault(name, self._last[name])

    def went_back(self, step: int) -> None:
        """Takes note that the training goes on from an earlier step."""
        self.done = step
        self._counts.clear()

    def note(self) -> str:
        """Loss and speed: `loss 3.214, 5,300 tokens/s`."""
        loss = [f"loss {self._last['loss'][1]:.3f}"] if "loss" in self._last else []
        return ", ".join([*loss, *self._speed()])

    def closing(self) -> str:
        """Losses at first and at last, time and memory of this run, for the line at its end."""
        parts = [
            f"{name.replace('_', ' ')} "
            + ", ".join(f"{loss:.3f} at step {step}" for step, loss in (first, self._last[name]))
            for name, first in self._first.items()
            if first[0] != self._last[name][0]
        ]
        compiled = COMPILATIONS.seconds - self._compiled_before
        spent = terminal.duration(time.monotonic() - self._began)
        spent += f", {terminal.duration(compiled)} of it compiling" if round(compiled) else ""
        return "; ".join([*parts, ", ".join([spent, *self._speed(), _memory()])])

    def _speed(self) -> list[str]:
        spent = self._last_ended - self._first_ended
        return [f"{self._counted / spent:,.0f} {self._unit}/s"] if self._counted and spent else []


def _memory() -> str:
    """The most memory that was in use: of a device where it says so, else of the process."""
    peaks = [
        stats["peak_bytes_in_use"]
        for device in jax.local_devices()
        if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats
    ]
    if peaks:
        return f"at most {preview.readable(max(peaks))} of a device's memory"
    return preview.peak_memory()
