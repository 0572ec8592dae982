"""Keeps the start-up notes of TensorFlow's C++ code off a user's terminal.

TensorFlow looks for GPUs when it is imported and when its devices are listed, and notes on stderr
that it found none, before its own log level counts. Its notes are dropped by their text and no
environment variable is set, because JAX reads the same ones and needs the GPUs.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

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
