"""How long a save holds up training: written before the next step, and behind it.

    python -m benchmarks.saves [--model=126m] [--rows=1] [--length=64] [--rounds=5] \
        [--directory=DIR]

Trains a model of random weights in one process. In each round the sides take turns, each from a
step that is wholly computed: the save, then the next step until its loss is there. Printed: seconds
of a step without a save, of a save and a step by side, and until the step behind which training
went on was written; medians, least and most.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from benchmarks.speed.training import packed
from benchmarks.step_memory import model_config
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import steps as saved
from detox_jax.checkpoints.background import BackgroundSaves
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.training import step as steps_lib
from detox_jax.training.optimizer import AdamW


def main() -> None:
    """Prints a line for each of what is measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="126m")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory")
    options = parser.parse_args()
    config = model_config(options.model)
    mesh = meshes.create_mesh({"data": 1}, meshes.all_devices()[:1])
    model, optimizer = TransformerLM(config), AdamW().transformation(total_steps=10_000)
    held = [steps_lib.init_trainable(model, mesh, optimizer, seed=0)]
    ids = np.random.default_rng(0).integers(1, 30_000, (options.rows, options.length + 1))
    batch = packed(ids)
    step_fn = steps_lib.jit_train_step(model, optimizer, 0)

    def train() -> None:
        held[0], metrics = step_fn(held[0], {}, batch)
        jax.block_until_ready(metrics)

    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> None:
        start = time.perf_counter()
        work()
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    def content() -> Any:
        return saved.content_of({"params": held[0].params, "opt_state": held[0].opt_state})

    number = 0
    train()  # compiles
    content()
    with tempfile.TemporaryDirectory(dir=options.directory) as root:
        before, behind = epath.Path(root) / "before", epath.Path(root) / "behind"
        with saved.manager(before, max_to_keep=1) as manager, BackgroundSaves(behind, 1) as saves:

            def save_before() -> None:
                state = held[0]
                arrays = {"params": state.params, "opt_state": state.opt_state}
                timed("hashes, of either save", content)
                timed("a save before the next step", lambda: saved.save(manager, number, arrays))
                timed("the step after it", train)

            def save_behind() -> None:
                start = time.perf_counter()
                timed("a save behind the next step", lambda: saves.save(number, content()))
                timed("the step while it is written", train)
                saves.wait()
                taken = time.perf_counter() - start
                seconds.setdefault("until it is written", []).append(taken)

            for turn in range(options.rounds):
                for side in (save_before, save_behind)[:: -1 if turn % 2 else 1]:
                    number += 1
                    timed("a step without a save", train)
                    side()
    total = params_lib.count(held[0].params)
    print(f"{total:,} parameters, {options.rows} rows of {options.length} tokens")
    for name, values in seconds.items():
        middle, least, most = statistics.median(values), min(values), max(values)
        print(f"{name}: {middle:.3f} s ({least:.3f} to {most:.3f})")


if __name__ == "__main__":
    main()
