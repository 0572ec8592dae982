"""The user's terminal or log: how far some work is, and TensorFlow's start-up notes kept off it.

TensorFlow looks for GPUs when it is imported and when its devices are listed, and notes on stderr
that it found none, before its own log level counts. Its notes are dropped by their text and no
environment variable is set, because JAX reads the same ones and needs the GPUs.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from rich import progress
from rich.console import Console
from rich.text import Text

from detox_jax.compilations import COMPILATIONS
from detox_jax.parallel import processes

# Seconds to the first line about some work where there is no terminal, and between the others.
FIRST_S, EVERY_S = 10.0, 30.0
SILENCE = "DETOX_JAX_NO_PROGRESS"  # an environment variable: set, there are no such lines
_SPEED_OF_S = 600.0  # over which a speed is taken: a batch may take minutes
_BURST_S = 0.5  # what is done within it was done at once, though it is told row by row

_NOTE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog"
    rb"|[IW]\d{4} [\d:.]+ +\d+ "
    rb"|E\d{4} [\d:.]+ +\d+ cuda_platform\.cc:\d+\] failed call to cuInit"
)


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Holds stderr back, then writes what is not such a note."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held:
                if not _NOTE.match(line):
                    os.write(2, line)


def drop_echoes() -> None:
    """Drops from here on what Orbax prints of a failed read or write beside raising it.

    Its threads log the traceback; reads and writes that were under way end after their event loop,
    of which each prints another, and asyncio prints those that nobody asked, at the very end. That
    may be after the verb has returned, so nothing is put back.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_no_echo)  # once, however often it is added
    before = sys.unraisablehook
    if getattr(before, "drops_echoes", False):
        return

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    hook.drops_echoes = True  # type: ignore
    sys.unraisablehook = hook


def _is_no_echo(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    unasked = "exception was never retrieved" in message and "orbax" in message
    return not unasked and "_SignalingThread.run() raised an exception" not in message


class Advance(Protocol):
    """Moves a bar on."""

    def __call__(self, amount: int = 1, note: str | None = None, *, earlier: bool = False) -> None:
        """Says how far the work is.

        Args:
          amount: how much was done.
          note: what else there is to say, such as a loss; as before where None.
          earlier: an earlier run had done it, so that nothing follows for the speed.
        """
        ...


@contextlib.contextmanager
def bar(description: str, total: int, completed: int = 0, unit: str = "") -> Iterator[Advance]:
    """Shows how far some work is while the context lasts; of several processes, the first one does.

    On a terminal that is a bar on standard error; elsewhere a line, at most every `EVERY_S`
    seconds, with what is done, a speed or note, and the time left.

    Args:
      description: names the work: `perplexity of heldout, model base`.
      total: how much there is to do.
      completed: how much of it is done before.
      unit: what is counted, in the plural.

    Yields:
      The function that moves it.
    """
    COMPILATIONS.listen()
    is_told, on_terminal = processes.current().is_first, sys.stderr.isatty()
    display = progress.Progress(
        progress.TextColumn("{task.description}{task.fields[note]}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        _CompilingColumn(),
        console=Console(file=sys.stderr),
        disable=not (is_told and on_terminal),
        speed_estimate_period=_SPEED_OF_S,
    )
    task = display.add_task(description, total=total, completed=completed, note="")
    has_lines = is_told and not on_terminal and not os.environ.get(SILENCE)
    lines = _Lines(display.tasks[0], unit) if has_lines else None
    told_at, untimed = -math.inf, 0  # of what rich takes a speed from, and what it has yet to hear
    with display, lines or contextlib.nullcontext():

        def advance(amount: int = 1, note: str | None = None, *, earlier: bool = False) -> None:
            nonlocal told_at, untimed
            COMPILATIONS.went_on()
            said: dict[str, Any] = {} if note is None else {"note": f", {note}"}
            in_burst = display.get_time() - told_at < _BURST_S
            if earlier or in_burst:
                display.tasks[0].completed += amount
                untimed += 0 if earlier else amount
                amount = 0
            else:
                display.tasks[0].completed -= untimed
                amount, untimed, told_at = amount + untimed, 0, display.get_time()
            display.update(task, advance=amount, **said)

        yield advance


class _CompilingColumn(progress.ProgressColumn):
    """Which program is being compiled, while one is."""

    max_refresh = 0.5

    def render(self, task: progress.Task) -> Text:
        """The column's text."""
        program = COMPILATIONS.program
        return Text(f"compiling {program}" if program else "")


class _Lines:
    """Writes lines about some work from a thread of its own: a batch may take longer than a line.

    Args:
      task: the work.
      unit: what is counted.
    """

    def __init__(self, task: progress.Task, unit: str):
        self._task, self._unit = task, unit
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._speak, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _speak(self) -> None:
        pause = FIRST_S
        while not self._ended.wait(pause):
            print(progress_line(self._task, self._unit), file=sys.stderr, flush=True)
            pause = EVERY_S


def progress_line(task: progress.Task, unit: str) -> str:
    """How far some work is.

    >>> task = progress.Task(0, "score", 400, 120, fields={"note": ""}, _get_time=lambda: 0.0)
    >>> progress_line(task, "documents")
    'score: 120 of 400 documents'
    """
    parts = [f"{task.completed:,.0f} of {task.total or 0:,.0f} {unit}".rstrip()]
    if COMPILATIONS.program is not None:
        parts.append(f"compiling {COMPILATIONS.program}")
    if note := task.fields["note"].removeprefix(", "):
        parts.append(note)
    elif task.speed:
        parts.append(f"{task.speed:,.3g}/s")
    if task.time_remaining is not None and not task.finished:
        parts.append(f"{duration(task.time_remaining)} left")
    return f"{task.description}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`.

    >>> [duration(seconds) for seconds in (0.4, 89, 90, 3600, 12000)]
    ['0 s', '89 s', '2 min', '1 h 0 min', '3 h 20 min']
    """
    if round(seconds) < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
