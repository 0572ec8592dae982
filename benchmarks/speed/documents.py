"""Row: self-generation, 32 documents of 256 tokens from nothing."""

from __future__ import annotations

from benchmarks.speed import gpt2
from benchmarks.speed.sides import Row, Side, Work, main

DOCUMENTS, TOKENS = 32, 256


def _ours() -> Work:
    decoder = gpt2.decoder(TOKENS)
    prompts = gpt2.random_prompts(DOCUMENTS, 1).tolist()
    names = [str(n) for n in range(DOCUMENTS)]

    def work() -> float:
        groups = decoder(prompts, names, num_samples=1, num_rows=DOCUMENTS, bucket=1)
        return float(sum(len(group[0].tokens) for group in groups))

    return work


def _theirs() -> Work:
    return gpt2.generate(gpt2.random_prompts(DOCUMENTS, 1), 1, TOKENS)


ROW = Row(
    f"self-generation: {DOCUMENTS} documents of {TOKENS} tokens, nucleus 0.9",
    "tokens",
    {"ours": Side(_ours), "transformers": Side(_theirs)},
)

if __name__ == "__main__":
    main(ROW)
