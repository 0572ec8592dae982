"""Products in bfloat16 beside float32 on this CPU, under XLA's options that could make them quick.

    python benchmarks/bf16_products.py [--rounds=3] [--repeats=10]

The shapes are a training step's of 4 rows of 256 tokens at GPT-2's small size: into the MLP, out of
it, and into the logits. Options are read once a process, so each has one of its own, and they take
turns. Printed for each: the rate in bfloat16 as a multiple of that in float32 in the same process,
by processor seconds, median over rounds with the least and the most.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np

_SHAPES = {"into the MLP": (768, 3072), "out of it": (3072, 768), "logits": (768, 50257)}
_ROWS = 1024
_OPTIONS = (
    "",
    "--xla_cpu_experimental_onednn_custom_call=true",
    "--xla_cpu_experimental_onednn_fusion_type=LIBRARY_FUSION_TYPE_DOT",
    "--xla_cpu_experimental_xnn_fusion_type=LIBRARY_FUSION_TYPE_DOT",
    "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT",
    "--xla_cpu_max_isa=AVX512_BF16",
    "--xla_allow_excess_precision=false",
)


def measure(repeats: int) -> dict[str, float]:
    """Of each shape, bfloat16's rate over float32's."""
    import jax
    import jax.numpy as jnp

    found = {}
    for name, (inner, outer) in _SHAPES.items():
        seconds = {}
        for dtype in (jnp.float32, jnp.bfloat16):
            sizes = ((_ROWS, inner), (inner, outer))
            operands = [jax.random.normal(jax.random.key(0), size, dtype) for size in sizes]
            compiled = jax.jit(jnp.matmul).lower(*operands).compile()
            jax.block_until_ready(compiled(*operands))
            start = time.process_time()
            for _ in range(repeats):
                jax.block_until_ready(compiled(*operands))
            seconds[dtype] = time.process_time() - start
        found[name] = seconds[jnp.float32] / seconds[jnp.bfloat16]
    return found


def main() -> None:
    """Prints a line for each option."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.alone:
        print(json.dumps(measure(flags.repeats)))
        return
    ratios = {option: {name: [] for name in _SHAPES} for option in _OPTIONS}
    for _ in range(flags.rounds):
        for option in _OPTIONS:
            answer = subprocess.run(
                [sys.executable, __file__, "--alone", f"--repeats={flags.repeats}"],
                env={**os.environ, "XLA_FLAGS": option, "JAX_PLATFORMS": "cpu"},
                capture_output=True,
                text=True,
                check=True,
            )
            for name, ratio in json.loads(answer.stdout).items():
                ratios[option][name].append(ratio)
    for option in _OPTIONS:
        columns = [
            f"{name} {np.median(r):.2f} ({min(r):.2f} to {max(r):.2f})"
            for name, r in ratios[option].items()
        ]
        print(f"{option or 'none':70} {', '.join(columns)}", flush=True)


if __name__ == "__main__":
    main()
