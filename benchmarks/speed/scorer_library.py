"""Row: the embedded scorer beside alt-profanity-check, called as libraries.

Neither has read any of the texts when the clock starts. Ours keeps what it made of runs of letters
that it has seen (`toxicity/ngram_runs.py`): read twice, these texts hold none that is new.
alt-profanity-check keeps nothing, its vectorizer reads every text anew.
"""

from __future__ import annotations

from benchmarks.speed import comments
from benchmarks.speed.sides import Row, Side, Work, main

NUMBER = 100_000
# Read before, by both sides, for what a first call imports and sets up.
FIRST = ["What a day it was."]


def _ours() -> Work:
    from detox_jax.toxicity.ngram import NgramScorer

    NgramScorer().score(FIRST)
    scorer, texts = NgramScorer(), comments.texts(NUMBER)
    return lambda: float(len(scorer.score(texts)))


def _theirs() -> Work:
    import profanity_check

    profanity_check.predict_prob(FIRST)
    texts = comments.texts(NUMBER)
    return lambda: float(len(profanity_check.predict_prob(texts)))


ROW = Row(
    f"embedded scorer, {NUMBER:,} labelled texts, each read for the first time, as a library",
    "texts",
    {"ours": Side(_ours, warm_up=False), "alt-profanity-check": Side(_theirs, warm_up=False)},
)

if __name__ == "__main__":
    main(ROW)
