"""Projections, embeddings, norms and rotary positions; every parameter names its logical axes."""

from __future__ import annotations

import functools
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning

from detox_jax.models import edits, unstacked
from detox_jax.models.adaptation import LoRAConfig
from detox_jax.models.config import RopeScaling, TransformerConfig


class LayerConfig(Protocol):
    """What the layers of this file read of a config: a decoder's or an encoder's."""

    @property
    def emb_dim(self) -> int: ...  # noqa: D102
    @property
    def num_layers(self) -> int: ...  # noqa: D102
    @property
    def init_std(self) -> float: ...  # noqa: D102
    @property
    def norm(self) -> str: ...  # noqa: D102
    @property
    def norm_epsilon(self) -> float: ...  # noqa: D102
    @property
    def norm_unit_offset(self) -> bool: ...  # noqa: D102
    @property
    def use_bias(self) -> bool: ...  # noqa: D102
    @property
    def activation_dtype(self) -> Any: ...  # noqa: D102
    @property
    def parameter_dtype(self) -> Any: ...  # noqa: D102


def scan_layers(
    layer: Any, num_layers: int, in_axes: tuple[Any, ...], *, initializing: bool
) -> Any:
    """A layer scanned over a leading `layers` axis of its parameters.

    Args:
      layer: the module; its call takes the carry first.
      num_layers: how many.
      in_axes: one entry for each argument behind the carry: 0 where it is stacked like the
        parameters, `nn.broadcast` where all layers share it.
      initializing: whether parameters are created, and the logical names of their axes with them.
    """
    scan: Any = functools.partial(nn.scan, check_constancy_invariants=False)
    if initializing:
        # All layers share the names, which flax takes out of the scan by tracing a layer twice.
        scan = functools.partial(
            partitioning.scan_with_axes, axis_name="layers", axes_collections=("params",)
        )
    return scan(
        layer,
        variable_axes={"params": 0, edits.RECORDED: 0, unstacked.NUMBERS: 0},
        variable_broadcast=unstacked.MATRICES,
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        length=num_layers,
    )


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
      bitfit: whether something is added to the bias, if this projection has one.
    """

    config: LayerConfig
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    in_axes: tuple[str, ...]
    out_axes: tuple[str, ...]
    residual: bool = False
    use_bias: bool = True
    lora: LoRAConfig | None = None
    bitfit: bool = False

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
        y = unstacked.product(self, x, len(self.in_shape), self.out_shape)
        if y is None:
            y = _contract(x, kernel.astype(dtype), len(self.in_shape))
        if self.use_bias:
            bias = partitioning.param_with_axes(
                "bias", nn.initializers.zeros, self.out_shape, param_dtype, axes=self.out_axes
            )
            if self.bitfit:
                bias = with_addition(bias, self.out_axes)
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


def with_addition(bias: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """A bias and what BitFit adds to it, from zero, in float32; for a module's compact call."""
    zeros = nn.initializers.zeros
    added = partitioning.param_with_axes("added_bias", zeros, bias.shape, jnp.float32, axes=axes)
    return bias.astype(jnp.float32) + added


def _contract(x: jax.Array, kernel: jax.Array, num_axes: int) -> jax.Array:
    last = tuple(range(x.ndim - num_axes, x.ndim))
    return jax.lax.dot_general(x, kernel, ((last, tuple(range(num_axes))), ((), ())))


class Embed(nn.Module):
    """A table of vectors, looked up by id."""

    config: LayerConfig
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


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last axis, computed in float32.

    Attributes:
      config: of the model.
      kind: `layernorm` or `rmsnorm`; the config's where None.
      axis: logical name of the last axis.
      bitfit: whether something is added to the bias, if this norm has one.
    """

    config: LayerConfig
    kind: str | None = None
    axis: str = "embed"
    bitfit: bool = False

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """Normalises; shape and dtype stay."""
        cfg, kind = self.config, self.kind or self.config.norm
        shape, param_dtype = (x_BLD.shape[-1],), cfg.parameter_dtype
        y_BLD = x_BLD.astype(jnp.float32)
        if kind == "layernorm":
            y_BLD = y_BLD - jnp.mean(y_BLD, axis=-1, keepdims=True)
        variance_BL1 = jnp.mean(jnp.square(y_BLD), axis=-1, keepdims=True)
        y_BLD = y_BLD * jax.lax.rsqrt(variance_BL1 + cfg.norm_epsilon)
        param = partitioning.param_with_axes
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        initial = zeros if cfg.norm_unit_offset else ones
        scale_D = param("scale", initial, shape, param_dtype, axes=(self.axis,))
        scale_D = scale_D.astype(jnp.float32)
        y_BLD = y_BLD * (1 + scale_D if cfg.norm_unit_offset else scale_D)
        if kind == "layernorm" and cfg.use_bias:
            bias_D = param("bias", zeros, shape, param_dtype, axes=(self.axis,))
            if self.bitfit:
                bias_D = with_addition(bias_D, (self.axis,))
            y_BLD = y_BLD + bias_D.astype(jnp.float32)
        return y_BLD.astype(cfg.activation_dtype)


def activate(name: str, x: jax.Array) -> jax.Array:
    """Applies an activation of `jax.nn`, `gelu_exact` or `linear`."""
    if name == "linear":
        return x
    if name == "gelu_exact":
        return jax.nn.gelu(x, approximate=False)
    return getattr(jax.nn, name)(x)


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
    """`cap * tanh(x / cap)`, or `x` where there is no cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def rotary_frequencies(cfg: TransformerConfig) -> np.ndarray:
    """Radians a position, float32 `[layers, rotary_size / 2]`; data, so that layers may differ."""
    exponent_K = np.arange(0, cfg.rotary_size, 2, dtype=np.float32) / np.float32(cfg.rotary_size)
    global_K = (1 / np.float32(cfg.rope_theta) ** exponent_K).astype(np.float32)
    if cfg.rope_scaling is not None:
        global_K = _stretch(global_K, cfg.rope_scaling)
    local_K = global_K
    if cfg.rope_local_theta is not None:
        local_K = (1 / np.float32(cfg.rope_local_theta) ** exponent_K).astype(np.float32)
    return np.stack([local_K if slides else global_K for slides in cfg.slides])


def _stretch(frequency_K: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    factor = np.float32(scaling.factor)
    if scaling.kind == "linear":
        return frequency_K / factor
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns_K = scaling.original_max_length * frequency_K / np.float32(2 * math.pi)
    kept_K = np.clip((turns_K - low) / (high - low), 0, 1).astype(np.float32)
    return ((1 - kept_K) * frequency_K / factor + kept_K * frequency_K).astype(np.float32)


def rotate(x_BLHK: jax.Array, positions_BL: jax.Array, frequency_K: jax.Array) -> jax.Array:
    """Rotary position embedding (Su et al., 2021), halves convention of GPT-NeoX and LLaMA.

    Of the first `2 * len(frequency_K)` features, feature `i` of the first half is rotated with
    feature `i` of the second half by `position * frequency_K[i]` radians; the rest stay.
    """
    half = frequency_K.shape[-1]
    angle_BLK = positions_BL[..., None].astype(jnp.float32) * frequency_K
    sin, cos = jnp.sin(angle_BLK)[:, :, None, :], jnp.cos(angle_BLK)[:, :, None, :]
    first, second, rest = jnp.split(x_BLHK.astype(jnp.float32), [half, 2 * half], axis=-1)
    parts = [first * cos - second * sin, second * cos + first * sin, rest]
    return jnp.concatenate(parts, axis=-1).astype(x_BLHK.dtype)
