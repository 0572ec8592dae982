"""Row: the evaluation's workload on a GPU, 400 prompts, beside transformers."""

from __future__ import annotations

from benchmarks.speed import gpt2
from benchmarks.speed.sides import Row, Side, Work, main

PROMPTS, LENGTH, SAMPLES, TOKENS, AT_ONCE = 400, 12, 25, 20, 80


def _ours(rows: int, dtype: str) -> Work:
    decoder = gpt2.decoder(TOKENS, dtype=dtype)
    prompts = gpt2.random_prompts(PROMPTS, LENGTH).tolist()
    names = [str(n) for n in range(PROMPTS)]

    def work() -> float:
        groups = decoder(prompts, names, num_samples=SAMPLES, num_rows=rows, bucket=16)
        return float(sum(len(sample.tokens) for group in groups for sample in group))

    return work


def _theirs(dtype: str) -> Work:
    prompts = gpt2.random_prompts(PROMPTS, LENGTH)
    return gpt2.generate(prompts, SAMPLES, TOKENS, device="cuda", dtype=dtype, at_once=AT_ONCE)


ROW = Row(
    f"{PROMPTS} prompts x {SAMPLES} continuations of {TOKENS} tokens on a GPU, {AT_ONCE} prompts "
    "at once, bfloat16",
    "tokens",
    {
        "ours": Side(lambda: _ours(AT_ONCE, "bfloat16")),
        "transformers": Side(lambda: _theirs("bfloat16")),
        "ours, float32": Side(lambda: _ours(AT_ONCE, "float32")),
        "transformers, float32": Side(lambda: _theirs("float32")),
    },
)

if __name__ == "__main__":
    main(ROW)
