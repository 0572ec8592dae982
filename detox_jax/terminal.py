"""The user's terminal or log: how far a verb is, and TensorFlow's start-up notes kept off it.

On a terminal work that can be counted has a bar. Elsewhere a verb says a line every 30 seconds,
whatever it does: of the innermost work that is counted, or else what it does and for how long.

TensorFlow looks for GPUs when it is imported and when its devices are listed, and notes on stderr
that it found none, before its own log level counts. Its notes are dropped by their text and no
environment variable is set, because JAX reads the same ones and needs the GPUs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich import progress
from rich.console import Console
from rich.text import Text

from detox_jax.compilations import COMPILATIONS
from detox_jax.parallel import processes

# Seconds to the first line where there is no terminal, and between the others; at 0, whenever
# anything moves.
FIRST_S, EVERY_S = 10.0, 30.0
SILENCE = "DETOX_JAX_NO_PROGRESS"  # an environment variable: set, there are no such lines
_SPEED_OF_S = 600.0  # over which a speed is taken: a batch may take minutes
_BURST_S = 0.5  # what is done within it was done at once, though it is told row by row
_LEAST_WAIT_S = 0.01  # of the thread that says lines

_HEARD: list[list[str]] = []  # of `noted`
_NOTE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog"
    rb"|[IW]\d{4} [\d:.]+ +\d+ "
    rb"|E\d{4} [\d:.]+ +\d+ cuda_platform\.cc:\d+\] failed call to cuInit"
)
# Of threads of Orbax's that raise the same where it is asked for.
_ECHOES = (
    "_SignalingThread.run() raised an exception",
    "or the Commit callback in background save thread",
)


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Holds stderr back, then writes what is not such a note."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            with _SPEAKER.speaking_to(terminal):
                yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held:
                if not _NOTE.match(line):
                    os.write(2, line)


@contextlib.contextmanager
def let_through() -> Iterator[None]:
    """Has stderr go where it goes without `without_notes`: what ends the process says why there."""
    terminal = _SPEAKER.terminal()
    if terminal is None:
        yield
        return
    sys.stderr.flush()
    held = os.dup(2)
    os.dup2(terminal, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(held, 2)
        os.close(held)


def note(line: str, place: str = "") -> None:
    """Says what a reader is to know of an output beside what it is: on standard output.

    Args:
      line: a sentence.
      place: what it is of, to stand before it.
    """
    for heard in _HEARD:
        heard.append(line)
    print(f"{place}: {line}" if place else line)


@contextlib.contextmanager
def noted() -> Iterator[list[str]]:
    """The lines that `note` says meanwhile, for a caller that shows no standard output."""
    heard: list[str] = []
    _HEARD.append(heard)
    try:
        yield heard
    finally:
        _HEARD.remove(heard)


def drop_echoes() -> None:
    """Drops from here on what Orbax prints of a failed read or write beside raising it.

    Its threads log the traceback; reads and writes that were under way end after their event loop,
    or are given up, of which each prints another, and asyncio prints those that nobody asked, at
    the very end. That may be after the verb has returned, so nothing is put back.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_no_echo)  # once, however often it is added
    before = sys.unraisablehook
    if getattr(before, "drops_echoes", False):
        return

    def hook(unraisable: Any) -> None:
        is_late = str(unraisable.exc_value) == "Event loop is closed"
        if not is_late and not _is_of_orbax(unraisable.object):
            before(unraisable)

    hook.drops_echoes = True  # type: ignore
    sys.unraisablehook = hook


def _is_of_orbax(given_up: Any) -> bool:
    """Whether an object that went with an error is a coroutine of Orbax's."""
    code = getattr(given_up, "cr_code", None)
    return code is not None and "orbax" in Path(code.co_filename).parts


