#!/usr/bin/env bash
# JAX's multihost_utils take Python's and numpy's 64-bit numbers and give back 32 bits of them.
#
# Guess: process_allgather and broadcast_one_to_all, which take numpy arrays and return numpy arrays, give
#   back the numbers that they were given; assert_equal passes where all processes hold the same number, and
#   raises on all of them where they do not.
# Seen (jax 0.10.2, two processes): without jax_enable_x64 the numbers go through 32 bits, and nothing is
#   said. 3,000,000,000 comes back as -1,294,967,296, 2**40 + 7 as 7, a time in seconds is 41 s off.
#   assert_equal(0.1) and assert_equal(3_000_000_000) raise where both hold the same; of two
#   numbers that differ above bit 32 it raises in one process and passes in the other, which then waits.
# Hurt: sums of tokens and bytes over hosts are wrong from 2**31 on, which a corpus has; seeds, hashes and
#   positions in files that are broadcast are cut; the check that was to find hosts that differ lets the
#   first one go on into a collective that nobody joins. Send two halves, or bytes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cd "$work"
cat >one.py <<'P'
import json
import sys

import jax
import numpy as np

process, port = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
from jax.experimental import multihost_utils


def passes(value):
    try:
        multihost_utils.assert_equal(value)
    except AssertionError:
        return False
    return True


seen = {
    "tokens": multihost_utils.process_allgather(3_000_000_000).tolist(),
    "position": multihost_utils.broadcast_one_to_all(np.array([2**40 + 7])).tolist(),
    "seconds": multihost_utils.process_allgather(np.array(1_790_000_041.5)).tolist(),
    "small": multihost_utils.process_allgather(np.array(process)).tolist(),
    "same 7": passes(7),
    "same 0.1": passes(0.1),
    "same 3,000,000,000": passes(3_000_000_000),
    "5 and 6": passes(5 + process),
    "5 and 5 + 2**32": passes(5 + (process << 32)),
}
with open(f"seen{process}.json", "w") as file:
    json.dump(seen, file)
P
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export JAX_PLATFORMS=cpu
venv/bin/python -W default one.py 1 "$port" >said1 2>&1 &
venv/bin/python -W default one.py 0 "$port" >said0 2>&1 || { cat said0; exit 1; }
wait $! || { cat said1; exit 1; }
! grep --ignore-case --quiet "truncat\|overflow\|int64" said0 said1 || { cat said0; exit 1; }
venv/bin/python - <<'P'
import json
from importlib import metadata

print("jax", metadata.version("jax"))
seen = [json.load(open(f"seen{process}.json")) for process in (0, 1)]
for name in seen[0]:
    print(f"{name:20}", *(one[name] for one in seen))
for one in seen:
    assert one["small"] == [0, 1] and one["same 7"]
    assert one["tokens"] == [3_000_000_000 - 2**32] * 2, "no longer so"
    assert one["position"] == [7], "no longer so"
    assert all(abs(seconds - 1_790_000_041.5) > 30 for seconds in one["seconds"]), "no longer so"
    assert not one["same 0.1"] and not one["same 3,000,000,000"], "no longer so"
assert not seen[0]["5 and 6"] or not seen[1]["5 and 6"]
assert seen[0]["5 and 5 + 2**32"] and not seen[1]["5 and 5 + 2**32"], "no longer so"
print("as found: nothing was warned of")
P
