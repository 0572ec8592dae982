"""Plain attention in causal blocks: scores that nobody sees, or no cache holds, are not made.

Why it exists: CPUs have no kernel, and the scores of plain attention are `B H L L` numbers, half of
which the causal mask hides. A block of queries sees the positions up to its last one, and scores
of others are not computed for it. Two callers need that. What only reads long inputs goes block by
block throughout. What trains keeps the value of plain attention bit by bit wherever no gradient is
asked for, and with a gradient makes the scores of a block anew on the way back: it neither keeps
all of them nor computes the half that is hidden. What it keeps is each query's normaliser, by which
a weight is the exponential of a score less that, and no softmax is computed again (Dao et al.,
"FlashAttention", NeurIPS 2022, appendix B).

Dimensions beside those of `models/config.py`: Q queries of a block, of all heads of a group.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from detox_jax.models import kernels
from detox_jax.models.config import TransformerConfig
from detox_jax.models.layers import softcap

# Queries at once, and, since each block is compiled, how many blocks there are at most.
_BLOCK = 32
_BLOCKS = 16
# The same for gradients, whose products want larger blocks, and how many scores there are at once.
_GRADIENT_BLOCK = 128
_GRADIENT_SCORES = 12 << 20

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
      cfg: `attention_kernel` decides: `blocks` always, `auto` on CPU.
      num_rows: of the batch.
      length: of the input.
    """
    if length == 1 or kernels.mesh_obstacles(cfg, num_rows):
        return False
    if cfg.attention_kernel == "auto":
        return kernels.platform_in_use() == "cpu"
    return cfg.attention_kernel == "blocks"


def in_blocks(
    attend: Attend,
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGK: jax.Array,
    mask_BLM: jax.Array,
) -> jax.Array:
    """`attend` of one row and a few queries at a time, to the positions up to the last of them.

    Args:
      attend: takes queries `[1, l, H, K]`, keys and values `[1, m, G, K]` and a mask `[1, l, m]`.
      q_BLHK: queries.
      k_BLGK: keys.
      v_BLGK: values.
      mask_BLM: who sees whom; nobody sees what comes later.
    """

    def of_row(row: Any) -> jax.Array:
        q_LHK, k_LGK, v_LGK, mask_LM = row
        parts = []
        for start, end in _bounds(len(q_LHK), _BLOCK):
            part = q_LHK[start:end], k_LGK[:end], v_LGK[:end], mask_LM[start:end, :end]
            parts.append(attend(*(x[None] for x in part))[0])
        return jnp.concatenate(parts)

    def on_device(*arrays: jax.Array) -> jax.Array:
        return jax.lax.map(of_row, arrays)

    return kernels.over_mesh(on_device, q_BLHK, k_BLGK, v_BLGK, visible=mask_BLM)


@dataclasses.dataclass(frozen=True)
class Scores:
    """How scores come from products of queries and keys.

    Attributes:
      scale: what a product is multiplied by.
      cap: of what comes of it, see `layers.softcap`.
    """

    scale: float
    cap: float | None = None

    def of(self, products: jax.Array) -> jax.Array:
        """The scores; shape stays."""
        return softcap(products * self.scale, self.cap)

    def gradient(self, scores: jax.Array, gradient: jax.Array) -> jax.Array:
        """The gradient of the products, from that of the scores."""
        if self.cap is not None:
            gradient = gradient * (1 - jnp.square(scores / self.cap))
        return gradient * self.scale


