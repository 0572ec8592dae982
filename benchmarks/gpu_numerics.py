"""How exact products and attention are on a GPU: python -m benchmarks.gpu_numerics.

Prints relative errors: of a product of float32 arrays, by the precision that is asked for, against
float64; and of cuDNN's attention in bfloat16, its output and its gradients, against the formula in
float32 on the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from detox_jax.models import kernels

SIZE = 512
B, L, H, K = 4, 512, 8, 64


def relative(given: Any, exact: Any) -> float:
    """The norm of the difference over that of what is exact."""
    given, exact = (np.asarray(x, np.float64) for x in (given, exact))
    return float(np.linalg.norm(given - exact) / np.linalg.norm(exact))


def products(device: jax.Device) -> None:
    """Prints the errors of a product, by precision."""
    array = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)
    exact = array.astype(np.float64) @ array.astype(np.float64)
    on_device = jax.device_put(array, device)
    for precision in ("default", "highest"):
        with jax.default_matmul_precision(precision):
            error = relative(jax.jit(jnp.matmul)(on_device, on_device), exact)
        print(f"product of float32 arrays, precision {precision}: {error:.1e}")


def formula(segments_BL: np.ndarray | None, window: int | None) -> Callable[..., jax.Array]:
    """Causal attention as it is written."""
    query, key = np.arange(L)[:, None], np.arange(L)[None]
    mask = key <= query
    if window is not None:
        mask &= key > query - window
    mask_BLM = np.broadcast_to(mask, (B, L, L))
    if segments_BL is not None:
        mask_BLM = mask_BLM & (segments_BL[:, :, None] == segments_BL[:, None, :])

    def attend(q_BLHK: jax.Array, k_BLHK: jax.Array, v_BLHK: jax.Array) -> jax.Array:
        scores_BHLM = jnp.einsum("blhk,bmhk->bhlm", q_BLHK, k_BLHK) * K**-0.5
        masked_BHLM = jnp.where(mask_BLM[:, None], scores_BHLM, -1e30)
        return jnp.einsum("bhlm,bmhk->blhk", jax.nn.softmax(masked_BHLM), v_BLHK)

    return attend


def attention(gpu: jax.Device, cpu: jax.Device) -> None:
    """Prints the errors of cuDNN's attention, of whole rows, packed rows and windows."""
    rng = np.random.default_rng(1)
    arrays = [jnp.asarray(rng.normal(size=(B, L, H, K)), jnp.bfloat16) for _ in range(3)]
    segments_BL = np.sort(rng.integers(1, 6, size=(B, L)), axis=1).astype(np.int32)
    for packed in (None, segments_BL):
        for window in (None, L // 8):
            kernel, exact = kernels.Cudnn(K**-0.5, window), formula(packed, window)
            of_rows = None if packed is None else jnp.asarray(packed)

            def ours(*qkv: jax.Array, kernel: Any = kernel, of_rows: Any = of_rows) -> jax.Array:
                return kernel.attend(*qkv, of_rows).astype(jnp.float32)

            on_gpu = jax.device_put(arrays, gpu)
            on_cpu = jax.device_put([np.asarray(x, np.float32) for x in arrays], cpu)
            errors = [relative(jax.jit(ours)(*on_gpu), jax.jit(exact)(*on_cpu))]
            gradients = [
                jax.jit(jax.grad(lambda *qkv, of=of: (of(*qkv) ** 2).sum(), (0, 1, 2)))(*given)
                for of, given in ((ours, on_gpu), (exact, on_cpu))
            ]
            errors += map(relative, *gradients)
            said = f"packed {packed is not None}, window {window}"
            print(f"cuDNN, {said}: output and gradients", *(f"{error:.1e}" for error in errors))


def main() -> None:
    """Prints all of it, where there is a GPU."""
    if jax.default_backend() != "gpu":
        sys.exit("no GPU here: JAX runs on " + jax.default_backend())
    gpu, cpu = jax.devices()[0], jax.devices("cpu")[0]
    products(gpu)
    attention(gpu, cpu)


if __name__ == "__main__":
    main()
