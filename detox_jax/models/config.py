"""TransformerConfig, and the dimension key that every array name in `models` follows.

An array's name ends in its dimensions, one letter each: `x_BLD`, `logits_BLV`.

    B  batch                    H  query heads
    L  length (of the queries)  G  key-value heads (H is a multiple of G)
    M  length of keys (memory)  K  size of a head
    D  embedding                P  learned prefix positions
    F  hidden units of the MLP  R  rank of LoRA, bottleneck of an adapter
    V  vocabulary (padded)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from detox_jax.errors import UserError

_CHOICES = {
    "position_embedding": ("learned", "rotary"),
    "norm": ("layernorm", "rmsnorm"),
    "remat": ("none", "dots", "full"),
    "dtype": ("float32", "bfloat16"),
    "param_dtype": ("float32", "bfloat16"),
}
_POSITIVE = ("vocab_size", "emb_dim", "num_heads", "num_layers", "mlp_dim", "max_length")
_VOCAB_MULTIPLE = 128


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A decoder-only transformer; the defaults are GPT-2's and Megatron's architecture.

    Attributes:
      vocab_size: number of ids, the padding id 0 included; the embedding is padded to a multiple
        of 128 rows, and no padding row ever receives probability.
      emb_dim: width of the residual stream.
      num_heads: query heads.
      num_layers: decoder layers.
      mlp_dim: hidden units of the MLP.
      head_dim: size of a head; `emb_dim / num_heads` where None.
      num_kv_heads: key-value heads (grouped-query attention); `num_heads` where None.
      max_length: the longest context, in tokens.
      mlp_activations: names in `jax.nn`; more than one makes a gated MLP, `('silu', 'linear')`.
        `gelu` is the tanh approximation, GPT-2's.
      position_embedding: `learned` (absolute) or `rotary`.
      rope_theta: base of the rotary wavelengths.
      norm: `layernorm` or `rmsnorm`.
      norm_epsilon: added to the variance.
      use_bias: biases in projections and LayerNorm.
      parallel_residual: attention and MLP read the same input (GPT-NeoX) instead of in sequence.
      logits_via_embedding: tie the output projection to the input embedding.
      dropout_rate: on embeddings and on the output of attention and MLP.
      init_std: standard deviation of initial weights; projections into the residual stream get
        `init_std / sqrt(2 num_layers)`, as in GPT-2.
      dtype: of activations and matrix products; softmax, norms and logits are float32.
      param_dtype: of stored parameters.
      remat: what the backward pass recomputes: `none`, all but matrix products (`dots`), `full`.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    num_layers: int
    mlp_dim: int
    head_dim: int | None = None
    num_kv_heads: int | None = None
    max_length: int = 2048
    mlp_activations: tuple[str, ...] = ("gelu",)
    position_embedding: str = "learned"
    rope_theta: float = 10_000.0
    norm: str = "layernorm"
    norm_epsilon: float = 1e-5
    use_bias: bool = True
    parallel_residual: bool = False
    logits_via_embedding: bool = True
    dropout_rate: float = 0.0
    init_std: float = 0.02
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self):
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        if self.head_dim is None:
            if self.emb_dim % self.num_heads:
                raise UserError(
                    f"TransformerConfig: emb_dim {self.emb_dim} is no multiple of num_heads "
                    f"{self.num_heads}; set head_dim"
                )
            object.__setattr__(self, "head_dim", self.emb_dim // self.num_heads)
        if self.num_kv_heads is None:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise UserError(
                    f"TransformerConfig.{name} is {getattr(self, name)}; must be positive"
                )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(
                    f"TransformerConfig.{name} is {getattr(self, name)!r}; "
                    f"one of {', '.join(choices)}"
                )
        if self.num_heads % self.kv_heads:
            raise UserError(
                f"TransformerConfig: num_heads {self.num_heads} is no multiple of num_kv_heads "
                f"{self.num_kv_heads}"
            )

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: `vocab_size` rounded up to a multiple of 128."""
        return -(-self.vocab_size // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE

    @property
    def kv_heads(self) -> int:
        """`num_kv_heads`, resolved."""
        assert self.num_kv_heads is not None
        return self.num_kv_heads

    @property
    def head_size(self) -> int:
        """`head_dim`, resolved."""
        assert self.head_dim is not None
        return self.head_dim

    @property
    def activation_dtype(self) -> Any:
        """`dtype` as JAX takes it."""
        return jnp.dtype(self.dtype)

    @property
    def parameter_dtype(self) -> Any:
        """`param_dtype` as JAX takes it."""
        return jnp.dtype(self.param_dtype)

    def architecture(self) -> dict[str, Any]:
        """The fields that decide which checkpoints fit; the rest may change from run to run."""
        fields = dataclasses.asdict(self)
        for name in ("dropout_rate", "dtype", "param_dtype", "remat", "init_std"):
            del fields[name]
        return fields
