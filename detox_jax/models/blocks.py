"""Plain attention in causal blocks: scores that nobody sees, or no cache holds, are not made.

Why it exists: CPUs have no kernel, and the scores of plain attention are `B H L L` numbers, half of
which the causal mask hides. A block of queries sees the positions up to its last one, and scores
of others are not computed for it. Two callers need that. What only reads long inputs goes block by
block throughout. What trains keeps the value of plain attention bit by bit wherever no gradient is
asked for, and with a gradient makes the scores of a block anew on the way back: it neither keeps
all of them nor computes the half that is hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from detox_jax.models import kernels
from detox_jax.models.config import TransformerConfig

# Queries at once, and, since each block is compiled, how many blocks there are at most.
_BLOCK = 32
_BLOCKS = 16
# The same for gradients, whose products want larger blocks, and the length from which it pays.
_GRADIENT_BLOCK = 128
_GRADIENT_LENGTH = 256

Attend = Callable[..., jax.Array]


def reads_in_blocks(cfg: TransformerConfig, num_rows: int, length: int) -> bool:
    """Whether masked attention is better computed row by row and block by block.

    So it is on CPU, whose caches do not hold the scores of a whole batch.

    Args:
      cfg: of the model.
      num_rows: of the batch.
      length: of the input.
    """
    on_cpu = kernels.platform_in_use() == "cpu"
    return on_cpu and length > _BLOCK and not kernels.mesh_obstacles(cfg, num_rows)


def trains_in_blocks(cfg: TransformerConfig, num_rows: int, length: int) -> bool:
    """Whether the gradient of plain, causal attention is computed block by block.

    Args:
      cfg: `attention_kernel` decides: `blocks` always, `auto` for long rows on CPU.
      num_rows: of the batch.
      length: of the input.
    """
    if kernels.mesh_obstacles(cfg, num_rows):
        return False
    if cfg.attention_kernel == "auto":
        return kernels.platform_in_use() == "cpu" and length >= _GRADIENT_LENGTH
    return cfg.attention_kernel == "blocks" and length > 1


def in_blocks(
    attend: Attend,
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGK: jax.Array,
    mask_BLM: jax.Array,
    block: int = _BLOCK,
) -> jax.Array:
    """`attend` of one row and a few queries at a time, to the positions up to the last of them.

    Args:
      attend: takes queries `[1, l, H, K]`, keys and values `[1, m, G, K]` and a mask `[1, l, m]`.
      q_BLHK: queries.
      k_BLGK: keys.
      v_BLGK: values.
      mask_BLM: who sees whom; nobody sees what comes later.
      block: queries at once, or more of a long row.
    """

    def of_row(row: Any) -> jax.Array:
        q_LHK, k_LGK, v_LGK, mask_LM = row
        parts = []
        for start, end in _bounds(len(q_LHK), block):
            part = q_LHK[start:end], k_LGK[:end], v_LGK[:end], mask_LM[start:end, :end]
            parts.append(attend(*(x[None] for x in part))[0])
        return jnp.concatenate(parts)

    def on_device(*arrays: jax.Array) -> jax.Array:
        return jax.lax.map(of_row, arrays)

    return kernels.over_mesh(on_device, q_BLHK, k_BLGK, v_BLGK, visible=mask_BLM)


def with_gradient_in_blocks(
    attend: Attend, q_BLHK: jax.Array, k_BLGK: jax.Array, v_BLGK: jax.Array, mask_BLM: jax.Array
) -> jax.Array:
    """`attend` of all at once; where a gradient is asked for, row by row and block by block.

    Args:
      attend: as of `in_blocks`, of any number of rows.
      q_BLHK: queries.
      k_BLGK: keys.
      v_BLGK: values.
      mask_BLM: who sees whom, `B` may be 1; nobody sees what comes later.
    """

    @jax.custom_vjp
    def attended(*arrays: jax.Array) -> jax.Array:
        return attend(*arrays)

    def forward(*arrays: jax.Array) -> tuple[jax.Array, Any]:
        # A name by which rematerialisation saves it, as of a kernel's.
        out_BLHK = in_blocks(attend, *arrays, block=_GRADIENT_BLOCK)
        return checkpoint_name(out_BLHK, kernels.RESULTS), arrays

    def backward(arrays: Any, gradient_BLHK: jax.Array) -> Any:
        *inputs, mask_BLM = arrays

        def on_device(*arrays: jax.Array) -> Any:
            return jax.lax.map(lambda row: _row_gradients(attend, *row), arrays)

        return *kernels.over_mesh(on_device, *inputs, gradient_BLHK, visible=mask_BLM), None

    attended.defvjp(forward, backward)
    mask_BLM = jnp.broadcast_to(mask_BLM, (len(q_BLHK), *mask_BLM.shape[1:]))
    return attended(q_BLHK, k_BLGK, v_BLGK, mask_BLM)


def _row_gradients(
    attend: Attend,
    q_LHK: jax.Array,
    k_LGK: jax.Array,
    v_LGK: jax.Array,
    gradient_LHK: jax.Array,
    mask_LM: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of a row's queries, keys and values, summed over its blocks in float32."""
    sums = dtype_of_sums(k_LGK)
    dk_LGK, dv_LGK = jnp.zeros(k_LGK.shape, sums), jnp.zeros(v_LGK.shape, sums)
    dq_blocks = []
    for start, end in _bounds(len(q_LHK), _GRADIENT_BLOCK):
        mask_1LM = mask_LM[None, start:end, :end]

        def attended(*part: jax.Array, mask_1LM: jax.Array = mask_1LM) -> jax.Array:
            return attend(*(x[None] for x in part), mask_1LM)[0]

        _, pull = jax.vjp(attended, q_LHK[start:end], k_LGK[:end], v_LGK[:end])
        dq_block, dk_block, dv_block = pull(gradient_LHK[start:end])
        dq_blocks.append(dq_block)
        dk_LGK = dk_LGK.at[:end].add(dk_block.astype(sums))
        dv_LGK = dv_LGK.at[:end].add(dv_block.astype(sums))
    dq_LHK = jnp.concatenate(dq_blocks)
    return dq_LHK, dk_LGK.astype(k_LGK.dtype), dv_LGK.astype(v_LGK.dtype)


def dtype_of_sums(x: jax.Array) -> jnp.dtype:
    """For sums over parts of what is like `x`, which two bytes a number would round each time."""
    return x.dtype if x.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def _bounds(length: int, block: int) -> list[tuple[int, int]]:
    """Where blocks of queries start and end: of at least `block`, the last perhaps of less."""
    block = max(block, -(-length // _BLOCKS))
    return [(start, min(start + block, length)) for start in range(0, length, block)]
