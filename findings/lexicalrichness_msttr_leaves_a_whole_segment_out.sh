#!/usr/bin/env bash
# lexicalrichness' msttr drops the last segment also where it is whole: of 200 words only 100 are read.
#
# Guess: LexicalRichness(text).msttr(segment_window=100) is the mean type-token ratio of all whole segments;
#   discard=True is about "the remaining segment", the last 5 of 105 words, and does nothing where there is no rest.
# Seen (lexicalrichness 0.5.1): the last segment goes, whatever its length. A text of 100 varied words and then 100
#   times one word has 0.88, as if it did not repeat itself; with one word more it has 0.45. discard=False gives 0.45.
# Hurt: continuations of a fixed number of words, as evaluations of language models have them, lose their last segment
#   all of them, and the last is where a model repeats itself. Of 200 words half is not looked at. Add a word, or say
#   discard=False where there is no rest.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet lexicalrichness==0.5.1
cd "$work"
"$work/venv/bin/python" - <<'P'
import random
from importlib import metadata

from lexicalrichness import LexicalRichness

print("lexicalrichness", metadata.version("lexicalrichness"))
draw = random.Random(0)
WORDS = ["word" + chr(97 + i // 26) + chr(97 + i % 26) for i in range(400)]
varied, same = [draw.choice(WORDS) for _ in range(100)], ["bread"] * 100


def ratio(words):
    return len(set(words)) / len(words)


mean = (ratio(varied) + ratio(same)) / 2
text = " ".join(varied + same)
found = LexicalRichness(text)
assert found.words == 200
seen = found.msttr(segment_window=100)
longer = LexicalRichness(text + " milk").msttr(segment_window=100)
kept = found.msttr(segment_window=100, discard=False)
print(f"mean of both segments: {mean:.3f}")
print(f"msttr of 200 words: {seen:.3f} - of 201 words: {longer:.3f} - with discard=False: {kept:.3f}")
assert seen == ratio(varied) and longer == kept == mean, "no longer so"
quarters = found.msttr(segment_window=50)
print(f"in segments of 50: {quarters:.3f}, the mean of the first three")
assert abs(quarters - (ratio(varied[:50]) + ratio(varied[50:]) + 1 / 50) / 3) < 1e-9, "no longer so"
print("as found")
P
