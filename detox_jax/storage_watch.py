"""Says on standard error while a bucket keeps a verb waiting.

The clients of an object store try again for minutes without a word, so that an outage looks like a
hang. Their calls are made in many places, by Orbax and seqio too: so no call is wrapped, but a
thread looks every few seconds at what the main thread is in.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, TypeVar

AFTER_S = 30.0
_LOOKS_EVERY_S = 5.0
_CLIENTS = (
    "etils.epath",
    "tensorflow.python.lib.io",
    "tensorflow.python.platform.gfile",
    "orbax.checkpoint",
    "google.cloud.storage",
    "google.api_core",
)
_Function = TypeVar("_Function", bound=Callable[..., Any])
_waiting: set[CodeType] = set()


def waits_for_storage(function: _Function) -> _Function:
    """Marks a function that waits for other threads' calls of a client; used as a decorator.

    Args:
      function: that has a local variable which holds the path.
    """
    _waiting.add(function.__code__)
    return function


class StorageWatch:
    """Looks on until it is stopped; used as a context.

    Args:
      after_s: how many seconds one call may take without a line; the next comes after twice that.
      every_s: how often it looks, in seconds.
    """

    def __init__(self, after_s: float = AFTER_S, every_s: float = _LOOKS_EVERY_S):
        self._after_s, self._every_s = after_s, every_s
        self._watched = threading.get_ident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> StorageWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look_on(self) -> None:
        call: FrameType | None = None
        since = say_after = 0.0
        while not self._ended.wait(self._every_s):
            # The frame is held, or another call could come to stand at its address.
            now = _storage_call(sys._current_frames().get(self._watched))
            if now is not call:
                call, since, say_after = now, time.monotonic(), self._after_s
            waited = time.monotonic() - since
            if call is None or waited < say_after:
                continue
            say_after = 2 * waited
            if (path := _bucket_path(call)) is not None:
                print(
                    f"{path}: the storage has not finished a call ({call.f_code.co_name}) for "
                    f"{waited:.0f} s: it is slow or does not answer; waiting, its client tries "
                    "again by itself",
                    file=sys.stderr,
                    flush=True,
                )


def _storage_call(frame: FrameType | None) -> FrameType | None:
    """The outermost frame of a storage's client, or None."""
    outermost = None
    while frame is not None:
        is_client = frame.f_globals.get("__name__", "").startswith(_CLIENTS)
        if is_client or frame.f_code in _waiting:
            outermost = frame
        frame = frame.f_back
    return outermost


def _bucket_path(frame: FrameType | None) -> str | None:
    """The path in an object store that a call, or the nearest of its callers, is about."""
    while frame is not None:
        for value in list(frame.f_locals.values()):  # whose frame goes on meanwhile
            if isinstance(value, str | os.PathLike) and str(value).startswith("gs://"):
                return str(value)
        frame = frame.f_back
    return None
