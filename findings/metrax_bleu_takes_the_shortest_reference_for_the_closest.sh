#!/usr/bin/env bash
# metrax's BLEU measures length against the shortest reference, not the closest one: broken-off answers go unpunished.
#
# Guess: metrax.BLEU with several references is BLEU as its docstring says: the brevity penalty's reference length is
#   the "closest length match for each prediction", as in sacrebleu and NLTK.
# Seen (google-metrax 0.2.4, jax 0.10.2): it is the shortest reference of each prediction, however long this is, so
#   that one short rewording among three takes the penalty away. Whole answers, a tenth of whose words are changed, have
#   0.67 in all three libraries; answers that break off at three quarters have 0.86, in sacrebleu and NLTK 0.62. With
#   one reference for each text, or references of one length, all three agree.
# Hurt: in detoxification by rewriting, where several people's rewordings of a toxic text are the references, BLEU says
#   whether the content is kept. A model that stops early, or leaves out half of what was said, beats one that says it
#   all, and a row of a table that was measured with another BLEU cannot be compared. Take sacrebleu.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet google-metrax==0.2.4 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 sacrebleu==2.6.0 \
  nltk==3.10.4
cd "$work"
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import random
from importlib import metadata

import metrax
import sacrebleu
from nltk.translate import bleu_score

print(*(f"{name} {metadata.version(name)}" for name in ("google-metrax", "sacrebleu", "nltk")))
TEXTS = 300
draw = random.Random(0)
words = [f"word{number}" for number in range(500)]


def reworded(text, share):
    return [draw.choice(words) if draw.random() < share else word for word in text]


# Three people's rewordings of each text: one short, two at length, as people differ.
long = [draw.choices(words, k=draw.randint(12, 20)) for _ in range(TEXTS)]
references = [[text[: len(text) // 3], reworded(text, 0.2), reworded(text, 0.2)] for text in long]
answers = {
    "whole, a tenth of the words changed": [reworded(text, 0.1) for text in long],
    "broken off at three quarters": [text[: round(len(text) * 0.75)] for text in long],
}
scores = {}
for name, texts in answers.items():
    joined = [" ".join(text) for text in texts]
    folded = [[" ".join(reference) for reference in row] for row in references]
    seen = metrax.BLEU.from_model_output(joined, folded)
    meant = sacrebleu.corpus_bleu(joined, list(zip(*folded)), tokenize="none", smooth_method="none", force=True)
    nltk = bleu_score.corpus_bleu(references, texts)
    print(f"{name}: metrax {float(seen.compute()):.3f}, sacrebleu {meant.score / 100:.3f}, NLTK {nltk:.3f};", end=" ")
    print(f"{int(seen.translation_length)} words against {int(seen.reference_length)}, by sacrebleu {meant.ref_len}")
    shortest = sum(min(map(len, row)) for row in references)
    assert abs(meant.score / 100 - nltk) < 1e-6 and seen.reference_length == shortest, "no longer so"
    scores[name] = float(seen.compute()), nltk
    one = metrax.BLEU.from_model_output(joined, [row[1:2] for row in folded])
    assert abs(float(one.compute()) - bleu_score.corpus_bleu([row[1:2] for row in references], texts)) < 1e-5
(whole, whole_meant), (broken, broken_meant) = scores.values()
assert abs(whole - whole_meant) < 1e-5 and whole_meant > broken_meant, "no longer so"
assert broken > broken_meant + 0.2 and broken > whole + 0.1, "no longer so"
P
