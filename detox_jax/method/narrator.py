"""What `sgeat` says while it works, and how long each of its steps took."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from etils import epath

from detox_jax import atomic_files, outputs, terminal
from detox_jax.errors import Unavailable, UserError


class Narrator:
    """Says what is being done, and keeps in `times.json` how long each step took in all runs.

    It is used as a context, so that a step that an error or a signal ends has its time too.
    """

    def __init__(self, root: epath.Path):
        self._file = root / outputs.TIMES_FILE
        self._start = self._last = time.monotonic()
        self._title: str | None = None
        steps = json.loads(self._file.read_text())["steps"] if self._file.exists() else []
        self._seconds = {step["step"]: step["seconds"] for step in steps}

    def __call__(self, title: str) -> None:
        """Begins a step, which ends the one before.

        Args:
          title: of the step.
        """
        now = time.monotonic()
        if self._title is not None:
            self._note(self._title, now)
        self._title, self._last = title, now
        print(f"\n[{now - self._start:5.0f} s] {title}", flush=True)
        terminal.turn_to(title)

    def __enter__(self) -> Narrator:
        return self

    def __exit__(
        self, kind: Any, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A storage that does not answer is not waited for, and the first error is what is told.
        if error is None or self._title is None or isinstance(error, Unavailable):
            return
        with contextlib.suppress(Unavailable, UserError):
            self._note(self._title, time.monotonic())

    def _note(self, title: str, now: float) -> None:
        """Adds the time since the last step to that of a title, in the file too."""
        self._seconds[title] = round(self._seconds.get(title, 0.0) + now - self._last, 1)
        atomic_files.write_json(self._file, {"steps": list(self._steps())}, in_output=False)

    def _steps(self) -> Iterator[dict[str, Any]]:
        for title, seconds in self._seconds.items():
            yield {"step": title, "seconds": seconds}

    def copy_times(self, directory: epath.Path) -> None:
        """Puts the times beside results, where `report` finds them, once.

        Args:
          directory: of the results.
        """
        if not (directory / outputs.TIMES_FILE).exists():
            # Into an output that is finished, from which nothing is removed any more.
            content = self._file.read_bytes()
            atomic_files.write_bytes(directory / outputs.TIMES_FILE, content, in_output=False)


def where_to_look(root: epath.Path, place: epath.Path) -> str:
    """The last lines of a run: what lies where. `tpu_scripts/sgeat.sh` reads the first of them.

    Args:
      root: of the run.
      place: of its results.
    """
    return (
        f"  {place / 'report.html'}     pictures, tables, sample continuations\n"
        f"  {place / 'results.json'}    every figure with its interval and provenance\n"
        f"  {root / 'models'}/         the detoxified models\n"
        f"  {root / 'continuations'}/  what each model wrote, with scores"
    )
