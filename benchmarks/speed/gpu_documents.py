"""Row: self-generation on a GPU, 512 documents of 256 tokens at once, beside transformers."""

from __future__ import annotations

from benchmarks.speed import gpt2
from benchmarks.speed.sides import Row, Side, Work, main

DOCUMENTS, TOKENS = 512, 256


def _ours() -> Work:
    decoder = gpt2.decoder(TOKENS, dtype="bfloat16")
    prompts = gpt2.random_prompts(DOCUMENTS, 1).tolist()
    names = [str(n) for n in range(DOCUMENTS)]

    def work() -> float:
        groups = decoder(prompts, names, num_samples=1, num_rows=DOCUMENTS, bucket=1)
        return float(sum(len(group[0].tokens) for group in groups))

    return work


def _theirs() -> Work:
    prompts = gpt2.random_prompts(DOCUMENTS, 1)
    return gpt2.generate(prompts, 1, TOKENS, device="cuda", dtype="bfloat16")


ROW = Row(
    f"self-generation on a GPU: {DOCUMENTS} documents of {TOKENS} tokens, nucleus 0.9, bfloat16",
    "tokens",
    {"ours": Side(_ours), "transformers": Side(_theirs)},
)

if __name__ == "__main__":
    main(ROW)
