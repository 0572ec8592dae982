#!/usr/bin/env bash
# JAX's persistent compilation cache, copied or renamed, holds nothing: the directory's own path is
# part of every key.
#
# Guess: entries are found by program, options and versions, so that a cache can be made once, put
#   into an image or copied to the workers.
# Seen (jax 0.10.2, CPU): the same program in the copied directory is compiled again and written
#   beside the copied entry under another key. With JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES=none,
#   which keeps XLA's own caches (of GPUs) from being put below the directory, the copy is used.
# Hurt: whoever fills a cache while an image is built, and mounts it elsewhere, pays for all of it.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/env"
"$dir/env/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cd "$dir"
env/bin/python -c "import jax; print(\"jax\", jax.__version__)"
cat > compiled.py <<'PY'
import jax
hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
@jax.jit
def scaled(x):
    return x * 2.0
scaled(3.0)
print(len(hits))
PY
export JAX_PLATFORMS=cpu JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

hits() { JAX_COMPILATION_CACHE_DIR=$dir/$1 env/bin/python compiled.py; }
[ "$(hits made)" = 0 ]; [ "$(hits made)" -gt 0 ]
cp -r made copied
[ "$(hits copied)" = 0 ]
[ "$(ls copied/jit_scaled-*-cache | wc -l)" = 2 ]
echo "copied: no hit, and the same program is there twice"

export JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES=none
[ "$(hits other)" = 0 ]
cp -r other other-copied
[ "$(hits other-copied)" -gt 0 ]
echo "copied, without XLA's own caches: found"
