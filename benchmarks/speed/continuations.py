"""Row: 25 continuations of 20 tokens for each of 16 prompts, the evaluation's workload."""

from __future__ import annotations

from benchmarks.speed import gpt2
from benchmarks.speed.sides import Row, Side, Work, main

PROMPTS, LENGTH, SAMPLES, TOKENS = 16, 12, 25, 20


def _ours(at_once: int) -> Work:
    prompts = gpt2.random_prompts(PROMPTS, LENGTH)
    return gpt2.decode(prompts, SAMPLES, TOKENS, at_once=at_once, bucket=16)


def _theirs() -> Work:
    return gpt2.generate(gpt2.random_prompts(PROMPTS, LENGTH), SAMPLES, TOKENS)


ROW = Row(
    f"{PROMPTS} prompts x {SAMPLES} continuations of {TOKENS} tokens, nucleus 0.9",
    "tokens",
    {
        "ours, 256 rows as the verb": Side(lambda: _ours(256 // SAMPLES)),
        "ours, one batch": Side(lambda: _ours(PROMPTS)),
        "transformers": Side(_theirs),
    },
)

if __name__ == "__main__":
    main(ROW)
