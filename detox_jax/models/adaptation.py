"""The parameter-efficient adaptations: their configs, their modules, and what each one trains.

An adaptation is a config plus a pattern over parameter paths: what matches is trained, the rest is
frozen. Whole-model training is the absence of an adaptation, `None`. No adaptation renames a base
parameter, and each starts as the identity, so that an adapted model equals its base at step 0.

What an adaptation adds is linear in some of its parameters, `scaled_pattern`: these times -1 take
away what was added. Where `is_change_of_weights`, it may as well be added to the base's own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning

from detox_jax.errors import UserError
from detox_jax.models.config import TransformerConfig

_LORA_TARGETS = ("query", "key", "value", "out", "wi", "wo")


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """Bottleneck adapters with a residual around each (Houlsby et al., 2019).

    Attributes:
      bottleneck_dim: hidden units of an adapter; the SGEAT paper uses about 256 to 1024.
      placement: `houlsby` puts one after attention and one after the MLP, `pfeiffer` (Pfeiffer et
        al., 2021) only the latter.
      activation: name in `jax.nn`.
    """

    bottleneck_dim: int = 256
    placement: str = "houlsby"
    activation: str = "gelu"

    trainable_pattern = r"layers/(attention_adapter|mlp_adapter)/.*"
    scaled_pattern = r".*/up_(kernel|bias)"
    is_change_of_weights = False

    def __post_init__(self):
        _require_positive(self, "bottleneck_dim")
        if self.placement not in ("houlsby", "pfeiffer"):
            raise UserError(
                f"AdapterConfig.placement is {self.placement!r}; one of houlsby, pfeiffer"
            )


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Low-rank additions to projections (Hu et al., 2021): `W x + (alpha / rank) B A x`.

    Attributes:
      rank: of the addition.
      alpha: its scale, times rank.
      target_modules: which projections get one: of `query, key, value, out, wi, wo`.
    """

    rank: int = 8
    alpha: float = 16.0
    target_modules: tuple[str, ...] = ("query", "value")

    trainable_pattern = r"layers/.*/lora_[ab]"
    scaled_pattern = r".*/lora_b"
    is_change_of_weights = True

    def __post_init__(self):
        object.__setattr__(self, "target_modules", tuple(self.target_modules))
        _require_positive(self, "rank")
        unknown = set(self.target_modules) - set(_LORA_TARGETS)
        if unknown or not self.target_modules:
            raise UserError(
                f"LoRAConfig.target_modules is {self.target_modules}; some of {_LORA_TARGETS}"
            )


@dataclasses.dataclass(frozen=True)
class PrefixConfig:
    """Learned keys and values that every position of every layer attends to (Li and Liang, 2021).

    The prefix has a softmax of its own, added through a gate per head that starts at 0 (Zhang et
    al., 2023, "LLaMA-Adapter"): in the original's joint softmax any prefix changes the model before
    the first step.

    Attributes:
      prefix_length: positions; the SGEAT paper uses about 128 to 512.
    """

    prefix_length: int = 128

    trainable_pattern = r"layers/attention/prefix/.*"
    scaled_pattern = r".*/gate"
    is_change_of_weights = False

    def __post_init__(self):
        _require_positive(self, "prefix_length")


Adaptation = AdapterConfig | LoRAConfig | PrefixConfig
KINDS = {"adapter": AdapterConfig, "lora": LoRAConfig, "prefix": PrefixConfig}


def _require_positive(config: Any, name: str) -> None:
    if getattr(config, name) < 1:
        raise UserError(
            f"{type(config).__name__}.{name} is {getattr(config, name)}; must be positive"
        )


def trainable_pattern(adaptation: Adaptation | None) -> str:
    """The pattern of the parameter paths that are trained; everything for the whole model."""
    return ".*" if adaptation is None else adaptation.trainable_pattern


def to_json(adaptation: Adaptation | None) -> dict[str, Any] | None:
    """An adaptation as a checkpoint records it."""
    if adaptation is None:
        return None
    (kind,) = [kind for kind, cls in KINDS.items() if isinstance(adaptation, cls)]
    return {"kind": kind, **dataclasses.asdict(adaptation)}


def from_json(value: dict[str, Any] | None) -> Adaptation | None:
    """Reads what `to_json` wrote."""
    if value is None:
        return None
    fields = dict(value)
    return KINDS[fields.pop("kind")](**fields)


class Adapter(nn.Module):
    """`x + up(activation(down(x)))`, with `up` starting at zero."""

    config: TransformerConfig
    adapter: AdapterConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """Applies the adapter; shape and dtype stay."""
        cfg, bottleneck = self.config, self.adapter.bottleneck_dim
        dtype, param_dtype = cfg.activation_dtype, cfg.parameter_dtype
        normal, zeros = nn.initializers.normal(cfg.init_std), nn.initializers.zeros
        param = partitioning.param_with_axes
        down_DR = param(
            "down_kernel", normal, (cfg.emb_dim, bottleneck), param_dtype, axes=("embed", "mlp")
        )
        down_R = param("down_bias", zeros, (bottleneck,), param_dtype, axes=("mlp",))
        up_RD = param(
            "up_kernel", zeros, (bottleneck, cfg.emb_dim), param_dtype, axes=("mlp", "embed")
        )
        up_D = param("up_bias", zeros, (cfg.emb_dim,), param_dtype, axes=("embed",))
        h_BLR = jnp.einsum("BLD,DR->BLR", x_BLD, down_DR.astype(dtype)) + down_R.astype(dtype)
        h_BLR = getattr(jax.nn, self.adapter.activation)(h_BLR)
        h_BLD = jnp.einsum("BLR,RD->BLD", h_BLR, up_RD.astype(dtype)) + up_D.astype(dtype)
        return x_BLD + h_BLD


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
