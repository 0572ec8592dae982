"""Memory that is freed and allocated again: how many pages the kernel has to make anew."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has mallopt")
# In a process of its own, whose memory nothing else has touched. glibc keeps nothing as large by
# itself, and NumPy would ask for pages of 2 MiB.
_PROGRAM = """
import ctypes, os, resource
from detox_jax.training import host_memory

libc, size = ctypes.CDLL(None), ctypes.c_size_t(80 << 20)
libc.malloc.restype = libc.memset.restype = ctypes.c_void_p

def share():  # of pages that are new, while memory is allocated, filled and freed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory = ctypes.c_void_p(libc.malloc(size))
    libc.memset(memory, 1, size)
    libc.free(memory)
    new = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return new * os.sysconf("SC_PAGE_SIZE") / size.value

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / size.value

print(share(), share())
with host_memory.kept():
    print(share(), share())
    held = resident()
print(held - resident(), share())
"""

# An array of a compiled program's, which glibc keeps of the first thread alone.
_COMPILED = """
import os, resource
import jax, jax.numpy as jnp
from detox_jax.parallel import mesh
from detox_jax.training import host_memory

mesh.all_devices()
x = jnp.zeros(80 << 18)
add = jax.jit(lambda x: x + 1)

def share():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(add(x))
    new = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return new * os.sysconf("SC_PAGE_SIZE") / x.nbytes

share()
with host_memory.kept():
    print(*[share() for _ in range(12)])
"""


def _shares(program=_PROGRAM, **environment):
    command = [sys.executable, "-c", program]
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("GLIBC_", "MALLOC_"))}
    environment = {**inherited, **environment}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
    return [round(float(share), 1) for share in output.split()]


def test_what_is_freed_is_used_again_and_given_back():
    assert _shares() == [1, 1, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MALLOC_MMAP_MAX_", "65536"),
        ("MALLOC_MMAP_THRESHOLD_", "131072"),
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072"),
    ],
)
def test_the_users_own_settings_stay(variable, value):
    assert _shares(**{variable: value}) == [1, 1, 1, 1, 0, 1]


def test_what_a_compiled_program_frees_is_used_again():
    """Mostly: what JAX frees a little late is not there yet when the next call asks."""
    assert sum(_shares(_COMPILED, XLA_FLAGS="")) <= 6
