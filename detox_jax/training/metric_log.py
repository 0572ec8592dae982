"""Training metrics: `metrics.jsonl`, TensorBoard's events through clu, W&B where asked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from detox_jax import atomic_files
from detox_jax.checkpoints import metric_lines, places
from detox_jax.checkpoints import steps as steps_lib
from detox_jax.errors import Unavailable, writing
from detox_jax.parallel import processes
from detox_jax.training import wandb_writer

TENSORBOARD_DIR = "tensorboard"


class MetricLog:
    """Writes scalars to every place where they are read; on process 0 alone.

    On a local disk `metrics.jsonl` grows with every step that is logged, so that it can be watched;
    an object store cannot append, and gets the whole file at each `flush`, and at the end of the
    context that this is: what shows why a training ended is logged behind its last save. A run that
    resumes at step S forgets what was logged after S, so that its log is the one of a run that was
    never interrupted, where it validates on the same text: that decides no parameter and is no
    setting.
    """

    def __init__(self, model_dir: epath.Path, resume_step: int):
        self._file = model_dir / places.METRICS_FILE
        self._lines: list[str] = []
        self._is_written = True
        self._writers: list[Any] = []
        self._is_first = processes.current().is_first
        if not self._is_first:
            return
        self._appends = atomic_files.is_local(model_dir)
        if self._file.exists():
            self._lines = metric_lines.read(self._file)
            self.forget_after(resume_step)
        # clu imports tensorflow, which scoring and generation do without.
        from clu import metric_writers

        events = model_dir / TENSORBOARD_DIR
        # Of a run that left no step, maybe of another.
        if resume_step == 0 and events.exists() and not steps_lib.saved_steps(model_dir):
            events.rmtree()
        self._writers = [
            *wandb_writer.from_environment(model_dir, resume_step),
            metric_writers.SummaryWriter(str(events)),
        ]

    def forget_after(self, step: int) -> None:
        """Drops the lines of later steps, and those that damage has made unreadable."""
        if not self._is_first:
            return
        if self._appends and self._file.exists():
            self._lines = metric_lines.read(self._file)
        read = [(line, metric_lines.scalars(line)) for line in self._lines]
        if damaged := sum(values is None for _, values in read):
            processes.warn(f"{self._file}: {damaged} damaged line(s) dropped")
        self._lines = [line for line, values in read if values and values["step"] <= step]
        self._rewrite()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Logs the scalars of one step that are finite."""
        if not self._is_first:
            return
        values = {name: float(value) for name, value in scalars.items()}
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        for writer in self._writers:
            writer.write_scalars(step, values)
        line = json.dumps({"step": step, **values})
        if self._appends:
            with atomic_files.staying(self._file.parent), writing(self._file):
                with self._file.open("a") as file:
                    file.write(line + "\n")
        else:
            self._lines.append(line)
            self._is_written = False

    def flush(self) -> None:
        """Makes what was logged durable."""
        if not self._is_first:
            return
        for writer in self._writers:
            writer.flush()
        if not self._appends:
            self._rewrite()

    def __enter__(self) -> MetricLog:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            # Not where the storage fails, or the directory is another run's by now.
            is_told = isinstance(error, Exception) and not isinstance(error, Unavailable)
            if not self._is_written and (error is None or is_told):
                self._rewrite()
        except Exception:  # whatever the storage's clients raise
            if error is None:
                raise
        finally:
            self.close()

    def close(self) -> None:
        """Ends what was opened, and waits until it is written."""
        for writer in self._writers:
            writer.close()

    def _rewrite(self) -> None:
        self._is_written = True
        atomic_files.write_bytes(self._file, "".join(line + "\n" for line in self._lines).encode())
