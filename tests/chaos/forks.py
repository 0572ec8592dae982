"""Verbs in forked processes: everything is imported once, no backend runs, and a child is cheap.

A child may be killed from outside, or kills itself at its n-th operation on a directory: each file
that Python opens to write, renames, removes, each directory that it makes. That is exact where a
clock is not; what libraries write in C++ is left to clocks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

LONGEST_S = 600.0
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")


def preload() -> None:
    """Imports what verbs import when they run."""
    from detox_jax import cli

    for name in ("tensorflow", "seqio", "orbax.checkpoint", "clu.metric_writers", *_gin_modules()):
        importlib.import_module(name)
    for verb, module in cli.VERBS.items():
        if verb != "lm_eval":
            importlib.import_module(module)


def _gin_modules() -> list[str]:
    return ["tasks.corpora", "tasks.downstream", "tasks.demo_corpus", "detox_jax.report.charts"]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
      status: its exit status; of one that a signal ended, the signal's number, negative.
      errors: what it printed.
      operations: how many operations on `watched` it came to.
    """

    status: int
    errors: str
    operations: int


@dataclasses.dataclass(frozen=True)
class Child:
    """A verb that runs in a process of its own."""

    pid: int
    log: Path

    def is_running(self) -> bool:
        """Whether it has not ended; does not reap it."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def signal(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = LONGEST_S) -> Ended:
        """Waits for its end, or kills it after so long and raises."""
        deadline = time.monotonic() + seconds
        while self.is_running():
            if time.monotonic() > deadline:
                self.signal()
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"no end within {seconds} s:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.005)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        operations = self.log.with_suffix(".operations")
        return Ended(
            status,
            self.log.read_text(errors="replace"),
            int(operations.read_text() or 0) if operations.exists() else 0,
        )


@dataclasses.dataclass
class Forks:
    """Starts children.

    Attributes:
      directory: of their logs, and of the programs that they compile.
    """

    directory: Path
    _number: int = 0

    def start(
        self,
        act: Sequence[str] | Callable[[], Any],
        before: Callable[[], Any] | None = None,
        watched: Path | None = None,
        kill_at: int | None = None,
        full_at: int | None = None,
    ) -> Child:
        """Starts a command line, or a function.

        Args:
          act: what the child does.
          before: what it does first, such as a fault that it brings along.
          watched: the directory whose operations are counted.
          kill_at: the operation, from 1, before which it kills itself.
          full_at: the operation from which on nothing new can be written: the disk is full.
        """
        self._number += 1
        log = self.directory / f"{self._number}.log"
        log.touch()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                self._become(log)
                if watched is not None:
                    _count(watched, kill_at, full_at, log.with_suffix(".operations"))
                if before is not None:
                    before()
                status = _do(act)
            except BaseException:
                traceback.print_exc()
            finally:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(status)
        return Child(pid, log)

    def run(self, act: Sequence[str] | Callable[[], Any], **how: Any) -> Ended:
        """Starts a child and waits for its end."""
        return self.start(act, **how).wait()

    def _become(self, log: Path) -> None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = os.fdopen(1, "w", errors="replace", closefd=False)
        sys.stderr = os.fdopen(2, "w", errors="replace", closefd=False)
        sys.stdin = open(os.devnull)
        jax.config.update("jax_num_cpu_devices", 1)
        jax.config.update("jax_enable_compilation_cache", True)
        jax.config.update("jax_compilation_cache_dir", str(self.directory / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _do(act: Sequence[str] | Callable[[], Any]) -> int:
    if callable(act):
        act()
        return 0
    from detox_jax import cli

    status = cli.main(list(act))
    if jax.distributed.is_initialized():  # At an exit, which a fork leaves out, JAX does so itself.
        jax.distributed.shutdown()
    return status


def _count(watched: Path, kill_at: int | None, full_at: int | None, file: Path) -> None:
    """Counts operations from here on, which cannot be undone."""
    counted = 0
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
    root = str(watched)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal counted
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITES or not _lies_in(path, root):
                return
        elif event not in _CHANGES or not _lies_in(arguments[0], root):
            return
        counted += 1
        os.pwrite(descriptor, str(counted).encode(), 0)
        if counted == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if full_at is not None and counted >= full_at and event in ("open", "os.mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    sys.addaudithook(hook)


def _lies_in(path: Any, root: str) -> bool:
    if isinstance(path, bytes):
        path = path.decode(errors="replace")
    path = str(path)
    return path.startswith(root)
