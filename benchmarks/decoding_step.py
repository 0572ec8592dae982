"""What a step of decoding takes on this CPU: its products, its draws, its reading of caches.

    python benchmarks/decoding_step.py [--rows=400] [--positions=48] [--rounds=5]

GPT-2's small size, float32, random numbers. Each line is a compiled loop that does one thing as
often as a step does, all in one process and in turns; printed are milliseconds of processor time
for a step, the median over rounds with the least and the most. What decoding does on a CPU comes
last each time:

- products take a layer's matrices off their stacks, or choose among arrays of their own;
- draws are of all rows at once, or of a few at a time;
- attention reads the caches as slices of one array in a loop over layers, as on other devices; as
  arrays of their own, layer after layer; or as arrays of their own that a loop chooses among.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from detox_jax.generation import slots
from detox_jax.generation.sampling import TopPSampling
from detox_jax.parallel import mesh as meshes

_LAYERS, _HEADS, _HEAD, _WIDTH, _VOCABULARY = 12, 12, 64, 768, 50304
_STEPS = 3


def _normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def _attend(q_RHK: jax.Array, keys_RHMK: jax.Array, values_RHMK: jax.Array) -> jax.Array:
    scores_RHM = jnp.einsum("RHK,RHMK->RHM", q_RHK, keys_RHMK)
    return jnp.einsum("RHM,RHMK->RHK", jax.nn.softmax(scores_RHM), values_RHMK)


def attentions(rows: int, positions: int) -> dict[str, tuple[Callable[..., Any], Any, Any]]:
    """One step's attention of all layers, by how it gets at the caches; a query, and the caches."""
    q_RHK = _normal(rows, _HEADS, _HEAD)
    stacked = _normal(_LAYERS, rows, _HEADS, positions, _HEAD)
    apart = [jnp.array(layer) for layer in stacked]

    def in_a_loop(q_RHK: jax.Array, cache: jax.Array) -> jax.Array:
        def layer(n: Any, q_RHK: jax.Array) -> jax.Array:
            part = jax.lax.dynamic_index_in_dim(cache, n, keepdims=False)
            return q_RHK + _attend(q_RHK, part, part)

        return jax.lax.fori_loop(0, _LAYERS, layer, q_RHK)

    def one_by_one(q_RHK: jax.Array, caches: list[jax.Array]) -> jax.Array:
        for part in caches:
            q_RHK = q_RHK + _attend(q_RHK, part, part)
        return q_RHK

    def chosen(q_RHK: jax.Array, caches: list[jax.Array]) -> jax.Array:
        def layer(n: Any, q_RHK: jax.Array) -> jax.Array:
            branches = [lambda q, part=part: _attend(q, part, part) for part in caches]
            return q_RHK + jax.lax.switch(n, branches, q_RHK)

        return jax.lax.fori_loop(0, _LAYERS, layer, q_RHK)

    return {
        "attention, slices of one array in a loop": (in_a_loop, q_RHK, stacked),
        "attention, arrays of their own one by one": (one_by_one, q_RHK, apart),
        "attention, arrays of their own chosen in a loop": (chosen, q_RHK, apart),
    }


def products(rows: int) -> dict[str, tuple[Callable[..., Any], Any, Any]]:
    """All products with weights, the logits' included, by how a layer gets at its matrices."""
    sizes = (*[(_WIDTH, _WIDTH)] * 4, (_WIDTH, 4 * _WIDTH), (4 * _WIDTH, _WIDTH))
    stacked = [_normal(_LAYERS, *size) * size[0] ** -0.5 for size in sizes]
    apart = [tuple(jnp.array(matrix.T) for matrix in stack) for stack in stacked]
    table_VD = _normal(_VOCABULARY, _WIDTH)

    def of_layers(
        times: Callable[[jax.Array, Any, Any], jax.Array], x_RD: jax.Array, weights: Any
    ) -> jax.Array:
        matrices, table_VD = weights

        def layer(n: Any, x_RD: jax.Array) -> jax.Array:
            query, key, value, out, up, down = matrices
            h_RD = sum(times(x_RD, each, n) for each in (query, key, value))
            return times(times(times(h_RD, out, n), up, n), down, n)

        x_RD = jax.lax.fori_loop(0, _LAYERS, layer, x_RD)
        return x_RD + jnp.max(x_RD @ table_VD.T, axis=-1, keepdims=True) * 1e-9

    def sliced(x: jax.Array, stack: jax.Array, n: Any) -> jax.Array:
        return x @ jax.lax.dynamic_index_in_dim(stack, n, keepdims=False)

    def chosen(x: jax.Array, matrices: tuple[jax.Array, ...], n: Any) -> jax.Array:
        ways = [lambda x, m=m: jnp.einsum("ri,oi->ro", x, m) for m in matrices]
        return jax.lax.switch(n, ways, x)

    x_RD = _normal(rows, _WIDTH)
    return {
        "products, slices of stacks in a loop": (
            functools.partial(of_layers, sliced),
            x_RD,
            (stacked, table_VD),
        ),
        "products, matrices of their own chosen in a loop": (
            functools.partial(of_layers, chosen),
            x_RD,
            (apart, table_VD),
        ),
    }


def draws(rows: int) -> dict[str, tuple[Callable[..., Any], Any, Any]]:
    """A token of each row, from a nucleus of 0.9."""
    keys_R = jax.random.split(jax.random.key(0), rows)
    sample = TopPSampling(0.9).sample

    def step(draw: Callable[..., jax.Array], logits_RV: jax.Array, keys_R: jax.Array) -> jax.Array:
        return logits_RV.at[0, 0].add(draw(logits_RV, keys_R)[0] * 1e-9)

    logits_RV = _normal(rows, _VOCABULARY) / 2
    ways = {
        "draws, all rows at once": sample,
        "draws, a few rows at a time": functools.partial(slots.drawn, sample),
    }
    return {name: (functools.partial(step, draw), logits_RV, keys_R) for name, draw in ways.items()}


def main() -> None:
    """Prints a line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--positions", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    meshes.all_devices()  # As the product starts them.
    works = {
        **products(flags.rows),
        **draws(flags.rows),
        **attentions(flags.rows, flags.positions),
    }
    programs = {}
    for name, (step, state, rest) in works.items():
        loop = jax.jit(
            lambda state, rest, step=step: jax.lax.fori_loop(
                0, _STEPS, lambda _, state: step(state, rest), state
            )
        )
        programs[name] = loop.lower(state, rest).compile(), state, rest
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(flags.rounds + 1):  # The first one warms up.
        for name, (program, state, rest) in programs.items():
            start = time.process_time()
            jax.block_until_ready(program(state, rest))
            if turn:
                taken[name].append((time.process_time() - start) / _STEPS * 1e3)
    for name, times in taken.items():
        print(f"{name}: {np.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f})")


if __name__ == "__main__":
    main()
