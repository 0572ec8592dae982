"""Row: the training step of 4 rows of 256 tokens in bfloat16 beside torch's autocast."""

from __future__ import annotations

import functools

from benchmarks.speed.sides import Row, Side, main
from benchmarks.speed.training import LENGTH, ROWS, notes, ours, theirs

ROW = Row(
    f"training steps of {ROWS} x {LENGTH} tokens, bfloat16",
    "tokens",
    {
        "ours, bfloat16": Side(functools.partial(ours, dtype="bfloat16"), notes=notes),
        "torch, bfloat16 autocast": Side(functools.partial(theirs, bf16=True)),
        "ours, float32": Side(ours, notes=notes),
    },
)

if __name__ == "__main__":
    main(ROW)
