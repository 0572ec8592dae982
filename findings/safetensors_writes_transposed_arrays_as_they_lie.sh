#!/usr/bin/env bash
# safetensors.numpy writes a transposed array in the order of its memory, under the transposed shape.
#
# Guess: save_file({"weight": kernel.T}) writes the transpose, as it did; or refuses it, as
#   safetensors.torch refuses every tensor that is not contiguous.
# Seen (safetensors 0.8.0, numpy 2.4.6): neither. What is read again has the shape of the transpose and
#   the numbers of `kernel` in the order of its memory, and nothing is said; an array in Fortran's order
#   likewise. 0.7.0 wrote both as they are. The docstring asks for contiguous tensors in both versions;
#   what is new is that nothing makes them so.
# Hurt: the last step from JAX's kernels (in, out) to torch's weights (out, in) is this very .T. Names,
#   shapes and dtypes are right, the file loads everywhere, and the model's numbers are others.
#   transformers 5.24.0 asks for safetensors>=0.8.0, so an update of it brings this.
#   np.ascontiguousarray around every array helps.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6
cat > "$work/written.py" <<'P'
import json
import sys
from importlib import metadata

import numpy as np
from safetensors.numpy import load_file, save_file

kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
given = {
    "contiguous": kernel,
    "transposed": kernel.T,
    "fortran": np.asfortranarray(kernel),
    "copied": np.ascontiguousarray(kernel.T),
}
save_file(given, sys.argv[1])
read = load_file(sys.argv[1])
assert all(read[name].shape == array.shape for name, array in given.items())
same = {name: bool(np.array_equal(read[name], array)) for name, array in given.items()}
print("safetensors", metadata.version("safetensors"), "reads what was given:", same, file=sys.stderr)
print(json.dumps(same))
if not same["transposed"]:
    print(f"given\n{given['transposed']}\nread\n{read['transposed']}", file=sys.stderr)
P
cd "$work"
"$work/venv/bin/pip" install --quiet safetensors==0.7.0
before=$("$work/venv/bin/python" -W error written.py before.safetensors)
"$work/venv/bin/pip" install --quiet safetensors==0.8.0
now=$("$work/venv/bin/python" -W error written.py now.safetensors)
[ "$before" = '{"contiguous": true, "transposed": true, "fortran": true, "copied": true}' ]
[ "$now" = '{"contiguous": true, "transposed": false, "fortran": false, "copied": true}' ]
echo "as found: transposed arrays are written as they lie in memory"
