#!/usr/bin/env bash
# A stand-in for uv on a worker: an environment of the tests' own Python, a JAX that sees two chips,
# and a detox-jax that does what $FAKE_CLOUD/behaviour says.
set -euo pipefail
case "$*" in
  venv*)
    bin=${!#}/bin
    mkdir -p "$bin"
    printf '#!/bin/sh\nPYTHONPATH=%q exec %q "$@"\n' "$FAKE_CLOUD/python" "$FAKE_PYTHON" >"$bin/python"
    # shellcheck disable=SC2016  # to be expanded when it runs
    printf '#!/usr/bin/env bash\necho "$@" >>"$HOME/verbs"\n. %q\n' "$FAKE_CLOUD/behaviour" >"$bin/detox-jax"
    chmod +x "$bin/python" "$bin/detox-jax"
    ;;
  "pip freeze"*) cat "$FAKE_CLOUD/freeze-$WORKER_INDEX" 2>/dev/null || echo "jax==0.10.2" ;;
esac
