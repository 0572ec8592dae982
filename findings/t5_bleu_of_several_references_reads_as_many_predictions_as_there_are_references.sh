#!/usr/bin/env bash
# t5's BLEU with four references a text reads the first four predictions only, against references of all texts.
#
# Guess: metrics.bleu(targets, predictions) takes a "list of list of strings if multiple references are present": for
#   each prediction its references, as seqio's evaluator hands over targets, and as squad and trivia_qa beside it
#   take theirs.
# Seen (t5 0.9.4, sacrebleu 2.6.0): the lists go to sacrebleu as they are, which wants one list for each reference and
#   stops at the shorter side. Of 200 texts with four references each, the figure is that of predictions 0
#   to 3, each measured against 200 references of other texts too. A model that is right in all texts and one that
#   writes one and the same word behind the fourth get the same BLEU, 100; sacrebleu gives 100 and 0.
#   One reference a text is measured right. t5's own test has as many texts as references, where nothing shows.
# Hurt: BLEU on a set with several references (simplification, paraphrase, detoxified rewrites) says nothing of
#   the model, and a change that spoils all but a handful of texts goes unseen. Transpose the targets first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet sacrebleu==2.6.0 rouge-score==0.1.2 scikit-learn==1.8.0 scipy==1.17.1 \
    numpy==2.4.6 editdistance==0.8.1 absl-py==2.5.1
"$work/venv/bin/pip" install --quiet --no-deps t5==0.9.4
cd "$work"
"$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import importlib.util
import random
import sys
import types
from importlib import metadata

import sacrebleu

# t5's __init__ loads TensorFlow and its data sets, which its metrics do not need.
package = types.ModuleType("t5")
package.__path__ = importlib.util.find_spec("t5").submodule_search_locations
sys.modules["t5"] = package
from t5.evaluation import metrics

print(*(f"{name} {metadata.version(name)}" for name in ("t5", "sacrebleu")))
TEXTS, REFERENCES = 200, 4
draw = random.Random(0)
words = [f"{first}{second}" for first in ("ba", "do", "ki", "lu", "me") for second in ("n", "r", "st", "ta", "vo", "x")]


def sentence():
    return " ".join(draw.choices(words, k=12))


targets = [[sentence() for _ in range(REFERENCES)] for _ in range(TEXTS)]
right = [draw.choice(references) for references in targets]
spoiled = [text if place < REFERENCES else "banana" for place, text in enumerate(right)]
right[:REFERENCES] = spoiled[:REFERENCES] = [targets[place][place] for place in range(REFERENCES)]
by_others = [targets[-1 - place][place] for place in range(REFERENCES)] + ["banana"] * (TEXTS - REFERENCES)


def both(predictions):
    streams = [list(stream) for stream in zip(*targets)]
    true = sacrebleu.corpus_bleu(predictions, streams, tokenize="intl").score
    return round(metrics.bleu(targets, predictions)["bleu"], 1), round(true, 1)


cases = {"all texts right": right, "all but four spoiled": spoiled, "four texts of others, the rest spoiled": by_others}
seen = {name: both(predictions) for name, predictions in cases.items()}
for name, (figure, true) in seen.items():
    print(f"{name}: t5 {figure}, sacrebleu {true}")
one = [references[0] for references in targets]
half = [text if place % 2 else sentence() for place, text in enumerate(one)]
single = metrics.bleu(one, half)["bleu"], sacrebleu.corpus_bleu(half, [one], tokenize="intl").score
print("one reference a text: t5 {:.1f}, sacrebleu {:.1f}".format(*single))
assert abs(single[0] - single[1]) < 1e-6 and 30 < single[0] < 70
assert seen["all texts right"][1] == 100 and all(true < 5 for _, true in list(seen.values())[1:])
assert all(figure == 100 for figure, _ in seen.values()), "no longer so"
P
