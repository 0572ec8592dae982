"""Memory that is freed and allocated again: how many pages the kernel has to make anew."""

import ctypes
import os
import platform
import resource
import subprocess
import sys

import pytest

from detox_jax.training import host_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has mallopt")
BYTES = 80 << 20  # glibc never keeps an array as large by itself
PAGES = BYTES // os.sysconf("SC_PAGE_SIZE")


def _faults():
    """Pages that are new to the process while memory is allocated, filled and freed."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.memset.restype = ctypes.c_void_p
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    # NumPy would ask for pages of 2 MiB.
    memory = libc.malloc(ctypes.c_size_t(BYTES))
    libc.memset(ctypes.c_void_p(memory), 1, ctypes.c_size_t(BYTES))
    libc.free(ctypes.c_void_p(memory))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])


def test_what_is_freed_is_used_again_and_given_back():
    assert _faults() >= PAGES
    with host_memory.kept():
        _faults()
        assert _faults() < PAGES / 10
        held = _resident()
    assert held - _resident() > PAGES * 0.9
    assert _faults() >= PAGES


def test_the_users_own_settings_stay():
    code = (
        "from tests.training import host_memory_test as t; from detox_jax.training import "
        "host_memory\nwith host_memory.kept():\n  t._faults(); assert t._faults() >= t.PAGES"
    )
    own = {"MALLOC_MMAP_MAX_": "65536"}
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **own})
