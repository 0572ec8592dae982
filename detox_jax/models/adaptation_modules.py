"""The modules of the adaptations: what each adds to the network; each starts by adding nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning

from detox_jax.models.adaptation import (
    AdapterConfig,
    LoReFTConfig,
    ParallelAdapterConfig,
    PrefixConfig,
)
from detox_jax.models.config import TransformerConfig


class Adapter(nn.Module):
    """`x + up(activation(down(x)))`, with `up` starting at zero."""

    config: TransformerConfig
    adapter: AdapterConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """Applies the adapter; shape and dtype stay."""
        normal = nn.initializers.normal(self.config.init_std)
        return x_BLD + _bottleneck(self.config, self.adapter, x_BLD, normal)


def _bottleneck(
    cfg: TransformerConfig,
    adapter: AdapterConfig | ParallelAdapterConfig,
    x_BLD: jax.Array,
    down_init: nn.initializers.Initializer,
) -> jax.Array:
    """`up(activation(down(x)))` with parameters of the module that calls; `up` starts at zero.

    Devices that split heads split the width D of both products, and of what they read, rather than
    the bottleneck: they then add up its few units, and not the many that `up` makes of them.
    """
    bottleneck = adapter.width(cfg.emb_dim)
    dtype, param_dtype = cfg.activation_dtype, cfg.parameter_dtype
    zeros, param = nn.initializers.zeros, partitioning.param_with_axes
    down_DR = param(
        "down_kernel",
        down_init,
        (cfg.emb_dim, bottleneck),
        param_dtype,
        axes=("width", "bottleneck"),
    )
    down_R = param("down_bias", zeros, (bottleneck,), param_dtype, axes=("bottleneck",))
    up_RD = param(
        "up_kernel", zeros, (bottleneck, cfg.emb_dim), param_dtype, axes=("bottleneck", "width")
    )
    up_D = param("up_bias", zeros, (cfg.emb_dim,), param_dtype, axes=("width",))
    h_BLR = jnp.einsum("BLD,DR->BLR", x_BLD, down_DR.astype(dtype)) + down_R.astype(dtype)
    h_BLR = getattr(jax.nn, adapter.activation)(h_BLR)
    return jnp.einsum("BLR,RD->BLD", h_BLR, up_RD.astype(dtype)) + up_D.astype(dtype)


class Prefix(nn.Module):
    """Gated attention over learned keys and values; adds to what attention returns."""

    config: TransformerConfig
    prefix: PrefixConfig

    @nn.compact
    def __call__(self, q_BLHK: jax.Array) -> jax.Array:
        """The prefix's share of the attention output, zero until the gate opens."""
        cfg, length = self.config, self.prefix.prefix_length
        dtype, param_dtype = cfg.activation_dtype, cfg.parameter_dtype
        shape, axes = (length, cfg.num_heads, cfg.head_size), ("length", "heads", "kv")
        normal = nn.initializers.normal(cfg.init_std)
        param = partitioning.param_with_axes
        k_PHK = param("key", normal, shape, param_dtype, axes=axes)
        v_PHK = param("value", normal, shape, param_dtype, axes=axes)
        gate_H = param(
            "gate", nn.initializers.zeros, (cfg.num_heads,), param_dtype, axes=("heads",)
        )
        scores_BHLP = jnp.einsum("BLHK,PHK->BHLP", q_BLHK, k_PHK.astype(dtype))
        scores_BHLP = scores_BHLP.astype(jnp.float32) * cfg.attention_scale
        weights_BHLP = jax.nn.softmax(scores_BHLP, axis=-1).astype(dtype)
        out_BLHK = jnp.einsum("BHLP,PHK->BLHK", weights_BHLP, v_PHK.astype(dtype))
        return out_BLHK * gate_H.astype(dtype)[None, None, :, None]


class ParallelAdapter(nn.Module):
    """`scale * up(activation(down(x)))`, with `up` starting at zero; `x` is what the MLP reads."""

    config: TransformerConfig
    adapter: ParallelAdapterConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """What is added to the MLP's output, `[B, L, D]`."""
        # As the authors' code has it: Kaiming's uniform with a of sqrt(5), within 1 / sqrt(D).
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        return _bottleneck(self.config, self.adapter, x_BLD, uniform) * self.adapter.scale


class LoReFT(nn.Module):
    """`R^T (W h + b - R h)`, R with orthonormal rows; W is kept as its difference from R.

    That difference and b start at zero: no rounding moves the model before the first step. R is
    what QR makes of the parameter `rotation`, so that it is orthonormal after every update.
    """

    config: TransformerConfig
    reft: LoReFTConfig

    @nn.compact
    def __call__(self, h_BLD: jax.Array) -> jax.Array:
        """What is added to the residual stream `[B, L, D]`, at every position."""
        cfg, rank = self.config, self.reft.rank
        dtype, param_dtype = cfg.activation_dtype, cfg.parameter_dtype
        shape, axes = (cfg.emb_dim, rank), ("embed", "mlp_activations")
        param, zeros = partitioning.param_with_axes, nn.initializers.zeros
        raw_DR = param("rotation", nn.initializers.orthogonal(), shape, param_dtype, axes=axes)
        weight_DR = param("weight", zeros, shape, param_dtype, axes=axes)
        bias_R = param("bias", zeros, (rank,), param_dtype, axes=("mlp_activations",))
        rotation_DR = orthonormal(raw_DR).astype(dtype)
        change_BLR = jnp.einsum("BLD,DR->BLR", h_BLD, weight_DR.astype(dtype))
        change_BLR = change_BLR + bias_R.astype(dtype)
        return jnp.einsum("BLR,DR->BLD", change_BLR, rotation_DR)


def orthonormal(raw_DR: jax.Array) -> jax.Array:
    """Orthonormal columns that span those of `raw_DR`, in float32; continuous in them."""
    q_DR, upper_RR = jnp.linalg.qr(raw_DR.astype(jnp.float32))
    sign_R = jnp.where(jnp.diagonal(upper_RR) < 0, -1.0, 1.0)  # LAPACK's signs jump
    return q_DR * sign_R[None, :]
