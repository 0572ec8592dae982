"""Row: 2,048 tokens of training as one row beside 16 rows of 128."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from benchmarks.speed import gpt2, training
from benchmarks.speed.sides import Row, Side, Work, main

STEPS = 4
SIZES = {
    "vocab_size": 8_192,
    "emb_dim": 256,
    "num_heads": 4,
    "num_layers": 4,
    "mlp_dim": 1024,
    "max_length": 2048,
}
_memory: dict[str, float] = {}


def _work(rows: int, length: int) -> Work:
    import jax

    from detox_jax.training import step
    from detox_jax.training.optimizer import AdamW

    model, mesh, params = gpt2.ours(**SIZES)
    optimizer = AdamW().transformation(total_steps=100)
    state = step.create_state(params, mesh, optimizer)
    tokens = np.random.default_rng(0).integers(5, 8_000, (rows, length + 1))
    batch = training.packed(tokens)
    compiled = step.jit_train_step(model, optimizer, 0).lower(state, {}, batch).compile()
    _memory["xla_mib"] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    held = [state]

    def work() -> float:
        for _ in range(STEPS):
            held[0], metrics = compiled(held[0], {}, batch)
        jax.block_until_ready(metrics)
        return float(STEPS * rows * length)

    return work


def _notes() -> Mapping[str, float]:
    return _memory


ROW = Row(
    "training steps of 2,048 tokens, 4 layers of width 256",
    "tokens",
    {
        "ours, 1 x 2048": Side(functools.partial(_work, 1, 2048), notes=_notes),
        "ours, 16 x 128": Side(functools.partial(_work, 16, 128), notes=_notes),
    },
)

if __name__ == "__main__":
    main(ROW)
