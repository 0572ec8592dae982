#!/usr/bin/env bash
# Orbax keeps a process for five minutes after a save whose directory could not be made.
#
# Guess: a process whose asynchronous save failed, and which says so and exits, is gone.
# Seen (orbax-checkpoint 0.12.8, jax 0.10.2, defaults): where the step's directory cannot be made (a full
#   disk, a quota of files), the error comes at once, and the process stays for 300 s more: the threads
#   that were to write into the directory wait for its signal, and Python for them. With
#   `AsyncOptions(create_directories_asynchronously=False)` it is gone at once.
# Hurt: a supervisor that runs the command again when it ends does so five minutes later, of which the
#   slice is paid for; a preempted machine's 30 seconds are over. Four tracebacks follow on stderr.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "orbax-checkpoint==0.12.8" "tensorstore==0.1.86" "jax==0.10.2" \
  "jaxlib==0.10.2"
cd "$work"
cat > save.py <<'P'
import errno
import os
import pathlib
import sys
import time

import jax
import orbax.checkpoint as ocp

root = pathlib.Path(sys.argv[2]).absolute()
mkdir = os.mkdir


def full(path, *rest, **more):
    if "2.orbax" in str(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return mkdir(path, *rest, **more)


options = ocp.AsyncOptions(create_directories_asynchronously=sys.argv[1] == "default")
manager = ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(async_options=options))
os.mkdir = full
try:
    manager.save(2, args=ocp.args.StandardSave({"w": jax.numpy.ones(9)}))
    manager.wait_until_finished()
except OSError as error:
    print("error:", error.strerror, flush=True)
    pathlib.Path("told").write_text(str(int(time.time())))
P
for how in default synchronous; do
  JAX_PLATFORMS=cpu "$work/venv/bin/python" save.py $how "$how" 2>/dev/null
  after=$(($(date +%s) - $(cat told)))
  echo "directories made as $how: the process ended $after s after its error"
  case $how in
    default) [ "$after" -ge 290 ] ;;
    synchronous) [ "$after" -lt 60 ] ;;
  esac
done
echo "as found: the error is told at once, and the process stays five minutes"
