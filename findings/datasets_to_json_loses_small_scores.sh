#!/usr/bin/env bash
# datasets' to_json writes scores with ten decimals: what is below is 0.0, and thresholds move.
#
# Guess: Dataset.to_json writes a float as Python's json does, shortest and exact, as to_csv and to_parquet keep it;
#   whoever scored a corpus can hand it on as JSON Lines.
# Seen (datasets 5.2.0, pandas 3.1.1): ten decimals, as pandas' to_json has by default: 3e-12 and 4.2e-11 are 0.0,
#   0.49999999999 is 0.5, 3.3333333333333337e-06 is 3.3333e-06. to_csv and to_parquet of the same table are exact.
# Hurt: a scorer's small probabilities are all equal to zero afterwards, so that "the least toxic half" of a clean
#   corpus is decided by ties, and a text below the threshold of 0.5 is toxic when it is read again. Hand scores on as
#   Parquet, or write the lines with json.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0 pandas==3.1.1 pyarrow==26.0.1
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work" "$work/venv/bin/python" - <<'P'
import json
from importlib import metadata

import datasets

datasets.disable_progress_bars()
print(*(f"{name} {metadata.version(name)}" for name in ("datasets", "pandas")))
scores = [3e-12, 4.2e-11, 0.49999999999, 0.1 + 0.2, 1e-5 / 3, 0.25]
table = datasets.Dataset.from_dict({"toxicity": scores})
table.to_json("scores.jsonl")
table.to_csv("scores.csv")
table.to_parquet("scores.parquet")
written = [json.loads(line)["toxicity"] for line in open("scores.jsonl")]
by_csv = datasets.Dataset.from_csv("scores.csv", cache_dir="cache")["toxicity"][:]
by_parquet = datasets.Dataset.from_parquet("scores.parquet", cache_dir="cache")["toxicity"][:]
for score, again in zip(scores, written):
    print(f"{score!r:24} {again!r:16} {'same' if score == again else 'changed'}")
print("csv same:", by_csv == scores, " parquet same:", by_parquet == scores)
assert written[:3] == [0.0, 0.0, 0.5] and written[-1] == 0.25, "no longer so"
assert by_csv == by_parquet == scores
print("below 0.5:", sum(s < 0.5 for s in scores), "before,", sum(s < 0.5 for s in written), "after")
print("as found")
P
