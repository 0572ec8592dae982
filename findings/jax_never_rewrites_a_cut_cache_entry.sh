#!/usr/bin/env bash
# JAX's persistent compilation cache never mends what a kill has cut, and what it does then depends
# on whether it has a size limit.
#
# Guess: an entry that cannot be read is compiled again and written again; a missing time of use
#   counts as long ago.
# Seen (jax 0.10.2): without a limit the entry is compiled again in every run and never written
#   again, since a file of that name is there. With JAX_COMPILATION_CACHE_MAX_SIZE set, one entry
#   whose file -atime is missing, which is written behind the entry, keeps every new program from
#   being written, in every later run, with a warning each: nothing that is new is kept any more.
# Hurt: a preempted machine that keeps its cache on a shared disk compiles for ever what it has.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/env"
"$dir/env/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 filelock==3.20.0
cd "$dir"
env/bin/python -c "import jax; print(\"jax\", jax.__version__)"
cat > compiled.py <<'PY'
import sys
import jax
@jax.jit
def scaled(x):
    return x * float(sys.argv[1])
scaled(3.0)
PY
export JAX_PLATFORMS=cpu JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
unset JAX_COMPILATION_CACHE_MAX_SIZE

JAX_COMPILATION_CACHE_DIR=$dir/unbounded env/bin/python compiled.py 2
entry=$(ls unbounded/jit_scaled-*-cache)
truncate --size=100 "$entry"
for run in 1 2; do
    JAX_COMPILATION_CACHE_DIR=$dir/unbounded env/bin/python compiled.py 2 2> said
    grep --quiet "Error reading persistent compilation cache entry for 'jit_scaled'" said
    [ "$(stat --format=%s "$entry")" = 100 ]
done
echo "a cut entry was read twice, warned of twice, and is still cut"

export JAX_COMPILATION_CACHE_MAX_SIZE=1000000000
JAX_COMPILATION_CACHE_DIR=$dir/bounded env/bin/python compiled.py 2
rm bounded/jit_scaled-*-atime
for factor in 3 4; do
    JAX_COMPILATION_CACHE_DIR=$dir/bounded env/bin/python compiled.py $factor 2> said
    grep --quiet "Error writing persistent compilation cache entry for 'jit_scaled'" said
done
[ "$(ls bounded/jit_scaled-*-cache | wc -l)" = 1 ]
echo "one entry without a time: two new programs were compiled, none was kept"
