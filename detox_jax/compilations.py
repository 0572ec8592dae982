"""What JAX is compiling, as its own events tell: a program of a large model takes minutes.

JAX tells when something has ended. A program is lowered just before it is compiled, so the end of
the one is the beginning of the other. JAX is not imported here: who has not loaded it compiles
nothing.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"


class Compilations:
    """What is being compiled, and for how long something was.

    Attributes:
      program: the name of what is being compiled, or None.
      seconds: that all programs took since JAX was listened to; of those that are kept between
        runs, the time of reading them.
      begins: called when a program begins to be compiled.
      starts: entered while JAX starts its devices, which may end the process.
    """

    def __init__(self):
        self.program: str | None = None
        self.seconds = 0.0
        self.begins: Callable[[], None] = lambda: None
        self.starts: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        self._listens = False
        self._lock = threading.Lock()

    def listen(self) -> None:
        """Has JAX tell of what it compiles from here on, where it is loaded."""
        monitoring: Any = sys.modules.get("jax.monitoring")
        with self._lock:
            if monitoring is not None and not self._listens:
                self._listens = True
                monitoring.register_event_duration_secs_listener(self.told)

    def told(self, event: str, duration: float, **of: Any) -> None:
        """Takes note of an event of JAX's.

        Args:
          event: its name.
          duration: in seconds.
          of: `fun_name` is the program's.
        """
        if event == _LOWERED:
            self.program = _name(str(of.get("fun_name", "")))
            self.begins()
        elif event == _COMPILED:
            self.program = None
            self.seconds += duration

    def went_on(self) -> None:
        """Forgets a program that was lowered and never compiled: the work goes on."""
        self.program = None


def _name(fun_name: str) -> str:
    """`train_step` of `jit(train_step)`."""
    called = re.fullmatch(r"\w+\((.*)\)", fun_name)
    name = called[1] if called else fun_name
    return name.strip("_") if name.isidentifier() else "a program"


COMPILATIONS = Compilations()
