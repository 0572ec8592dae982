#!/usr/bin/env bash
# huggingface_hub writes a NumPy number of an EvalResult as a Python object, and cannot read its own card again.
#
# Guess: EvalResult(metric_value=scores.mean()) stands in a model card's model-index as a number; np.float64 is a
#   Python float after all.
# Seen (huggingface_hub 2.4.0, numpy 2.4.6): ModelCard.save writes README.md without a word, with
#   "!!python/object/apply:numpy..." and base64 in place of the number. ModelCard.load of that file raises yaml's
#   ConstructorError, as does yaml.safe_load. np.float32 and np.int64 likewise.
# Hurt: a mean that NumPy took is the ordinary case. The card of the model just trained is written, and ends
#   whatever reads it later: its scores are in no index, and the next card or metadata_update that starts
#   from it fails far from the line that did it. Write float(...).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet huggingface_hub==2.4.0 numpy==2.4.6 jinja2==3.1.6
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'P'
import pathlib
from importlib import metadata

import huggingface_hub as hub
import numpy as np
import yaml

print(*(f"{name} {metadata.version(name)}" for name in ("huggingface_hub", "numpy", "pyyaml")))
for value in (0.25, np.float64(0.25), np.float32(0.25), np.int64(3)):
    result = hub.EvalResult(
        task_type="text-generation", dataset_type="prompts", dataset_name="prompts",
        metric_type="expected_maximum_toxicity", metric_value=value,
    )
    data = hub.ModelCardData(model_name="detoxified", eval_results=[result])
    card = hub.ModelCard("---\nlicense: mit\n---\n# detoxified\n")
    card.data = data
    card.save("README.md")
    text = pathlib.Path("README.md").read_text()
    line = next(line.strip() for line in text.splitlines() if line.strip().startswith("value:"))
    try:
        again = hub.ModelCard.load("README.md").data.eval_results[0].metric_value
    except yaml.constructor.ConstructorError:
        again = "ConstructorError"
    print(f"{type(value).__name__}: {line!r}, read again: {again}")
    if type(value) is float:
        assert again == value
    else:
        assert "!!python/object" in line and again == "ConstructorError", "no longer so"
print("as found")
P
