"""Projections, embeddings, norms and rotary positions; every parameter names its logical axes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning

from detox_jax.models.adaptation import LoRAConfig
from detox_jax.models.config import TransformerConfig


class Dense(nn.Module):
    """`x W + b` from the last `len(in_shape)` axes to `out_shape`; hosts a LoRA addition.

    Attributes:
      config: of the model.
      in_shape: axes that are contracted, `(D,)` or `(H, K)`.
      out_shape: axes that replace them.
      in_axes: logical names of the contracted axes.
      out_axes: logical names of the new axes.
      residual: whether the output joins the residual stream (smaller initial weights).
      use_bias: adds a bias.
      lora: the low-rank addition, if this projection has one.
    """

    config: TransformerConfig
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    in_axes: tuple[str, ...]
    out_axes: tuple[str, ...]
    residual: bool = False
    use_bias: bool = True
    lora: LoRAConfig | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Projects `[..., *in_shape]` to `[..., *out_shape]`."""
        cfg = self.config
        dtype, param_dtype = cfg.activation_dtype, cfg.parameter_dtype
        std = cfg.init_std / math.sqrt(2 * cfg.num_layers) if self.residual else cfg.init_std
        kernel = partitioning.param_with_axes(
            "kernel",
            nn.initializers.normal(std),
            (*self.in_shape, *self.out_shape),
            param_dtype,
            axes=(*self.in_axes, *self.out_axes),
        )
        y = _contract(x, kernel.astype(dtype), len(self.in_shape))
        if self.use_bias:
            bias = partitioning.param_with_axes(
                "bias", nn.initializers.zeros, self.out_shape, param_dtype, axes=self.out_axes
            )
            y = y + bias.astype(dtype)
        if self.lora is not None:
            y = y + self._low_rank(x, self.lora)
        return y

    def _low_rank(self, x: jax.Array, lora: LoRAConfig) -> jax.Array:
        cfg = self.config
        dtype, param_dtype = cfg.activation_dtype, cfg.parameter_dtype
        a = partitioning.param_with_axes(
            "lora_a",
            nn.initializers.normal(1 / math.sqrt(math.prod(self.in_shape))),
            (*self.in_shape, lora.rank),
            param_dtype,
            axes=(*self.in_axes, "mlp_activations"),
        )
        b = partitioning.param_with_axes(
            "lora_b",
            nn.initializers.zeros,
            (lora.rank, *self.out_shape),
            param_dtype,
            axes=("mlp_activations", *self.out_axes),
        )
        h_R = _contract(x, a.astype(dtype), len(self.in_shape))
        return _contract(h_R, b.astype(dtype), 1) * (lora.alpha / lora.rank)


def _contract(x: jax.Array, kernel: jax.Array, num_axes: int) -> jax.Array:
    last = tuple(range(x.ndim - num_axes, x.ndim))
    return jax.lax.dot_general(x, kernel, ((last, tuple(range(num_axes))), ((), ())))


class Embed(nn.Module):
    """A table of vectors, looked up by id; the token table also makes the logits."""

    config: TransformerConfig
    num_embeddings: int
    axis: str

    def setup(self):
        """Creates the table."""
        self.embedding = partitioning.param_with_axes(
            "embedding",
            nn.initializers.normal(self.config.init_std),
            (self.num_embeddings, self.config.emb_dim),
            self.config.parameter_dtype,
            axes=(self.axis, "embed"),
            module=self,
        )

    def __call__(self, ids: jax.Array) -> jax.Array:
        """`[...]` ids to `[..., D]` vectors."""
        return jnp.take(self.embedding, ids, axis=0).astype(self.config.activation_dtype)

    def attend(self, x_BLD: jax.Array) -> jax.Array:
        """Float32 products of `x` with every row of the table, `[B, L, rows]`."""
        table_VD = self.embedding.astype(self.config.activation_dtype)
        return jnp.einsum("BLD,VD->BLV", x_BLD, table_VD, preferred_element_type=jnp.float32)


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last axis, computed in float32."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """Normalises; shape and dtype stay."""
        cfg = self.config
        shape, param_dtype = (x_BLD.shape[-1],), cfg.parameter_dtype
        y_BLD = x_BLD.astype(jnp.float32)
        if cfg.norm == "layernorm":
            y_BLD = y_BLD - jnp.mean(y_BLD, axis=-1, keepdims=True)
        variance_BL1 = jnp.mean(jnp.square(y_BLD), axis=-1, keepdims=True)
        y_BLD = y_BLD * jax.lax.rsqrt(variance_BL1 + cfg.norm_epsilon)
        param = partitioning.param_with_axes
        scale_D = param("scale", nn.initializers.ones, shape, param_dtype, axes=("embed",))
        y_BLD = y_BLD * scale_D.astype(jnp.float32)
        if cfg.norm == "layernorm" and cfg.use_bias:
            bias_D = param("bias", nn.initializers.zeros, shape, param_dtype, axes=("embed",))
            y_BLD = y_BLD + bias_D.astype(jnp.float32)
        return y_BLD.astype(cfg.activation_dtype)


def rotate(x_BLHK: jax.Array, positions_BL: jax.Array, theta: float) -> jax.Array:
    """Rotary position embedding (Su et al., 2021), halves convention of GPT-NeoX and LLaMA.

    Feature `i` of the first half is rotated with feature `i` of the second half by
    `position * theta ** (-2 i / K)` radians.
    """
    half = x_BLHK.shape[-1] // 2
    frequency_K = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_BLK = positions_BL[..., None].astype(jnp.float32) * frequency_K
    sin, cos = jnp.sin(angle_BLK)[:, :, None, :], jnp.cos(angle_BLK)[:, :, None, :]
    first, second = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BLHK.dtype)
