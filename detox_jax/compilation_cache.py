"""Compiled programs are kept between runs, in the user's cache directory, by JAX's own cache.

JAX's settings say otherwise where they are set: `JAX_ENABLE_COMPILATION_CACHE=0` switches it off,
`JAX_COMPILATION_CACHE_DIR` names another directory, which is then the user's to look after. In the
directory that is chosen here old entries make room for new ones; JAX's own eviction is not used,
because an entry that a kill left without its time keeps every later one from being written. Several
processes on GPUs do not use it: see `parallel.mesh`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detox_jax import user_cache

MOST_BYTES = 4 << 30
_DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '([^'/]+)'")


def enable() -> None:
    """Has JAX, which is not imported yet, keep what it compiles."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or _is_off():
        return
    directory = default_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        make_room(directory)
    except OSError:  # A home that is full, read-only or missing: everything is compiled, as before.
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
    # JAX keeps nothing that took less than a second, and a verb compiles dozens of such programs.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    before = warnings.showwarning
    if not getattr(before, "mends_cache", False):
        warnings.showwarning = _mending(before, directory)


def is_default() -> bool:
    """Whether what is compiled is kept in the directory that is chosen here."""
    return os.environ.get("JAX_COMPILATION_CACHE_DIR") == str(default_directory())


def default_directory() -> Path:
    """Where compiled programs are kept; of machines that share a home, one for each kind of CPU."""
    return user_cache.directory("compiled") / _processor()


def make_room(directory: Path, most_bytes: int = MOST_BYTES) -> None:
    """Removes the entries that were read longest ago, until the rest is at most so much."""
    entries = []
    for file in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process makes room
            status = file.stat()
            entries.append((max(status.st_atime, status.st_mtime), status.st_size, file))
    excess = sum(size for _, size, _ in entries) - most_bytes
    for _, size, file in sorted(entries):
        if excess <= 0:
            break
        file.unlink(missing_ok=True)
        excess -= size


def _is_off() -> bool:
    value = os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "1").lower()
    return value in ("0", "false", "f", "no", "n", "off")  # as JAX reads it


def _processor() -> str:
    """A name for what code can be run here; JAX's own keys say nothing of it."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"
    return platform.machine()


def _mending(show: Callable[..., None], directory: Path) -> Callable[..., None]:
    """In place of a warning of JAX's that an entry is damaged, removes it, so that it is replaced.

    JAX compiles such a program again, but never writes an entry where there is one.
    """

    def showwarning(message: Warning | str, *how: Any, **other: Any) -> None:
        if damaged := _DAMAGED.search(str(message)):
            for file in directory.glob(f"{damaged[1]}-*"):
                file.unlink(missing_ok=True)
        else:
            show(message, *how, **other)

    showwarning.mends_cache = True  # type: ignore[attr-defined]
    return showwarning
