"""Row: training steps of the demo's base (`gin_configs/models/tiny.gin`) beside torch.

Beside ours also stands ours without `training.host_memory`: what a step frees then goes back to the
kernel, and the next step's memory is made of new pages (`pages_per_step`).
"""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.speed import training
from benchmarks.speed.sides import Row, Side, main

SIZES = {
    "vocab_size": 2048,
    "emb_dim": 128,
    "num_heads": 4,
    "num_layers": 2,
    "mlp_dim": 512,
    "max_length": 128,
}
ROWS, LENGTH = 16, 128
SETTINGS: dict[str, Any] = {"batch": (ROWS, LENGTH), "num_steps": 100, **SIZES}
GIVEN_BACK = "ours, memory given back"

ROW = Row(
    f"training steps of {ROWS} x {LENGTH} tokens, 2 layers of width 128",
    "tokens",
    {
        "ours": Side(functools.partial(training.ours, **SETTINGS), notes=training.notes),
        GIVEN_BACK: Side(
            functools.partial(training.ours, keeps=False, **SETTINGS), notes=training.notes
        ),
        "torch, fused AdamW": Side(functools.partial(training.theirs, **SETTINGS)),
    },
)

if __name__ == "__main__":
    main(ROW)
