#!/usr/bin/env bash
# Guess: gin.config_str() writes a configuration that, read again, is the one that was read: it is what
#   one saves beside results to repeat a run.
# Seen (gin-config 0.5.0): dicts come back with their keys sorted, since values go through
#   pprint.pformat. config_str and operative_config_str alike; they compare equal, so no check sees it.
# Hurt: who binds a dict whose order means something, {'first judge': ..., 'second': ...} or stages of
#   a pipeline: the saved file runs them in the order of the alphabet, and what took "the first one"
#   takes another.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "gin-config==0.5.0"
cd "$work"
"$work/venv/bin/python" - <<'P'
from importlib import metadata

import gin

print("gin-config", metadata.version("gin-config"))


@gin.configurable
def run(stages):
    return list(stages)


def read(text):
    gin.clear_config()
    gin.parse_config(text)
    return run(), dict(gin.query_parameter("run.stages"))


given = "run.stages = {'generate': 1, 'score': 2, 'filter': 3}"
first, stages = read(given)
saved, operative = gin.config_str(), gin.operative_config_str()
again, stages_again = read(saved)
print("given:", first, "read again:", again)
assert first == ["generate", "score", "filter"], first
assert again == ["filter", "generate", "score"], again
assert read(operative)[0] == again
assert stages == stages_again
print("as found: the order of a dict does not survive gin.config_str")
P
