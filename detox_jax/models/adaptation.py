"""The parameter-efficient adaptations: their configs, and what each one trains.

An adaptation is a config plus a pattern over parameter paths: what matches is trained, the rest is
frozen. Whole-model training is the absence of an adaptation, `None`. No adaptation renames a base
parameter, and each starts as the identity, so that an adapted model equals its base at step 0.

What an adaptation adds is linear in some of its parameters, `scaled_pattern`: these times -1 take
away what was added. Where `is_change_of_weights`, it may as well be added to the base's own.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax

from detox_jax.errors import UserError
from detox_jax.models.config import TransformerConfig

# Whole numbers count units, those with a point are a share of the model's width.
Width = float | int
_LORA_TARGETS = ("query", "key", "value", "out", "wi", "wo")
# A prefix adds gate times values, and Adam moves either by about the rate an update: less than this
# in all adds less than its square, what bfloat16 rounds off a number near 1.
_LEAST_OF_PREFIX = 0.05


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """Bottleneck adapters with a residual around each (Houlsby et al., 2019).

    Attributes:
      bottleneck_dim: hidden units of an adapter; the SGEAT paper uses about 256 to 1024. A number
        with a point is a share of the model's width, above 0 and at most 1.0.
      placement: `houlsby` puts one after attention and one after the MLP, `pfeiffer` (Pfeiffer et
        al., 2021) only the latter.
      activation: name in `jax.nn`.
    """

    bottleneck_dim: Width = 256
    placement: str = "houlsby"
    activation: str = "gelu"

    trainable_pattern = r"layers/(attention_adapter|mlp_adapter)/.*"
    scaled_pattern = r".*/up_(kernel|bias)"
    is_change_of_weights = False

    def __post_init__(self):
        _require_width(self)
        if self.placement not in ("houlsby", "pfeiffer"):
            raise UserError(
                f"AdapterConfig.placement is {self.placement!r}; one of houlsby, pfeiffer"
            )
        _require_activation(self)

    def width(self, emb_dim: int) -> int:
        """Hidden units in a model of width `emb_dim`."""
        return _width(self.bottleneck_dim, emb_dim)


@dataclasses.dataclass(frozen=True)
class ParallelAdapterConfig:
    """Scaled adapters beside the MLP (He et al., 2022, "Towards a Unified View").

    `h + scale * up(activation(down(x)))`, h the MLP's output and x its input, behind the norm. The
    defaults are the paper's scaled parallel adapter at the feed-forward sublayer.

    Attributes:
      bottleneck_dim: hidden units, or a share of the model's width, see `AdapterConfig`.
      scale: what the addition is multiplied by.
      activation: name in `jax.nn`.
    """

    bottleneck_dim: Width = 512
    scale: float = 4.0
    activation: str = "relu"

    trainable_pattern = r"layers/mlp_parallel_adapter/.*"
    scaled_pattern = r".*/up_(kernel|bias)"
    is_change_of_weights = False

    def __post_init__(self):
        _require_width(self)
        if not math.isfinite(self.scale) or self.scale == 0:
            raise UserError(f"ParallelAdapterConfig.scale is {self.scale}; must not be zero")
        _require_activation(self)

    def width(self, emb_dim: int) -> int:
        """Hidden units in a model of width `emb_dim`."""
        return _width(self.bottleneck_dim, emb_dim)


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Low-rank additions to projections (Hu et al., 2021): `W x + (alpha / rank) B A x`.

    Attributes:
      rank: of the addition.
      alpha: its scale, times rank; not zero.
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
        if not math.isfinite(self.alpha) or self.alpha == 0:
            raise UserError(f"LoRAConfig.alpha is {self.alpha}; must not be zero")
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
    the first step. What is added goes as the square of the learning rate; they train at about 9e-3.

    Attributes:
      prefix_length: positions; the SGEAT paper uses about 128 to 512.
    """

    prefix_length: int = 128

    trainable_pattern = r"layers/attention/prefix/.*"
    scaled_pattern = r".*/gate"
    is_change_of_weights = False

    def __post_init__(self):
        _require_positive(self, "prefix_length")


@dataclasses.dataclass(frozen=True)
class BitFitConfig:
    """The biases of projections and LayerNorms (Ben Zaken et al., 2022).

    What is trained is what is added to each bias, from zero: a frozen base keeps its own, in the
    dtype that it has. The authors train at about 1e-3.
    """

    trainable_pattern = r"(layers/.*|final_norm)/added_bias"
    scaled_pattern = r".*/added_bias"
    is_change_of_weights = True


