"""Row: documents of very different lengths beside documents that all reach the limit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.speed import gpt2
from benchmarks.speed.sides import Row, Side, Work, main

DOCUMENTS, ROWS, TOKENS, STOPS = 128, 32, 256, 60
_row_steps: dict[str, float] = {}


def _ours(end_ids: tuple[int, ...], documents: int) -> Work:
    decoder = gpt2.decoder(TOKENS, end_ids)
    prompts = gpt2.random_prompts(documents, 1).tolist()
    names = [str(n) for n in range(documents)]

    def work() -> float:
        before = decoder.row_steps
        groups = decoder(prompts, names, num_samples=1, num_rows=ROWS, bucket=1)
        tokens = sum(len(group[0].tokens) for group in groups)
        _row_steps["row_steps_per_token"] = (decoder.row_steps - before) / tokens
        return float(tokens)

    return work


def _ragged() -> Work:
    # A random network draws nearly evenly, so one id in so many ends a text after as many tokens.
    ids = np.random.default_rng(1).permutation(np.arange(1, gpt2.VOCAB_SIZE))
    return _ours(tuple(ids[: gpt2.VOCAB_SIZE // STOPS].tolist()), DOCUMENTS)


def _notes() -> Mapping[str, float]:
    return _row_steps


ROW = Row(
    f"{DOCUMENTS} documents, {ROWS} at a time, each token the last with probability 1/{STOPS}, "
    f"at most {TOKENS}",
    "tokens",
    {
        "ours": Side(_ragged, notes=_notes),
        "ours, full rows": Side(lambda: _ours((0,), ROWS), notes=_notes),
    },
)

if __name__ == "__main__":
    main(ROW)
