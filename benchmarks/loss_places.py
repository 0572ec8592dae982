"""Training steps on this CPU by the places of a batch whose logits exist at once.

    python -m benchmarks.loss_places [--places=0,1024,256,64] [--blocks=16] [--rounds=5]

Two layers of width 256 over GPT-2's vocabulary, in float32; 0 stands for all places at once. What
exists at once is made in at most so many blocks of the vocabulary. The sides take turns in one
process. Printed for each batch: seconds a step, the median over rounds with the least and the most.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from unittest import mock

import numpy as np

from benchmarks.speed import gpt2, training
from detox_jax.models import transformer
from detox_jax.training import losses, step
from detox_jax.training.optimizer import AdamW

_BATCHES = ((8, 512), (32, 128))
_SIZES = {"emb_dim": 256, "num_heads": 4, "num_layers": 2, "mlp_dim": 1024}


def steps(rows: int, length: int, places: int, blocks: int) -> Callable[[], float]:
    """What takes one step a call, compiled, and returns its loss, in nats a token."""
    model, mesh, params = gpt2.ours(**_SIZES)
    optimizer = AdamW().transformation(total_steps=100)
    state = step.create_state(params, mesh, optimizer)
    batch = training.packed(gpt2.random_prompts(rows, length + 1))
    with (
        mock.patch.object(losses, "_PLACES_ON_CPU", places or rows * length),
        mock.patch.object(transformer, "MOST_BLOCKS", blocks),
    ):
        compiled = step.jit_train_step(model, optimizer, 0).lower(state, {}, batch).compile()
    held = [state]

    def take() -> float:
        held[0], metrics = compiled(held[0], {}, batch)
        return float(metrics["loss"])

    return take


def main() -> None:
    """Prints one line a batch and number of places."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--places", default="0,1024,256,64")
    parser.add_argument("--blocks", default="16")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    numbers = [list(map(int, each.split(","))) for each in (arguments.places, arguments.blocks)]
    for rows, length in _BATCHES:
        sides = {side: steps(rows, length, *side) for side in itertools.product(*numbers)}
        seconds: dict[tuple[int, ...], list[float]] = {side: [] for side in sides}
        for turn in range(arguments.rounds + 1):
            for side, take in sides.items():
                start = time.perf_counter()
                take()
                if turn:  # The first warms up.
                    seconds[side].append(time.perf_counter() - start)
        for (places, blocks), found in seconds.items():
            spread = f"({min(found):.2f} to {max(found):.2f})"
            print(
                f"{rows} x {length}, {places or 'all'} at once, at most {blocks} blocks: "
                f"{np.median(found):.2f} s {spread}"
            )


if __name__ == "__main__":
    main()
