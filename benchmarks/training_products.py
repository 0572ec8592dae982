"""Seconds that the products of a training step take alone on this CPU: the floor of `training`.

    python -m benchmarks.training_products [--repeats=9]

A step of 4 rows of 256 tokens at GPT-2's small size, in float32. Each product with a weight is made
three times, for the result and for the gradients of both operands, in the layouts of a step; scores
of attention once more on the way back. Every product is measured alone, the median of the repeats.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import gpt2, training
from detox_jax.models import transformer
from detox_jax.models.config import TransformerConfig

_PLACES = training.ROWS * training.LENGTH
_VOCAB = TransformerConfig(**gpt2.SIZES).padded_vocab_size
_BLOCKS = transformer.MOST_BLOCKS
# Inputs, outputs, and how many of them a step has.
_WEIGHTS = {
    "attention's projections": (gpt2.WIDTH, gpt2.WIDTH, 4 * gpt2.LAYERS),
    "into the MLP": (gpt2.WIDTH, 4 * gpt2.WIDTH, gpt2.LAYERS),
    "out of it": (4 * gpt2.WIDTH, gpt2.WIDTH, gpt2.LAYERS),
    "logits, in blocks": (gpt2.WIDTH, _VOCAB // _BLOCKS, _BLOCKS),
}
# Products of all heads, by what they sum over: scores, and gradients of weights; or weighted sums.
_HEADS = {"bhlk,bhmk->bhlm": 3, "bhlm,bhmk->bhlk": 2, "bhlm,bhlk->bhmk": 2}


def seconds(equation: str, shapes: list[tuple[int, ...]], repeats: int) -> float:
    """Of one product, once it is compiled."""
    keys = jax.random.split(jax.random.key(0), len(shapes))
    operands = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    product = jax.jit(lambda *operands: jnp.einsum(equation, *operands))
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(product(*operands))
        found.append(time.perf_counter() - start)
    return float(np.median(found[1:]))


def main() -> None:
    """Prints a line for each kind of product, and the sum."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    total = 0.0
    for name, (inputs, outputs, number) in _WEIGHTS.items():
        x, w, y = (_PLACES, inputs), (inputs, outputs), (_PLACES, outputs)
        one = sum(
            seconds(equation, shapes, repeats)
            for equation, shapes in (
                ("pi,io->po", [x, w]),
                ("po,io->pi", [y, w]),
                ("pi,po->io", [x, y]),
            )
        )
        rate = 6e-9 * _PLACES * inputs * outputs / one
        print(f"{name}: {number * one:.2f} s, {rate:.0f} GFLOP/s")
        total += number * one
    sizes = {"b": training.ROWS, "h": gpt2.HEADS, "k": gpt2.WIDTH // gpt2.HEADS}
    sizes |= dict.fromkeys("lm", training.LENGTH)
    heads = 0.0
    for equation, number in _HEADS.items():
        shapes = [tuple(sizes[axis] for axis in x) for x in equation.split("->")[0].split(",")]
        heads += gpt2.LAYERS * number * seconds(equation, shapes, repeats)
    print(f"heads: {heads:.2f} s, hidden positions included")
    print(f"all: {total + heads:.2f} s")


if __name__ == "__main__":
    main()
