"""Row: self-generation on a GPU, 512 documents of 256 tokens at once, beside transformers."""

from __future__ import annotations

from typing import Any

from benchmarks.speed import gpt2
from benchmarks.speed.sides import Row, Side, main

DOCUMENTS, TOKENS = 512, 256


def _prompts() -> Any:
    return gpt2.random_prompts(DOCUMENTS, 1)


ROW = Row(
    f"self-generation on a GPU: {DOCUMENTS} documents of {TOKENS} tokens, nucleus 0.9, bfloat16",
    "tokens",
    {
        "ours": Side(
            lambda: gpt2.decode(
                _prompts(), 1, TOKENS, at_once=DOCUMENTS, bucket=1, dtype="bfloat16"
            )
        ),
        "transformers": Side(
            lambda: gpt2.generate(_prompts(), 1, TOKENS, device="cuda", dtype="bfloat16")
        ),
    },
)

if __name__ == "__main__":
    main(ROW)
