#!/usr/bin/env bash
# Guess: lexical_diversity's MTLD grows with the variety of a text; a text in which no word comes twice has
#   the highest value, or none.
# Seen (lexical-diversity 0.1.1): mtld is 0.0 for a text in which no word comes twice, as no factor ends in
#   it and the division by zero is answered with 0; mtld_ma_bid is 0.0 wherever the ratio of types never
#   falls below 0.72. A loop of one word has an mtld of 4 to 8. lexicalrichness 0.5.1 answers a text
#   without a repetition with its length.
# Hurt: continuations of 20 tokens often repeat no word. Each counts as less varied than a loop of one word,
#   so that a mean over continuations falls as a model repeats itself less. Drop the zeros and say how many
#   they were, or measure the joined texts.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet lexical-diversity==0.1.1 lexicalrichness==0.5.1
cd "$work"
"$work/venv/bin/python" - <<'P'
from importlib.metadata import version

from lexical_diversity import lex_div
from lexicalrichness import LexicalRichness

VARIED = "every morning he walked down towards that old bridge because nobody else would feed three hungry ducks there".split()
TEXTS = {
    "no word twice": VARIED,
    "one word twice": [*VARIED, "there"],
    "one word alone": ["there"] * len(VARIED),
}
print(*(f"{name} {version(name)}" for name in ("lexical-diversity", "lexicalrichness")))
mtld, moving = {}, {}
for name, words in TEXTS.items():
    mtld[name], moving[name] = lex_div.mtld(words), lex_div.mtld_ma_bid(words)
    other = LexicalRichness(" ".join(words)).mtld()
    print(f"{name}: mtld {mtld[name]:.1f}, mtld_ma_bid {moving[name]:.1f}, lexicalrichness {other:.1f}")
richness = LexicalRichness(" ".join(VARIED)).mtld()
assert len(set(VARIED)) == len(VARIED) == richness
assert mtld["no word twice"] == 0.0 < mtld["one word alone"] < 20 < mtld["one word twice"], "no longer so"
assert moving["no word twice"] == moving["one word twice"] == 0.0 < moving["one word alone"], "no longer so"
P
