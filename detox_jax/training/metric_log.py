"""Training metrics through clu: TensorBoard events, and `metrics.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from detox_jax import outputs
from detox_jax.checkpoints import places
from detox_jax.parallel import processes

TENSORBOARD_DIR = "tensorboard"


class MetricLog:
    """Writes scalars to every place where they are read; on process 0 alone.

    On a local disk `metrics.jsonl` grows with every step that is logged, so that it can be watched;
    an object store cannot append, and gets the whole file at each `flush`. A run that resumes at
    step S forgets what was logged after S, so that its log is the one of a run that was never
    interrupted.
    """

    def __init__(self, model_dir: epath.Path, resume_step: int):
        self._file = model_dir / places.METRICS_FILE
        self._lines: list[str] = []
        self._writer: Any = None
        self._is_first = processes.current().is_first
        if not self._is_first:
            return
        self._appends = "://" not in str(model_dir)
        if self._file.exists():
            self._lines = _lines_until(self._file, resume_step)
            self._rewrite()
        # clu imports tensorflow, which scoring and generation do without.
        from clu import metric_writers

        events = model_dir / TENSORBOARD_DIR
        if resume_step == 0 and events.exists():  # Of a run that left no step, maybe of another.
            events.rmtree()
        self._writer = metric_writers.SummaryWriter(str(events))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Logs scalars of one step."""
        if not self._is_first:
            return
        values = {name: float(value) for name, value in scalars.items()}
        self._writer.write_scalars(step, values)
        line = json.dumps({"step": step, **values})
        if self._appends:
            with self._file.open("a") as file:
                file.write(line + "\n")
        else:
            self._lines.append(line)

    def flush(self) -> None:
        """Makes what was logged durable."""
        if not self._is_first:
            return
        self._writer.flush()
        if not self._appends:
            self._rewrite()

    def _rewrite(self) -> None:
        outputs.write_bytes(self._file, "".join(line + "\n" for line in self._lines).encode())


def _lines_until(file: epath.Path, step: int) -> list[str]:
    """The lines of steps up to `step`; a last line that a kill cut short is none."""
    whole = file.read_text().split("\n")[:-1]
    return [line for line in whole if json.loads(line)["step"] <= step]
