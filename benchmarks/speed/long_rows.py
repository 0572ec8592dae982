"""Row: 2,048 tokens of training as one row beside 16 rows of 128."""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.speed import training
from benchmarks.speed.sides import Row, Side, main

SIZES: dict[str, Any] = {
    "vocab_size": 8_192,
    "emb_dim": 256,
    "num_heads": 4,
    "num_layers": 4,
    "mlp_dim": 1024,
    "max_length": 2048,
}

ROW = Row(
    "training steps of 2,048 tokens, 4 layers of width 256",
    "tokens",
    {
        "ours, 1 x 2048": Side(
            functools.partial(training.ours, batch=(1, 2048), **SIZES), notes=training.notes
        ),
        "ours, 16 x 128": Side(
            functools.partial(training.ours, batch=(16, 128), **SIZES), notes=training.notes
        ),
    },
)

if __name__ == "__main__":
    main(ROW)
