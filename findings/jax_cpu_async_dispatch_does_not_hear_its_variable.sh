#!/usr/bin/env bash
# JAX_CPU_ENABLE_ASYNC_DISPATCH is not read, as other options' variables are: no word, no effect.
#
# Guess: the option jax_cpu_enable_async_dispatch is set by its variable in capitals, as JAX's others.
# Seen (jax 0.10.2): the option keeps its default, True, and a program on a CPU goes on behind the call;
#   a variable of another option beside it is heard. jax.config.update sets it, but only before the
#   first device is asked for; after that it says False and nothing changes.
# Hurt: who times calls, or wants a program's memory on the main thread, measures the other way and
#   believes the difference to be none.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/env"
"$dir/env/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cd "$dir"
cat > called.py <<'PY'
import sys
import time

import jax

if sys.argv[1] == "before":
    jax.config.update("jax_cpu_enable_async_dispatch", False)
jax.devices()
if sys.argv[1] == "behind":
    jax.config.update("jax_cpu_enable_async_dispatch", False)
x = jax.numpy.ones((1500, 1500))
work = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, y: y @ x * 1e-3, x))
work(x).block_until_ready()
start = time.perf_counter()
result = work(x)
called = time.perf_counter() - start
result.block_until_ready()
share = called / (time.perf_counter() - start)
option = jax.config.read("jax_cpu_enable_async_dispatch")
is_64 = jax.config.read("jax_enable_x64")
print(f"{sys.argv[1]}: option {option}, 64 bits {is_64}, the call has {share:.0%} of the time")
expected = {"variable": (True, False), "before": (False, True), "behind": (False, False)}[sys.argv[1]]
assert (option, share > 0.5) == expected and is_64 == (sys.argv[1] == "variable"), "no longer so"
PY
export JAX_PLATFORMS=cpu
env/bin/python -c "import jax; print('jax', jax.__version__)"
JAX_CPU_ENABLE_ASYNC_DISPATCH=0 JAX_ENABLE_X64=1 env/bin/python called.py variable
env/bin/python called.py before
env/bin/python called.py behind
