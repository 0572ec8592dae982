#!/usr/bin/env bash
# On a CPU every execution of a JAX program gives its temporaries back to the kernel and takes them
# again, page by page; of a small training step that is an eighth of the time.
#
# Guess: what a compiled step needs beside its arguments is allocated once, with the executable, or
#   stays in the process's heap between steps, as other freed memory does.
# Seen (jax 0.10.2, glibc): XLA allocates the temporaries of each execution as one array. glibc maps
#   one of more than 32 MiB, where its own adaption to what is freed ends, and unmaps it when it is
#   freed, so that each execution faults in all of its pages again, of 4 KiB each (NumPy asks for
#   pages of 2 MiB for its own arrays; XLA does not). MALLOC_MMAP_MAX_=0 with a large
#   MALLOC_TRIM_THRESHOLD_ leaves few faults of temporaries of 48 MiB, and all of 192 MiB: they come
#   from a thread of XLA's, whose heaps end at 64 MiB.
# Hurt: system time that no profile of XLA shows; a step's peak, and its losses, stay the same.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/env"
"$dir/env/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cd "$dir"
env/bin/python -c "import jax; print('jax', jax.__version__)"
cat > faults.py <<'PY'
import resource
import sys

import jax
import jax.numpy as jnp


def pages(megabytes, calls=10):
    """New pages of 4 KiB in each call of a program, for each page of its temporaries."""
    side = 512
    rows = (megabytes << 20) // 4 // side

    @jax.jit
    def loss(x, w):  # What the way back reads is kept: two arrays of the size that is asked for.
        def total(w):
            return jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w))
        return jax.value_and_grad(total)(w)

    x, w = jnp.ones((rows, side)), jnp.eye(side)
    temporaries = loss.lower(x, w).compile().memory_analysis().temp_size_in_bytes
    for _ in range(3):
        jax.block_until_ready(loss(x, w))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        jax.block_until_ready(loss(x, w))
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return faults / calls / (temporaries / resource.getpagesize()), temporaries >> 20


for megabytes in (16, 64):
    share, temporaries = pages(megabytes)
    print(f"temporaries of {temporaries} MiB: {share:.0%} of their pages are new in each call")
    assert temporaries == 3 * megabytes
    is_kept = sys.argv[1] == "kept" and megabytes == 16
    assert share < 0.5 if is_kept else share > 0.9, share
PY
export JAX_PLATFORMS=cpu
echo "as it is:"
env/bin/python faults.py "as it is"
echo "MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647:"
MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647 env/bin/python faults.py kept
