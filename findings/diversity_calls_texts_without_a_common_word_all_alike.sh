#!/usr/bin/env bash
# Guess: diversity's homogenization_score (the mean ROUGE-L of all pairs; "higher = more homogeneous") is 1
#   for texts that are all the same and 0 for texts that share no word.
# Seen (diversity 0.3.1, rouge-score 0.1.2): it is 1.0 for both. A sum of 0 is taken for the case "all
#   strings are the same" and replaced by 1 for each text. With one word shared by two of four texts the
#   score is 0.056.
# Hurt: a small set of short continuations that have no word in common, the most varied that there is, gets
#   the worst value of the scale, as if the model had collapsed onto one sentence; a mean over prompts takes
#   it up. Texts in a script other than Latin, which ROUGE's tokenizer drops whole, get 1.0 whatever they say.
#   Take a 1.0 for what it says only where two texts are equal.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# Its other modules need torch and an embedding model: this one is installed and read alone.
"$work/venv/bin/pip" install --quiet evaluate==0.4.6 rouge-score==0.1.2 numpy==2.4.6
"$work/venv/bin/pip" install --quiet --no-deps diversity==0.3.1
cd "$work"
"$work/venv/bin/python" - <<'P'
import importlib.util
import pathlib
from importlib.metadata import version

SETS = {
    "all the same": ["red apples fall"] * 4,
    "two of four share a word": ["red apples fall", "green pears hang", "old ships sail", "cold winds fall"],
    "no word in common": ["red apples fall", "green pears hang", "old ships sail", "cold winds blow"],
    "other words in Cyrillic": ["красные яблоки", "зеленые груши", "старые корабли", "холодный ветер"],
}
(package,) = importlib.util.find_spec("diversity").submodule_search_locations
spec = importlib.util.spec_from_file_location("homogenization", pathlib.Path(package, "homogenization.py"))
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(*(f"{name} {version(name)}" for name in ("diversity", "rouge-score")))
scores = {name: module.homogenization_score(texts, measure="rougel", verbose=False) for name, texts in SETS.items()}
for name, score in scores.items():
    print(f"{name}: {score}")
assert scores["all the same"] == 1.0 and 0 < scores["two of four share a word"] < 0.1
assert scores["no word in common"] == scores["other words in Cyrillic"] == 1.0, "no longer so"
P
