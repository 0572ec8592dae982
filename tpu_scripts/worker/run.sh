#!/usr/bin/env bash
# On a worker: ends what an earlier run left behind, then runs a command, once.
#
#   worker/run.sh RUN_ID COMMAND...
set -euo pipefail
run_id=$1
shift
root=$(cd "$(dirname "$0")/../.." && pwd)
state=$HOME/.detox_jax
mkdir -p "$state"

# gcloud repeats a command whose connection broke, but a worker that starts again alone never finds
# its peers: all start again together, under a new id.
mkdir "$state/$run_id" 2>/dev/null || {
  echo "the connection broke; run $run_id is not started twice" >&2
  exit 1
}

# A broken connection leaves its command running, and the command holds the TPU.
own_group=$(ps -o pgid= -p $$ | tr -d ' ')
group=$(cat "$state/group" 2>/dev/null || true)
if [ -n "$group" ] && [ "$group" != "$own_group" ] && kill -TERM -- "-$group" 2>/dev/null; then
  # A training that is told to end saves a step first.
  for ((waited = 0; waited < 60; waited++)); do
    kill -0 -- "-$group" 2>/dev/null || break
    sleep 1
  done
  kill -KILL -- "-$group" 2>/dev/null || true
fi
echo "$own_group" >"$state/group"

cd "$root"
# What an earlier run left on another worker does not take part in this one.
export DETOX_JAX_RUN="$run_id"
export PATH="$HOME/detox_jax_env/bin:$PATH"
exec "$@"
