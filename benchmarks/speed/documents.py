"""Row: self-generation, 32 documents of 256 tokens from nothing."""

from __future__ import annotations

from typing import Any

from benchmarks.speed import gpt2
from benchmarks.speed.sides import Row, Side, main

DOCUMENTS, TOKENS = 32, 256


def _prompts() -> Any:
    return gpt2.random_prompts(DOCUMENTS, 1)


ROW = Row(
    f"self-generation: {DOCUMENTS} documents of {TOKENS} tokens, nucleus 0.9",
    "tokens",
    {
        "ours": Side(lambda: gpt2.decode(_prompts(), 1, TOKENS, at_once=DOCUMENTS, bucket=1)),
        "transformers": Side(lambda: gpt2.generate(_prompts(), 1, TOKENS)),
    },
)

if __name__ == "__main__":
    main(ROW)
