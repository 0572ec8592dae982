#!/usr/bin/env bash
# On a worker: the environment of requirements.lock, in ~/detox_jax_env, and one line of versions.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
lock=$root/tpu_scripts/requirements.lock
python=$HOME/detox_jax_env/bin/python
export PATH="$HOME/.local/bin:$PATH"

# The image's own Python is older than detox_jax allows; uv brings one.
command -v uv >/dev/null || python3 -m pip install --quiet --user uv==0.13.9
[ -x "$python" ] || uv venv --quiet --python 3.11 "$HOME/detox_jax_env"
uv pip sync --quiet --require-hashes --python "$python" "$lock"
uv pip install --quiet --python "$python" --no-deps --editable "$root"

archive_hash=$(sha256sum "$HOME/detox_jax.tar.gz" | cut -d' ' -f1)
lock_hash=$(sha256sum "$lock" | cut -d' ' -f1)
installed=$(uv pip freeze --python "$python" --exclude-editable | sha256sum | cut -d' ' -f1)
echo "versions: code=$archive_hash lock=$lock_hash installed=$installed" \
  "$("$python" --version)" "$(grep -oE '^(jax|libtpu)==[^ ]+' "$lock" | tr '\n' ' ')"
