"""Row: self-generation, 32 documents of 256 tokens, beside T5X's `temperature_sample`."""

from __future__ import annotations

from typing import Any

from benchmarks.speed import documents, gpt2, t5x
from benchmarks.speed.documents import DOCUMENTS, TOKENS
from benchmarks.speed.sides import Row, Side, Work, main


def _infer(network: Any, params: Any) -> Work:
    return t5x.infer(network, params, gpt2.random_prompts(DOCUMENTS, 1), 1, TOKENS)


ROW = Row(
    documents.ROW.what,
    "tokens",
    {
        "ours": documents.ROW.sides["ours"],
        "T5X": Side(lambda: _infer(*t5x.theirs())),
        "T5X, our network": Side(lambda: _infer(*t5x.ours())),
        "T5X, no prefill": Side(lambda: t5x.from_nothing(*t5x.theirs(), DOCUMENTS, TOKENS)),
    },
)

if __name__ == "__main__":
    main(ROW)
