#!/usr/bin/env bash
# Guess: a program's own handler for SIGTERM, which signal.getsignal still returns, is called; or, where
#   jax.distributed has put its own in place, SIGTERM ends a process that never asks about preemption.
# Seen (jax 0.10.2): jax.distributed.initialize replaces the handler in C. signal.getsignal goes on
#   returning the Python one, which is never called again; and SIGTERM ends nothing: a loop that does not
#   call reached_preemption_sync_point runs on, until SIGKILL. A handler that Python sets afterwards is
#   called, and then JAX hears nothing: reached_preemption_sync_point stays False for ever.
# Hurt: a trainer of several processes that saves in a handler of its own saves nothing when it is
#   preempted, and a job that a scheduler ends with SIGTERM holds its machines for the whole grace period.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "jax==0.10.2" "jaxlib==0.10.2"
cat >"$work/one.py" <<'P'
import os
import signal
import socket
import sys
import time

import jax
from jax.experimental import multihost_utils

when = sys.argv[1]
called = []


def handler(number, frame):
    called.append(number)


if when == "before":
    signal.signal(signal.SIGTERM, handler)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
jax.distributed.initialize(f"127.0.0.1:{port}", 1, 0)
if when == "after":
    signal.signal(signal.SIGTERM, handler)
still = signal.getsignal(signal.SIGTERM) is handler
os.kill(os.getpid(), signal.SIGTERM)
reached = False
for step in range(1, 60):
    time.sleep(0.1)
    reached = reached or multihost_utils.reached_preemption_sync_point(step)
print("handler", when, "initialize: getsignal returns it:", still, "called:", bool(called),
      "sync point reached:", reached)
assert (still, bool(called), reached) == {
    "never": (False, False, True),
    "before": (True, False, True),
    "after": (True, True, False),
}[when]
P
cd "$work"
export JAX_PLATFORMS=cpu
"$work/venv/bin/python" -c 'import jax; print("jax", jax.__version__)'
for when in never before after; do
  "$work/venv/bin/python" one.py "$when" 2>/dev/null
done
echo "as found: JAX's handler for SIGTERM and Python's exclude each other, and getsignal names the wrong one"