def with_gradient_in_blocks(
    attend: Attend,
    scores: Scores,
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGK: jax.Array,
    mask_BLM: jax.Array,
) -> jax.Array:
    """`attend` of all at once; where a gradient is asked for, a few rows and a block at a time.

    Args:
      attend: as of `in_blocks`, of any number of rows.
      scores: those of `attend`.
      q_BLHK: queries.
      k_BLGK: keys.
      v_BLGK: values.
      mask_BLM: who sees whom, `B` may be 1; everybody sees itself, and nobody what comes later.
    """

    @jax.custom_vjp
    def attended(*arrays: jax.Array) -> jax.Array:
        return attend(*arrays)

    def forward(*arrays: jax.Array) -> tuple[jax.Array, Any]:
        *inputs, mask_BLM = arrays
        of_rows = _each_row(functools.partial(_row_values, scores))
        results = kernels.over_mesh(of_rows, *inputs, visible=mask_BLM)
        # A name by which rematerialisation saves them, as those of a kernel.
        out_BLHK, normalizer_BLH1 = checkpoint_name(results, kernels.RESULTS)
        return out_BLHK, (arrays, out_BLHK, normalizer_BLH1)

    def backward(kept: Any, gradient_BLHK: jax.Array) -> Any:
        (*inputs, mask_BLM), *results = kept
        of_rows = _each_row(functools.partial(_row_gradients, scores))
        arrays = (*inputs, *results, gradient_BLHK)
        return *kernels.over_mesh(of_rows, *arrays, visible=mask_BLM), None

    attended.defvjp(forward, backward)
    mask_BLM = jnp.broadcast_to(mask_BLM, (len(q_BLHK), *mask_BLM.shape[1:]))
    return attended(q_BLHK, k_BLGK, v_BLGK, mask_BLM)


