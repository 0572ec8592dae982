"""Row: the evaluation's workload on a GPU, 400 prompts, beside transformers."""

from __future__ import annotations

from benchmarks.speed import gpt2
from benchmarks.speed.sides import Row, Side, Work, main

PROMPTS, LENGTH, SAMPLES, TOKENS, AT_ONCE = 400, 12, 25, 20, 80


def _ours(dtype: str) -> Work:
    prompts = gpt2.random_prompts(PROMPTS, LENGTH)
    return gpt2.decode(prompts, SAMPLES, TOKENS, at_once=AT_ONCE, bucket=16, dtype=dtype)


def _theirs(dtype: str) -> Work:
    prompts = gpt2.random_prompts(PROMPTS, LENGTH)
    return gpt2.generate(prompts, SAMPLES, TOKENS, device="cuda", dtype=dtype, at_once=AT_ONCE)


ROW = Row(
    f"{PROMPTS} prompts x {SAMPLES} continuations of {TOKENS} tokens on a GPU, {AT_ONCE} prompts "
    "at once, bfloat16",
    "tokens",
    {
        "ours": Side(lambda: _ours("bfloat16")),
        "transformers": Side(lambda: _theirs("bfloat16")),
        "ours, float32": Side(lambda: _ours("float32")),
        "transformers, float32": Side(lambda: _theirs("float32")),
    },
)

if __name__ == "__main__":
    main(ROW)