@dataclasses.dataclass(frozen=True)
class LoReFTConfig:
    """Low-rank edits of the residual stream behind layers (Wu et al., 2024, "ReFT").

    `h + R^T (W h + b - R h)`, R with orthonormal rows.

    Attributes:
      rank: rows of R.
      layers: which are edited, counted from 0; all where None.
      first_positions: only so many positions at the start of each text; all where None.
    """

    rank: int = 4
    layers: tuple[int, ...] | None = None
    first_positions: int | None = None

    trainable_pattern = r"layers/loreft/.*"
    scaled_pattern = r".*/(weight|bias)"
    is_change_of_weights = False

    def __post_init__(self):
        _require_positive(self, "rank")
        if self.first_positions is not None:
            _require_positive(self, "first_positions")
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
            if not self.layers:
                raise UserError("LoReFTConfig.layers names none; give some, or None for all")


Adaptation = (
    AdapterConfig | ParallelAdapterConfig | LoRAConfig | PrefixConfig | BitFitConfig | LoReFTConfig
)
KINDS = {
    "adapter": AdapterConfig,
    "parallel": ParallelAdapterConfig,
    "lora": LoRAConfig,
    "prefix": PrefixConfig,
    "bitfit": BitFitConfig,
    "loreft": LoReFTConfig,
}


def require_fit(config: TransformerConfig, adaptation: Adaptation | None) -> None:
    """Refuses an adaptation for which a model has no place.

    Raises:
      UserError: naming what is missing.
    """
    if isinstance(adaptation, BitFitConfig):
        projections = any(config.has_bias(part) for part in ("qkv", "out", "mlp"))
        if not projections and not (config.norm == "layernorm" and config.use_bias):
            raise UserError(
                "ADAPTATION is BitFitConfig, but the model has no biases (LLaMA's family has "
                "none); take LoRAConfig or AdapterConfig"
            )
    if isinstance(adaptation, LoReFTConfig):
        if adaptation.rank > config.emb_dim:
            raise UserError(
                f"LoReFTConfig.rank is {adaptation.rank}; at most the model's width, "
                f"{config.emb_dim}"
            )
        wrong = [n for n in adaptation.layers or () if not 0 <= n < config.num_layers]
        if wrong:
            raise UserError(
                f"LoReFTConfig.layers names layer {wrong[0]}; the model's are 0 to "
                f"{config.num_layers - 1}"
            )


def advice(
    adaptation: Any, emb_dim: int, learning_rate: float = 0.0, updates: int | None = None
) -> str | None:
    """What to know of an adaptation that is out of proportion to its model or training, or None.

    Args:
      adaptation: a config of this module, or None for the whole model.
      emb_dim: the model's width.
      learning_rate: of its training, at its peak.
      updates: of its training; None where they are not known.
    """
    if isinstance(adaptation, PrefixConfig):
        if updates is None or learning_rate * updates >= _LEAST_OF_PREFIX:
            return None
        return (
            f"a prefix, whose gate begins at 0, hardly moves in {updates:,} updates at a rate of "
            f"{learning_rate:g}; a rate for prefixes is about 9e-3"
        )
    if not isinstance(adaptation, AdapterConfig | ParallelAdapterConfig):
        return None
    if (width := adaptation.width(emb_dim)) <= emb_dim:
        return None
    return (
        f"adapters of {width} hidden units are wider than the model's {emb_dim}; a BOTTLENECK_DIM "
        "with a point is a share of its width, 0.25 for a quarter"
    )


def _require_width(config: Any) -> None:
    """Hidden units as scikit-learn counts features: a whole number, or a share up to 1.0."""
    width, name = config.bottleneck_dim, f"{type(config).__name__}.bottleneck_dim"
    if isinstance(width, bool) or not isinstance(width, int | float) or not width > 0:
        raise UserError(f"{name} is {width!r}; must be positive")
    if isinstance(width, float) and width > 1 and width.is_integer():  # 1e3 is 1000
        object.__setattr__(config, "bottleneck_dim", int(width))
    elif isinstance(width, float) and width > 1:
        raise UserError(
            f"{name} is {width}; give a whole number of units, or a share of the model's width, at "
            "most 1.0"
        )


def _width(bottleneck_dim: int | float, emb_dim: int) -> int:
    if isinstance(bottleneck_dim, int):
        return bottleneck_dim
    return max(1, round(bottleneck_dim * emb_dim))


def _require_activation(config: Any) -> None:
    if not callable(getattr(jax.nn, str(config.activation), None)):
        raise UserError(
            f"{type(config).__name__}.activation is {config.activation!r}; expected a function of "
            "jax.nn, such as gelu"
        )


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
