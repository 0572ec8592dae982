#!/usr/bin/env bash
# textdescriptives' perplexity is lowest for words that nobody knows, and per_word_perplexity grows with the length.
#
# Guess: information_theory's perplexity is high where a text has rare words, "highly surprising text" that one filters
#   as incoherent, and per_word_perplexity, "the length-normalized perplexity", does not depend on the length.
# Seen (textdescriptives 2.8.4, spacy 3.8.18, spacy-lookups-data 1.0.5): it is exp of the sum of -p log p over the words
#   of the text, where p is a word's own frequency in English. A word that is not in the table (p = e**-20) adds
#   nothing: five made-up words have 1.0, the least there is, and eight times "the" have twice as much. A sentence of
#   ten words said once has 1.6, twenty times 12,218, and 56 "per word"; the mean surprise per word is one for both.
# Hurt: whoever keeps texts or continuations of low perplexity keeps gibberish, misspelt and foreign words, and drops
#   long texts in plain words; a model that collapses into noise looks more fluent, and figures of texts of different
#   lengths cannot be compared. exp(-mean(token.prob)) is the perplexity under that table.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet textdescriptives==2.8.4 spacy==3.8.18 spacy-lookups-data==1.0.5 numpy==1.26.4
cd "$work"
"$work/venv/bin/python" - <<'P'
from importlib import metadata

import numpy as np
import spacy
import textdescriptives

print(*(f"{name} {metadata.version(name)}" for name in ("textdescriptives", "spacy", "spacy-lookups-data")))
nlp = spacy.blank("en")
nlp.add_pipe("textdescriptives/information_theory")
SENTENCE = "She bought bread and milk and went to the house."
TEXTS = {
    "made-up words": "qwxz vbrk plmt zzgh trkk",
    "a plain sentence": "She bought bread and milk.",
    "one word eight times": " ".join(["the"] * 8),
    "a sentence once": SENTENCE,
    "a sentence five times": " ".join([SENTENCE] * 5),
    "a sentence twenty times": " ".join([SENTENCE] * 20),
}
seen = {}
for name, text in TEXTS.items():
    doc = nlp(text)
    surprise = -np.mean([token.prob for token in doc], dtype=np.float64)
    seen[name] = doc._.perplexity, doc._.per_word_perplexity, np.exp(surprise)
    whole, per_word, expected = seen[name]
    print(f"{name}: perplexity {whole:.4g}, per word {per_word:.4g}, exp(mean surprise) {expected:.4g}")
made_up, plain, the, once, five, twenty = seen.values()
assert made_up[0] < 1.001 < plain[0] < the[0] and the[2] < plain[2] < made_up[2], "no longer so"
assert np.isclose(once[2], twenty[2]), "no longer so"
assert twenty[0] > 1000 * five[0] and twenty[1] > 100 * once[1], "no longer so"
print("as found")
P
