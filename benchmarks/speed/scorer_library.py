"""Row: the embedded scorer beside alt-profanity-check, called as libraries."""

from __future__ import annotations

from benchmarks.speed import comments
from benchmarks.speed.sides import Row, Side, Work, main

NUMBER = 100_000


def _ours() -> Work:
    from detox_jax.toxicity.ngram import NgramScorer

    scorer, texts = NgramScorer(), comments.texts(NUMBER)
    return lambda: float(len(scorer.score(texts)))


def _theirs() -> Work:
    import profanity_check

    texts = comments.texts(NUMBER)
    return lambda: float(len(profanity_check.predict_prob(texts)))


ROW = Row(
    f"embedded scorer, {NUMBER:,} comments, as a library",
    "texts",
    {"ours": Side(_ours), "alt-profanity-check": Side(_theirs)},
)

if __name__ == "__main__":
    main(ROW)
