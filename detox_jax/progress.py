"""A progress bar on standard error, silent where that is no terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

from rich import progress
from rich.console import Console


class Advance(Protocol):
    """Moves a bar on."""

    def __call__(self, amount: int = 1, description: str | None = None) -> None:
        """By `amount`, with a new description where one is given."""
        ...


@contextlib.contextmanager
def bar(description: str, total: int, completed: int = 0) -> Iterator[Advance]:
    """Shows a bar while the context lasts; yields the function that moves it."""
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
