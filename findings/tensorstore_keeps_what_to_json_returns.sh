#!/usr/bin/env bash
# tensorstore never gives back what `to_json` and its metrics return, so every Orbax save costs memory.
#
# Guess: what `Spec.to_json()` returns is an ordinary dict, which goes when nobody holds it; a process
#   that saves every few minutes for days keeps its size.
# Seen (tensorstore 0.1.86; 0.1.72, 0.1.78, 0.1.82 and 0.1.84 alike): the dict goes, its values do not.
#   Each `Spec.to_json()` of a small zarr array leaves 8 lists and about 2 KiB for good, each
#   `experimental_collect_matching_metrics` one list; Orbax 0.12.8 calls both for every array it
#   writes. A save of 60 small arrays left 48 lists and about 57 KiB (tracemalloc).
# Hurt: training that saves often grows by some 0.3 to 0.5 MiB a save; a leak that is looked for in
#   one's own loop is not there.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/env"
"$dir/env/bin/pip" install --quiet tensorstore==0.1.86 numpy==2.4.6
"$dir/env/bin/python" - <<'PY'
import gc
from importlib import metadata

import tensorstore as ts

print("tensorstore", metadata.version("tensorstore"))
spec = ts.Spec({
    "driver": "zarr",
    "kvstore": {"driver": "file", "path": "/nowhere/"},
    "metadata": {"shape": [4, 4], "chunks": [4, 4], "dtype": "<f4"},
})


def left(call, times=1000):
    call()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(times):
        call()
    gc.collect()
    return (len(gc.get_objects()) - before) / times


lists = left(spec.to_json)
metrics = left(lambda: ts.experimental_collect_matching_metrics("/tensorstore/"), 200)
print(f"objects left by a call: to_json {lists:.1f}, metrics {metrics:.1f}")
assert lists >= 4 and metrics >= 1, "no longer so"
PY
