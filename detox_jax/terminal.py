"""The user's terminal: a progress bar on it, and TensorFlow's start-up notes kept off it.

TensorFlow looks for GPUs when it is imported and when its devices are listed, and notes on stderr
that it found none, before its own log level counts. Its notes are dropped by their text and no
environment variable is set, because JAX reads the same ones and needs the GPUs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, Protocol

from rich import progress
from rich.console import Console

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


@contextlib.contextmanager
def without_echoes() -> Iterator[None]:
    """Drops what Orbax prints of a failed read or write beside raising it.

    Its threads log the traceback; reads and writes that were under way end after their event loop,
    of which each prints another, and asyncio prints those that nobody asked, at the very end.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_no_echo)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _is_no_echo(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    unasked = "exception was never retrieved" in message and "orbax" in message
    return not unasked and "_SignalingThread.run() raised an exception" not in message


class Advance(Protocol):
    """Moves a bar on."""

    def __call__(self, amount: int = 1, description: str | None = None) -> None:
        """By `amount`, with a new description where one is given."""
        ...


@contextlib.contextmanager
def bar(description: str, total: int, completed: int = 0) -> Iterator[Advance]:
    """Shows a bar while the context lasts, where standard error is a terminal.

    Yields:
      The function that moves it.
    """
    display = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        disable=not sys.stderr.isatty(),
    )
    with display:
        task = display.add_task(description, total=total, completed=completed)

        def advance(amount: int = 1, description: str | None = None) -> None:
            display.update(task, advance=amount, description=description)

        yield advance
