"""SIGTERM and SIGINT: a run ends where it can go on, and says "run me again".

Machines that are taken away send SIGTERM first, and half a minute later are gone. Outputs survive
even `kill -9`, so by default a signal ends a verb where it stands. Training has more to lose than a
step: inside of `put_off` a signal only asks, the step that runs ends, and where several processes
train together all of them save the same step. Which one, JAX's own protocol finds out; its handler
for SIGTERM would swallow the signal everywhere else, so it is called from ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from detox_jax.parallel import processes

AGAIN = 75  # EX_TEMPFAIL, the exit status that asks to be run again
INTERRUPTED = 130  # what shells give Ctrl-C: somebody meant it, and nobody runs it again
_PARENT = "DETOX_JAX_PARENT"
_PARENT_LOOKED_FOR_EVERY_S = 0.5
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# An exception that a signal raises in a destructor or a callback is lost: it is raised again.
_RAISED_AGAIN_S = 2.0


class Stopped(KeyboardInterrupt):
    """A signal ended the verb; the same command goes on.

    Attributes:
      status: of the process.
      by_all: whether all processes end alike, at the same step.
    """

    def __init__(self, where: str, by_all: bool = True, status: int | None = None):
        super().__init__(where)
        self.by_all = by_all
        by_signal = INTERRUPTED if _state.received == signal.SIGINT else AGAIN
        self.status = by_signal if status is None else status


class _State:
    """What signals have asked for in this process."""

    received: signal.Signals | None = None
    is_put_off: bool = False
    is_ending: bool = False
    steps: int = 0
    notify_jax: Callable[[int], Any] | None = None


_state = _State()


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Handles signals while a verb runs; a thread that is not the main one cannot.

    Raises:
      Stopped: in the main thread, when a signal comes, outside of `put_off`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.__dict__.clear()
    before = {number: signal.signal(number, _on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        _state.__dict__.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def call(command: Sequence[str], output: IO[str], environment: Mapping[str, str]) -> int:
    """The exit status of `python -m detox_jax` in a process that ends with this one.

    Where this one is killed, that one is too: going on, it would have a rerun refused. A signal is
    handed on to it, so that it saves its step, and its end is waited for.

    Args:
      command: with its interpreter.
      output: where it prints, errors too.
      environment: of it.

    Raises:
      Stopped: where a signal came.
    """
    process = subprocess.Popen(
        command,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**environment, _PARENT: str(os.getpid())},
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        ending()
        process.terminate()
        process.wait()
        raise


def end_with_parent() -> None:
    """Kills this process when the one that has it by `call` is gone; else does nothing."""
    parent = os.environ.pop(_PARENT, None)  # It is not the parent of what this process starts.
    if parent is None:
        return

    def look() -> None:
        while os.getppid() == int(parent):
            time.sleep(_PARENT_LOOKED_FOR_EVERY_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=look, daemon=True).start()


def take_over_from_jax() -> None:
    """Puts our handlers back after `jax.distributed.initialize`, which put in its own."""
    if threading.current_thread() is not threading.main_thread():
        return
    c_signal = ctypes.CDLL(None).signal
    c_signal.restype, c_signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    ours = signal.getsignal(signal.SIGTERM)
    handler = c_signal(signal.SIGTERM, None)
    signal.signal(signal.SIGTERM, ours)
    if handler and handler > 1:  # Else JAX has none: 0 is the default, 1 is to ignore.
        _state.notify_jax = ctypes.CFUNCTYPE(None, ctypes.c_int)(handler)


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """Lets signals ask, and not end; who is inside asks `reached` after every step."""
    _state.is_put_off = True
    try:
        yield
    finally:
        _state.is_put_off = False
    if _state.received is not None:  # It came behind the last step, or before it was agreed on.
        raise Stopped(f"{_state.received.name}: what was finished is kept", by_all=False)


def reached() -> bool:
    """Whether to stop here; the same on all processes, which must call it equally often."""
    if not processes.current().several:
        return _state.received is not None
    from jax.experimental import multihost_utils

    # Not the verb's own steps, since one process may train several models.
    _state.steps += 1
    try:
        return multihost_utils.reached_preemption_sync_point(_state.steps)
    except RuntimeError:  # JAX's service is switched off.
        return False


def ending() -> None:
    """From here on signals change nothing: the process says its last words."""
    _state.is_ending = True


def behind(error: BaseException) -> BaseException:
    """What a signal raised, where an error comes of it; else the error.

    Libraries make their own error of what is raised in them: Python 3.11 of any exception in a
    `__set_name__`, as when it makes an enumeration, which modules do that are imported.
    """
    met = [error]
    for each in met:
        if isinstance(each, Stopped):
            return each
        met += [e for e in (each.__cause__, each.__context__) if e is not None and e not in met]
    return error


def _on_signal(number: int, frame: Any) -> None:
    del frame
    is_first = _state.received is None
    _state.received = _state.received or signal.Signals(number)
    if _state.is_ending:
        return
    if _state.is_put_off and (not processes.current().several or _state.notify_jax):
        if _state.notify_jax and is_first:
            _state.notify_jax(signal.SIGTERM)
        return
    _raise_again_later()
    raise Stopped(f"{_state.received.name}: what was finished is kept", by_all=False)


def _raise_again_later() -> None:
    def again() -> None:
        if not (_state.is_ending or _state.is_put_off) and _state.received is not None:
            signal.pthread_kill(threading.main_thread().ident or 0, _state.received)

    timer = threading.Timer(_RAISED_AGAIN_S, again)
    timer.daemon = True
    timer.start()
