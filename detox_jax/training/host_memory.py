"""What a step on a CPU frees stays with the process, for the next step.

XLA allocates a step's temporaries as one array, and frees it with the step. glibc takes an array of
more than 32 MiB from the kernel and gives it back, so that the kernel makes and clears every page
of it again in the next step: row `small_steps` of docs/PERFORMANCE.md. More than 64 MiB are kept of
the first thread alone, so that is where programs on a CPU run (`parallel.mesh.all_devices`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

# Of malloc.h: what `mallopt` sets.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_ALL = 2**31 - 1
# Where glibc itself ends up once an array of 32 MiB was freed, and its default.
_DEFAULTS = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
_OF_THE_USER = ("GLIBC_TUNABLES", "MALLOC_")  # what variables begin with


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Keeps what is freed while it lasts, and gives it back then.

    Does nothing where the C library is not glibc, or the user has set how it allocates.
    """
    if platform.libc_ver()[0] != "glibc" or any(map(_is_of_user, os.environ)):
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _ALL)
    try:
        yield
    finally:
        for option, value in _DEFAULTS.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


def _is_of_user(variable: str) -> bool:
    return variable.startswith(_OF_THE_USER)
