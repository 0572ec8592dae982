#!/usr/bin/env bash
# datasets' from_list and from_generator keep only the fields of the first row, and say nothing of the others.
#
# Guess: Dataset.from_list(rows) has every field that some row has, with None where a row lacks it, as reading the same
#   rows from JSON Lines gives.
# Seen (datasets 5.2.0, pyarrow 26.0.1): the first row decides. A field that it lacks is gone from all rows, though
#   99 of 100 have it. from_generator does the same, and load_dataset("json") of the very same rows keeps it.
# Hurt: where a scorer gave nothing for the first text (a failed request, an empty text), the toxicity of all others
#   is dropped; so is an optional "prompt", "system" or "margin" of pairs, which a trainer then takes for pairs
#   without. The rows that remain are valid. Write None into rows that lack a field: features= helps
#   from_generator, and makes from_list raise an error about a dataset_info.json.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/cache" "$work/venv/bin/python" -W error::UserWarning - <<'P' 2>errors || { cat errors; exit 1; }
import json
import pathlib
from importlib import metadata

import datasets

print(*(f"{name} {metadata.version(name)}" for name in ("datasets", "pyarrow")))
rows = [{"text": "a first text"}, *({"text": f"text {i}", "toxicity": i / 100} for i in range(1, 100))]
pathlib.Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
features = datasets.Features({"text": datasets.Value("string"), "toxicity": datasets.Value("float64")})
made = {
    "from_list": datasets.Dataset.from_list(rows),
    "from_generator": datasets.Dataset.from_generator(lambda: iter(rows)),
    "from_list, first row last": datasets.Dataset.from_list(rows[::-1]),
    "from_generator with features": datasets.Dataset.from_generator(lambda: iter(rows), features=features),
    "load_dataset('json')": datasets.load_dataset("json", data_files="rows.jsonl", split="train"),
}
scores = {}
for name, dataset in made.items():
    scores[name] = sum(row.get("toxicity") is not None for row in dataset)
    print(f"{name}: {len(dataset)} rows with {dataset.column_names}, {scores[name]} scores of 99")
assert scores.pop("from_list") == scores.pop("from_generator") == 0, "no longer so"
assert set(scores.values()) == {99}
print("as found")
P
