"""Attention kernels: which one computes a call, and how each is called.

Training and prefill attend causally to their own input; a kernel computes that block by block and
never holds the scores of all pairs of positions. A decoding step, one position a row, is always
plain. Which kernel exists depends on the devices that the program is compiled for, which are those
of the mesh in use (`jax.set_mesh`) and not necessarily of this machine.

Why it exists: the scores of plain attention are `B H L L` numbers, written to memory and read again
in every layer, forward and backward; at the lengths of training they are most of what a step moves,
and a backward pass that keeps them is what runs out of memory first. The kernels are JAX's own
(Pallas for TPU, cuDNN for GPU); what is ours is to know when one may run, and to fit this model's
arrays to it. Four things must be known to change that. XLA splits what it compiles over devices,
but never the inside of a kernel: it runs in `shard_map`, on the rows and heads that a device has,
and where no mesh says how to split them there is none. Splash attention takes whole blocks, so rows
are padded behind their end, where a causal query never looks. What a kernel returns carries the
name `RESULTS`, the only handle by which a rematerialisation policy can save it. And a kernel that
was asked for by name is never replaced: it runs, or the user is told what stands against it.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import partitioning
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from detox_jax.errors import UserError
from detox_jax.models.config import TransformerConfig

# What rematerialisation may save of a kernel: its output, and the normalisers of its softmax.
RESULTS = "attention_kernel"
_OF_PLATFORM = {"tpu": "splash", "gpu": "cudnn"}
_QUERY_AXES = ("batch", "length", "heads", "kv")
LANES = 128  # Of a TPU's registers and of the tiles of arrays: splash attention's smallest block.
BLOCK = 512  # The largest.
_CUDNN_LARGEST_HEAD = 128  # 256 on Hopper and later.


def block_of(length: int) -> int:
    """The block of splash attention for rows of a length, which it pads to whole `LANES`."""
    return math.gcd(length + -length % LANES, BLOCK)


class Kernel(abc.ABC):
    """Causal attention of an input to itself, of any length."""

    def attend(
        self,
        q_BLHK: jax.Array,
        k_BLGK: jax.Array,
        v_BLGK: jax.Array,
        segment_ids_BL: jax.Array | None,
    ) -> jax.Array:
        """The weighted values, `[B, L, H, K]`; segments do not see each other.

        Args:
          q_BLHK: the queries.
          k_BLGK: the keys; each of the G groups serves `H / G` heads.
          v_BLGK: the values.
          segment_ids_BL: the number of the document that a position belongs to; None where a row
            is one document.
        """
        return over_mesh(self._on_device, q_BLHK, k_BLGK, v_BLGK, visible=segment_ids_BL)

    @abc.abstractmethod
    def _on_device(self, q_BLHK: Any, k_BLGK: Any, v_BLGK: Any, segment_ids_BL: Any) -> jax.Array:
        """`attend` of the rows and heads that one device has."""


@dataclasses.dataclass(frozen=True)
class Splash(Kernel):
    """Pallas splash attention, on TPU.

    Attributes:
      scale: what scores are multiplied by.
      window: positions that a query sees, its own included; all before it where None.
      cap: of the scores, see `layers.softcap`.
      interpret: run the kernel's program without a TPU, slowly.
    """

    scale: float
    window: int | None = None
    cap: float | None = None
    interpret: bool = False

    def _on_device(self, q_BLHK: Any, k_BLGK: Any, v_BLGK: Any, segment_ids_BL: Any) -> jax.Array:
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

        L, H = q_BLHK.shape[1:3]
        padding = -L % LANES  # Behind all queries, which are causal: none sees it.
        if segment_ids_BL is not None:
            ids_BL = jnp.pad(segment_ids_BL, ((0, 0), (0, padding)))
            segment_ids_BL = splash_attention_kernel.SegmentIds(q=ids_BL, kv=ids_BL)
        q_BLHK = (q_BLHK.astype(jnp.float32) * self.scale).astype(q_BLHK.dtype)

        def padded(x_BLHK: jax.Array) -> jax.Array:
            return jnp.pad(x_BLHK, ((0, 0), (0, padding), (0, 0), (0, 0))).swapaxes(1, 2)

        kernel = self._kernel(L + padding, H)
        out_BHLK = jax.vmap(kernel)(padded(q_BLHK), padded(k_BLGK), padded(v_BLGK), segment_ids_BL)
        return out_BHLK.swapaxes(1, 2)[:, :L].astype(q_BLHK.dtype)

    def _kernel(self, length: int, num_heads: int) -> Any:
        from jax.experimental.pallas.ops.tpu.splash_attention import (
            splash_attention_kernel,
            splash_attention_mask,
        )

        shape = (length, length)
        mask = splash_attention_mask.CausalMask(shape)
        if self.window is not None:
            mask = splash_attention_mask.LocalMask(shape, (self.window - 1, 0), offset=0)
        block = block_of(length)
        return splash_attention_kernel.make_splash_mha(
            splash_attention_mask.MultiHeadMask([mask] * num_heads),
            block_sizes=splash_attention_kernel.BlockSizes(
                block_q=block,
                block_kv=block,
                block_kv_compute=block,
                block_q_dkv=block,
                block_kv_dkv=block,
                block_kv_dkv_compute=block,
                block_q_dq=block,
                block_kv_dq=block,
            ),
            head_shards=1,
            q_seq_shards=1,
            attn_logits_soft_cap=self.cap,
            residual_checkpoint_name=RESULTS,
            interpret=self.interpret,
        )


@dataclasses.dataclass(frozen=True)
class Cudnn(Kernel):
    """cuDNN's flash attention, on GPU.

    Attributes:
      scale: what scores are multiplied by.
      window: positions that a query sees, its own included; all before it where None.
      implementation: of `jax.nn.dot_product_attention`; `xla` runs everywhere.
    """

    scale: float
    window: int | None = None
    implementation: str = "cudnn"

    def _on_device(self, q_BLHK: Any, k_BLGK: Any, v_BLGK: Any, segment_ids_BL: Any) -> jax.Array:
        mask_B1LM = None
        if segment_ids_BL is not None:
            mask_B1LM = (segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :])[:, None]
        implementation: Any = self.implementation
        out_BLHK = jax.nn.dot_product_attention(
            q_BLHK,
            k_BLGK,
            v_BLGK,
            mask=mask_B1LM,
            scale=self.scale,
            is_causal=True,
            local_window_size=None if self.window is None else (self.window - 1, 0),
            implementation=implementation,
        )
        return checkpoint_name(out_BLHK, RESULTS)


def choose(
    cfg: TransformerConfig, num_rows: int, length: int, *, causal: bool = True
) -> tuple[Kernel | None, str]:
    """The kernel of one call of the model, None for plain attention, and the reason.

    Args:
      cfg: `attention_kernel` says which one is wanted.
      num_rows: of the batch.
      length: of the input.
      causal: False where a part of the input is bidirectional.

    Raises:
      UserError: if the configuration names a kernel that cannot compute this.
    """
    wanted = cfg.attention_kernel
    if wanted == "plain":
        return None, "attention_kernel is 'plain'"
    if length == 1:
        return None, "there is one position a row"
    platform = platform_in_use()
    name = _OF_PLATFORM.get(platform) if wanted == "auto" else wanted
    if name is None:
        return None, f"{platform} has no kernel"
    anywhere = name == "blocks"  # plain attention, see `blocks`
    obstacles = [
        f"{name} attention does not run on {platform}"
        if not anywhere and _OF_PLATFORM.get(platform) != name
        else "",
        "" if causal else "part of the input is bidirectional",
        *mesh_obstacles(cfg, num_rows),
        *([] if anywhere else _shape_obstacles(cfg, name, length)),
    ]
    obstacle = next(filter(None, obstacles), None)
    if obstacle is None and anywhere:
        return None, "attention_kernel is 'blocks'"
    if obstacle is None:
        return _create(cfg, name, length), f"{name} attention for {platform}"
    if wanted == "auto":
        return None, obstacle
    raise UserError(
        f"TransformerConfig.attention_kernel is {wanted!r}, but {obstacle}; set it to 'auto'"
    )


def _create(cfg: TransformerConfig, name: str, length: int) -> Kernel:
    window = cfg.sliding_window if any(cfg.slides) else None
    window = None if window is None or window >= length else window
    if name == "splash":
        return Splash(cfg.attention_scale, window, cfg.attention_softcap)
    return Cudnn(cfg.attention_scale, window)


def _shape_obstacles(cfg: TransformerConfig, name: str, length: int) -> list[str]:
    """What of the architecture, or of the input's length, the kernel cannot compute."""
    obstacles = []
    if (cfg.sliding_window or length) < length and len(set(cfg.slides)) > 1:
        obstacles.append("some layers slide and others do not")
    if name == "splash" and length < LANES and cfg.attention_kernel == "auto":
        obstacles.append(f"a length of {length} is less than a block of {LANES}")
    if name == "cudnn":
        if cfg.attention_softcap is not None:
            obstacles.append("cudnn attention has no attention_softcap")
        if cfg.dtype != "bfloat16":
            obstacles.append(f"cudnn attention computes in bfloat16, and dtype is {cfg.dtype}")
        if cfg.head_size % 8 or cfg.head_size > _CUDNN_LARGEST_HEAD:
            obstacles.append(
                f"cudnn attention has heads of 8, 16, ... {_CUDNN_LARGEST_HEAD}, not "
                f"{cfg.head_size}"
            )
        if length % 2:
            obstacles.append(f"cudnn attention has even lengths, not {length}")
    return obstacles


