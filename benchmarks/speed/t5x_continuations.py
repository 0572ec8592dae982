"""Row: 25 continuations of 20 tokens for each of 16 prompts, beside T5X's `temperature_sample`."""

from __future__ import annotations

from typing import Any

from benchmarks.speed import continuations, gpt2, t5x
from benchmarks.speed.continuations import LENGTH, PROMPTS, SAMPLES, TOKENS
from benchmarks.speed.sides import Row, Side, Work, main

OURS = "ours, 256 rows as the verb"


def _infer(network: Any, params: Any) -> Work:
    return t5x.infer(network, params, gpt2.random_prompts(PROMPTS, LENGTH), SAMPLES, TOKENS)


ROW = Row(
    continuations.ROW.what,
    "tokens",
    {
        OURS: continuations.ROW.sides[OURS],
        "T5X": Side(lambda: _infer(*t5x.theirs())),
        "T5X, our network": Side(lambda: _infer(*t5x.ours())),
    },
)

if __name__ == "__main__":
    main(ROW)