def _each_row(of_row: Callable[..., Any]) -> Callable[..., Any]:
    """`of_row` of all rows, as many at a time as `_GRADIENT_SCORES` allows of a block's scores."""

    def of_rows(*arrays: jax.Array) -> Any:
        rows, length, heads = arrays[0].shape[:3]
        at_once = max(1, _GRADIENT_SCORES // (heads * min(_GRADIENT_BLOCK, length) * length))
        if rows <= at_once:
            return jax.vmap(of_row)(*arrays)
        return jax.lax.map(lambda row: of_row(*row), arrays, batch_size=at_once)

    return of_rows


def _row_values(
    scores: Scores, q_LHK: jax.Array, k_LGK: jax.Array, v_LGK: jax.Array, mask_LM: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The weighted values, `[L, H, K]`, and the logarithms of the sums of weights, `[L, H, 1]`."""
    G = k_LGK.shape[1]
    k_GLK, v_GLK = k_LGK.swapaxes(0, 1), v_LGK.swapaxes(0, 1)
    outs, normalizers = [], []
    for start, end in _bounds(len(q_LHK), _GRADIENT_BLOCK):
        q_GQK = _by_group(q_LHK[start:end], G)
        mask_QM = _of_heads(mask_LM[start:end, :end], q_GQK)
        scores_GQM = scores.of(_product("GQK,GMK->GQM", q_GQK, k_GLK[:, :end]))
        scores_GQM = jnp.where(mask_QM, scores_GQM, jnp.finfo(scores_GQM.dtype).min)
        largest_GQ1 = scores_GQM.max(-1, keepdims=True)
        weights_GQM = jnp.exp(scores_GQM - largest_GQ1)
        sum_GQ1 = weights_GQM.sum(-1, keepdims=True)
        weights_GQM = weights_GQM.astype(v_LGK.dtype)
        out_GQK = _product("GQM,GMK->GQK", weights_GQM, v_GLK[:, :end]) / sum_GQ1
        outs.append(_by_head(out_GQK, end - start))
        normalizers.append(_by_head(largest_GQ1 + jnp.log(sum_GQ1), end - start))
    return jnp.concatenate(outs).astype(q_LHK.dtype), jnp.concatenate(normalizers)


def _row_gradients(
    scores: Scores,
    q_LHK: jax.Array,
    k_LGK: jax.Array,
    v_LGK: jax.Array,
    out_LHK: jax.Array,
    normalizer_LH1: jax.Array,
    gradient_LHK: jax.Array,
    mask_LM: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of a row's queries, keys and values, summed over its blocks in float32."""
    G, sums = k_LGK.shape[1], dtype_of_sums(k_LGK)
    # By what all weights of a query move together, since their sum stays 1.
    shared_LH1 = jnp.sum(out_LHK.astype(sums) * gradient_LHK.astype(sums), -1, keepdims=True)
    k_GLK, v_GLK = k_LGK.swapaxes(0, 1), v_LGK.swapaxes(0, 1)
    dk_GLK, dv_GLK = jnp.zeros(k_GLK.shape, sums), jnp.zeros(v_GLK.shape, sums)
    dq_blocks = []
    for start, end in _bounds(len(q_LHK), _GRADIENT_BLOCK):
        of_queries = (q_LHK, gradient_LHK, normalizer_LH1, shared_LH1)
        q_GQK, g_GQK, normalizer_GQ1, shared_GQ1 = (_by_group(x[start:end], G) for x in of_queries)
        k_GMK, v_GMK = k_GLK[:, :end], v_GLK[:, :end]
        mask_QM = _of_heads(mask_LM[start:end, :end], q_GQK)
        scores_GQM = scores.of(_product("GQK,GMK->GQM", q_GQK, k_GMK))
        weights_GQM = jnp.where(mask_QM, jnp.exp(scores_GQM - normalizer_GQ1), 0)
        dweights_GQM = _product("GQK,GMK->GQM", g_GQK, v_GMK) - shared_GQ1
        dscores_GQM = scores.gradient(scores_GQM, weights_GQM * dweights_GQM).astype(q_LHK.dtype)
        weights_GQM = weights_GQM.astype(g_GQK.dtype)
        dq_GQK = _product("GQM,GMK->GQK", dscores_GQM, k_GMK)
        dq_blocks.append(_by_head(dq_GQK, end - start))
        dk_GLK = dk_GLK.at[:, :end].add(_product("GQM,GQK->GMK", dscores_GQM, q_GQK))
        dv_GLK = dv_GLK.at[:, :end].add(_product("GQM,GQK->GMK", weights_GQM, g_GQK))
    dk_LGK, dv_LGK = (x.swapaxes(0, 1).astype(k_LGK.dtype) for x in (dk_GLK, dv_GLK))
    return jnp.concatenate(dq_blocks).astype(q_LHK.dtype), dk_LGK, dv_LGK


def _product(axes: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(axes, x, y, preferred_element_type=dtype_of_sums(x))


def _by_group(x_LHK: jax.Array, groups: int) -> jax.Array:
    """What belongs to queries, by the group whose keys they meet: `[G, Q, K]`.

    Heads of a group stand one behind the other: products have one axis the less, and run faster.
    """
    L, H, K = x_LHK.shape
    return x_LHK.reshape(L, groups, H // groups, K).transpose(1, 2, 0, 3).reshape(groups, -1, K)


def _by_head(x_GQK: jax.Array, length: int) -> jax.Array:
    """The opposite, `[L, H, K]`, L being `length`."""
    G, _, K = x_GQK.shape
    return x_GQK.reshape(G, -1, length, K).transpose(2, 0, 1, 3).reshape(length, -1, K)


def _of_heads(mask_LM: jax.Array, q_GQK: jax.Array) -> jax.Array:
    """The mask of a block for all heads of a group, `[Q, M]`."""
    return jnp.tile(mask_LM, (q_GQK.shape[1] // len(mask_LM), 1))


def dtype_of_sums(x: jax.Array) -> jnp.dtype:
    """For sums over parts of what is like `x`, which two bytes a number would round each time."""
    return x.dtype if x.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def _bounds(length: int, block: int) -> list[tuple[int, int]]:
    """Where blocks of queries start and end: of at least `block`, the last perhaps of less."""
    block = max(block, -(-length // _BLOCKS))
    return [(start, min(start + block, length)) for start in range(0, length, block)]