def mesh_obstacles(cfg: TransformerConfig, num_rows: int) -> list[str]:
    """What of the mesh in use stands against running on each device's rows and heads alone."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        # XLA does not split a kernel over devices by itself, and nothing here says how.
        return ["no mesh says how to split it"] if jax.device_count() > 1 else []
    rows, _, heads, _ = _query_spec()
    parts = {name: _num_parts(mesh, axes) for name, axes in (("rows", rows), ("heads", heads))}
    if num_rows % parts["rows"]:
        return [f"{num_rows} rows are not divided by {parts['rows']} devices"]
    if cfg.kv_heads % parts["heads"]:
        return [f"{cfg.kv_heads} key-value heads are not divided by {parts['heads']} devices"]
    return []


def platform_in_use() -> str:
    """`tpu`, `gpu` or `cpu`: of the mesh in use, or else of this machine."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def is_one_cpu() -> bool:
    """Whether a single CPU device is in use."""
    return platform_in_use() == "cpu" and jax.sharding.get_abstract_mesh().size <= 1


def _query_spec() -> PartitionSpec:
    spec = partitioning.logical_to_mesh_axes(_QUERY_AXES)
    assert spec is not None
    return spec


def parts_of_rows() -> int:
    """Into how many parts the mesh in use splits the rows of a batch."""
    return _parts_of_queries(0)


def parts_of_heads() -> int:
    """Into how many parts the mesh in use splits heads."""
    return _parts_of_queries(2)


def _parts_of_queries(axis: int) -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else _num_parts(mesh, _query_spec()[axis])


def _num_parts(mesh: Any, axes: Any) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)


def over_mesh(attend: Callable[..., Any], *arrays: jax.Array, visible: jax.Array | None) -> Any:
    """Runs `attend` on each device's rows and heads: XLA cannot split it by itself.

    Args:
      attend: takes the other arguments; what it returns is split as they are.
      *arrays: `[B, L, H, K]` or `[B, L, G, K]`, such as queries, keys and values.
      visible: who sees whom, for all heads: segments `[B, L]`, a mask `[B, L, L]`, or None.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attend(*arrays, visible)
    spec = _query_spec()
    visible_spec = None if visible is None else PartitionSpec(*spec[:2])
    split = functools.partial(jax.shard_map, out_specs=spec, check_vma=False)
    return split(attend, in_specs=(*[spec] * len(arrays), visible_spec))(*arrays, visible)