def _is_no_echo(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    unasked = "exception was never retrieved" in message and "orbax" in message
    return not unasked and not any(echo in message for echo in _ECHOES)


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
    told_at, untimed = -math.inf, 0  # of what rich takes a speed from, and what it has yet to hear
    with display, _SPEAKER.during(_Counted(display.tasks[0], unit)):

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
            _SPEAKER.moved()

        yield advance


def stage(name: str) -> contextlib.AbstractContextManager[None]:
    """Names what is done while the context lasts, for the lines where there is no terminal.

    The outermost one is the verb. What is counted inside of it has lines of its own.

    Args:
      name: of what cannot be counted: `resample prompts`.
    """
    return _SPEAKER.during(_Stage(name, time.monotonic()))


def turn_to(step: str) -> None:
    """Names the step that the verb has come to; the one before is over.

    Args:
      step: of a verb that goes through several.
    """
    _SPEAKER.turn_to(step)


def has_read(amount: int) -> None:
    """Counts records that were read, for the lines of a verb that counts nothing else.

    Args:
      amount: how many more.
    """
    _SPEAKER.has_read(amount)


class _CompilingColumn(progress.ProgressColumn):
    """Which program is being compiled, while one is."""

    max_refresh = 0.5

    def render(self, task: progress.Task) -> Text:
        """The column's text."""
        program = COMPILATIONS.program
        return Text(f"compiling {program}" if program else "")


@dataclasses.dataclass(frozen=True, eq=False)
class _Counted:
    """Work with a bar.

    Attributes:
      task: the bar's.
      unit: what is counted.
    """

    task: progress.Task
    unit: str

    def line(self, around: Sequence[str]) -> str:
        """How far it is, behind the stages around it; the verb stands in none of its lines."""
        return ": ".join([*around[1:], progress_line(self.task, self.unit)])


@dataclasses.dataclass(eq=False)
class _Stage:
    """What is done, and since when.

    Attributes:
      name: what it is called.
      began: by the monotonic clock.
      records_read: since its last line. What another stage read is not among them: most verbs read
        their input to check it, and again to work on it.
    """

    name: str
    began: float
    records_read: int = 0

    def line(self, around: Sequence[str]) -> str:
        """For how long, and how many records were read since the line before."""
        parts = [f"{duration(time.monotonic() - self.began)} so far"]
        parts += [f"{self.records_read:,} records read"] if self.records_read else []
        self.records_read = 0
        parts += [f"compiling {COMPILATIONS.program}"] if COMPILATIONS.program else []
        return f"{': '.join([*around, self.name])}: {', '.join(parts)}"


class _Speaker:
    """Says lines about the innermost of the works that go on.

    One speaks for all, so that many works, each too short for a line, have lines together; and from
    a thread of its own: a batch, or a program of the compiler's, may take longer than a line.
    """

    def __init__(self):
        self._works: list[_Counted | _Stage] = []
        self._due = math.inf  # when the next line is, where there is any work
        self._ended = threading.Event()
        self._terminal: int | None = None
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def during(self, work: _Counted | _Stage) -> Iterator[None]:
        """Speaks of some work while the context lasts; of several processes, the first one does."""
        is_told = processes.current().is_first and not os.environ.get(SILENCE)
        if not is_told or sys.stderr.isatty():
            yield
            return
        COMPILATIONS.listen()
        with self._lock:
            self._works.append(work)
            if len(self._works) == 1:
                self._due = time.monotonic() + FIRST_S
                self._ended = threading.Event()
                threading.Thread(target=self._watch, args=(self._ended,), daemon=True).start()
        self.moved()
        try:
            yield
        finally:
            with self._lock:
                self._works = [other for other in self._works if other is not work]
                if not self._works:
                    self._ended.set()  # Before the other: nobody waits for ever.
                    self._due = math.inf

    def turn_to(self, step: str) -> None:
        """Names the step of the verb."""
        with self._lock:
            if self._works and isinstance(verb := self._works[0], _Stage):
                verb.name = f"{verb.name.partition(': ')[0]}: {step}"
                verb.began, verb.records_read = time.monotonic(), 0
        self.moved()

    def has_read(self, amount: int) -> None:
        """Counts records to the innermost work, where that is a stage."""
        with self._lock:
            if self._works and isinstance(stage := self._works[-1], _Stage):
                stage.records_read += amount
        self.moved()

    @contextlib.contextmanager
    def speaking_to(self, terminal: int) -> Iterator[None]:
        """Has lines go to a file descriptor while standard error's is another's: the outermost."""
        with self._lock:
            before = self._terminal
            self._terminal = terminal if before is None else before
        try:
            yield
        finally:
            with self._lock:
                self._terminal = before

    def terminal(self) -> int | None:
        """Where lines go while standard error's descriptor is another's; None where it is not."""
        return self._terminal

    def moved(self) -> None:
        """Says a line where one is due."""
        if time.monotonic() >= self._due:
            self._say()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(max(_LEAST_WAIT_S, self._due - time.monotonic())):
            self.moved()

    def _say(self) -> None:
        with self._lock:
            if not self._works or time.monotonic() < self._due:
                return
            self._due = time.monotonic() + EVERY_S
            *around, work = self._works
            names = [x.name for x in around if isinstance(x, _Stage)]
            line = work.line(names)
            if self._terminal is not None and _is_standard_error(sys.stderr):
                os.write(self._terminal, f"{line}\n".encode())
            else:
                print(line, file=sys.stderr, flush=True)


def _is_standard_error(stream: Any) -> bool:
    """Whether a stream is the process's own, and not that of a notebook or a test."""
    try:
        return stream.fileno() == 2
    except (AttributeError, OSError, ValueError):
        return False


_SPEAKER = _Speaker()
COMPILATIONS.begins = _SPEAKER.moved
COMPILATIONS.starts = let_through


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
    """`45 s`, `2 min 40 s`, `12 min`, `3 h 20 min`; lines 30 seconds apart differ for ten minutes.

    >>> [duration(seconds) for seconds in (0.4, 89, 90, 159, 600, 3600, 12000)]
    ['0 s', '89 s', '1 min 30 s', '2 min 40 s', '10 min', '1 h 0 min', '3 h 20 min']
    """
    if round(seconds) < 90:
        return f"{seconds:.0f} s"
    tens = round(seconds / 10)
    if tens < 60:
        return f"{tens // 6} min" + (f" {tens % 6 * 10} s" if tens % 6 else "")
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
