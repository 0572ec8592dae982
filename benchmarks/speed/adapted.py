"""Row: a training step of an adapter beside those of the whole model and of a LoRA."""

from __future__ import annotations

import functools

from benchmarks.speed.sides import Row, Side, main
from benchmarks.speed.training import LENGTH, ROWS, notes, ours

ROW = Row(
    f"training steps of {ROWS} x {LENGTH} tokens, adapter of 256",
    "tokens",
    {
        "ours, adapter 256": Side(functools.partial(ours, "adapter"), notes=notes),
        "ours, whole": Side(ours, notes=notes),
        "ours, LoRA 8": Side(functools.partial(ours, "lora"), notes=notes),
    },
)

if __name__ == "__main__":
    main(ROW)
