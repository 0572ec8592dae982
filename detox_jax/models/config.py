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

import jax
import jax.numpy as jnp

from detox_jax.errors import UserError

CHOICES = {
    "position_embedding": ("learned", "rotary"),
    "norm": ("layernorm", "rmsnorm"),
    "remat": ("none", "dots_all", "dots", "attention", "full"),
    "attention_kernel": ("auto", "plain", "blocks", "splash", "cudnn"),
    "dtype": ("float32", "bfloat16"),
    "param_dtype": ("float32", "bfloat16"),
}
_OWN_ACTIVATIONS = ("linear", "gelu_exact")  # see `layers.activate`
_POSITIVE = ("vocab_size", "emb_dim", "num_heads", "num_layers", "mlp_dim", "max_length")
_VOCAB_MULTIPLE = 128


def check_dropout(owner: Any) -> None:
    """Refuses a `dropout_rate` that is no share below 1; flax would take 10 for one too."""
    if not 0 <= owner.dropout_rate < 1:
        raise UserError(
            f"{type(owner).__name__}.dropout_rate is {owner.dropout_rate}; must be at least 0 "
            "and below 1"
        )


class NetworkConfig:
    """What the configs of all networks derive alike from their fields."""

    vocab_size: int
    dtype: str
    param_dtype: str

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: `vocab_size` rounded up to a multiple of 128."""
        return -(-self.vocab_size // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE

    @property
    def activation_dtype(self) -> Any:
        """`dtype` as JAX takes it."""
        return jnp.dtype(self.dtype)

    @property
    def parameter_dtype(self) -> Any:
        """`param_dtype` as JAX takes it."""
        return jnp.dtype(self.param_dtype)


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Stretched rotary wavelengths.

    Attributes:
      kind: `linear` divides every frequency by `factor`; `llama3` divides those of long wavelengths
        alone, with a smooth passage (LLaMA 3.1).
      factor: of the stretching.
      low_freq_factor: of `llama3`: wavelengths above `original_max_length / low_freq_factor` are
        stretched in full.
      high_freq_factor: of `llama3`: those below `original_max_length / high_freq_factor` stay.
      original_max_length: of `llama3`: the context before stretching.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_length: int = 8192

    def __post_init__(self):
        if self.kind not in ("linear", "llama3"):
            raise UserError(f"RopeScaling.kind is {self.kind!r}; one of linear, llama3")
        if self.factor <= 0:
            raise UserError(f"RopeScaling.factor is {self.factor}; must be positive")


@dataclasses.dataclass(frozen=True)
class TransformerConfig(NetworkConfig):
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
        `gelu` is the tanh approximation, GPT-2's; `gelu_exact` is not approximated.
      position_embedding: `learned` (absolute) or `rotary`.
      position_offset: rows of the learned position table before that of position 0 (OPT has 2).
      rotary_fraction: share of a head's features that are rotated, the first ones.
      rope_theta: base of the rotary wavelengths.
      rope_scaling: how rotary wavelengths are stretched for longer contexts, if they are.
      rope_local_theta: base in the sliding layers, which nothing stretches (Gemma 3); as in the
        other layers where None.
      sliding_window: positions that a query of a sliding layer sees, its own included; all where
        None.
      sliding_layers: which layers slide, one bool a layer; all of them where None.
      query_scalar: scores are multiplied by `query_scalar ** -0.5`; by the head's size where None.
      attention_softcap: scores pass through `cap * tanh(score / cap)` (Gemma 2), where not None.
      qk_norm: RMSNorm of each query and key head (Qwen3, Gemma 3).
      norm: `layernorm` or `rmsnorm`.
      norm_epsilon: added to the variance.
      norm_unit_offset: a norm multiplies by 1 plus its scale, which starts at 0 (Gemma).
      post_norms: a norm also behind each sublayer, before its residual (Gemma 2 and 3).
      embedding_scale: token vectors are multiplied by `sqrt(emb_dim)` (Gemma).
      use_bias: biases in projections and LayerNorm.
      qkv_bias: overrides `use_bias` for the query, key and value projections, where not None.
      out_bias: the same for the attention's output projection.
      mlp_bias: the same for the MLP.
      parallel_residual: attention and MLP read the same input (GPT-NeoX) instead of in sequence.
      logits_via_embedding: tie the output projection to the input embedding.
      logits_softcap: the logits pass through `cap * tanh(logit / cap)`, where not None.
      dropout_rate: on embeddings and on the output of attention and MLP.
      init_std: standard deviation of initial weights; projections into the residual stream get
        `init_std / sqrt(2 num_layers)`, as in GPT-2.
      dtype: of activations and matrix products; softmax, norms and logits are float32.
      param_dtype: of stored parameters.
      remat: what the backward pass recomputes: `none`; all but matrix products (`dots_all`); all
        but products with weights that widen what they read less than 16 times, and what an
        attention kernel returns (`dots`); all but the latter (`attention`); each layer whole
        (`full`). On CPU `none` is `dots_all`: it is faster there.
      attention_kernel: what computes attention in training and prefill: `plain`, `splash` (TPU),
        `cudnn` (GPU), `blocks` (plain, its gradients in causal blocks), or `auto`, the devices' own
        where it can compute this model, and else `blocks` on CPU and `plain` elsewhere.
      logits_chunk: positions of a row whose logits exist at once while a loss is computed; all
        where None. On CPU fewer, see `losses.positions_at_once`: it is faster there.
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
    position_offset: int = 0
    rotary_fraction: float = 1.0
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    rope_local_theta: float | None = None
    sliding_window: int | None = None
    sliding_layers: tuple[bool, ...] | None = None
    query_scalar: float | None = None
    attention_softcap: float | None = None
    qk_norm: bool = False
    norm: str = "layernorm"
    norm_epsilon: float = 1e-5
    norm_unit_offset: bool = False
    post_norms: bool = False
    embedding_scale: bool = False
    use_bias: bool = True
    qkv_bias: bool | None = None
    out_bias: bool | None = None
    mlp_bias: bool | None = None
    parallel_residual: bool = False
    logits_via_embedding: bool = True
    logits_softcap: float | None = None
    dropout_rate: float = 0.0
    init_std: float = 0.02
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"
    attention_kernel: str = "auto"
    logits_chunk: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        if isinstance(self.rope_scaling, dict):  # As `model.json` holds it.
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        if not self.mlp_activations:
            raise UserError("TransformerConfig.mlp_activations names no function; expected one")
        for name in self.mlp_activations:
            if name not in _OWN_ACTIVATIONS and not callable(getattr(jax.nn, str(name), None)):
                raise UserError(
                    f"TransformerConfig.mlp_activations names {name!r}; expected functions of "
                    f"jax.nn, or {', '.join(_OWN_ACTIVATIONS)}"
                )
        if self.sliding_layers is not None:
            object.__setattr__(self, "sliding_layers", tuple(map(bool, self.sliding_layers)))
        if self.head_dim is None:
            if self.num_heads < 1 or self.emb_dim % self.num_heads:
                raise UserError(
                    f"TransformerConfig: emb_dim {self.emb_dim} is no multiple of num_heads "
                    f"{self.num_heads}; set head_dim"
                )
            object.__setattr__(self, "head_dim", self.emb_dim // self.num_heads)
        if self.num_kv_heads is None:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        for name in (*_POSITIVE, "head_dim", "num_kv_heads"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"TransformerConfig.{name} is {getattr(self, name)}; must be positive"
                )
        for name, choices in CHOICES.items():
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
        if self.logits_chunk is not None and self.logits_chunk < 1:
            raise UserError(
                f"TransformerConfig.logits_chunk is {self.logits_chunk}; must be positive, or None"
            )
        check_dropout(self)
        self._check_positions()

    def _check_positions(self) -> None:
        if self.position_offset < 0:
            raise UserError(
                f"TransformerConfig.position_offset is {self.position_offset}; must not be negative"
            )
        if self.sliding_window is not None and self.sliding_window < 1:
            raise UserError(
                f"TransformerConfig.sliding_window is {self.sliding_window}; must be positive"
            )
        if self.sliding_layers is not None and len(self.sliding_layers) != self.num_layers:
            raise UserError(
                f"TransformerConfig.sliding_layers has {len(self.sliding_layers)} entries; "
                f"expected one for each of the {self.num_layers} layers"
            )
        if self.position_embedding == "rotary" and (self.rotary_size < 2 or self.rotary_size % 2):
            raise UserError(
                f"TransformerConfig: rotary_fraction {self.rotary_fraction} of head_dim "
                f"{self.head_dim} rotates {self.rotary_size} features; must be a positive even "
                "number"
            )

    @property
    def rotary_size(self) -> int:
        """Features of a head that are rotated."""
        return int(self.head_size * self.rotary_fraction)

    @property
    def attention_scale(self) -> float:
        """What attention scores are multiplied by."""
        return (self.query_scalar or self.head_size) ** -0.5

    @property
    def slides(self) -> tuple[bool, ...]:
        """Whether each layer sees no further than `sliding_window`."""
        if self.sliding_window is None:
            return (False,) * self.num_layers
        return self.sliding_layers or (True,) * self.num_layers

    def has_bias(self, part: str) -> bool:
        """Whether the projections of `part` (`qkv`, `out` or `mlp`) have biases."""
        of_part = getattr(self, f"{part}_bias")
        return self.use_bias if of_part is None else of_part

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

    def architecture(self) -> dict[str, Any]:
        """The fields that decide which checkpoints fit; the rest may change from run to run."""
        fields = self.numerics()
        for name in ("dropout_rate", "dtype", "param_dtype", "init_std"):
            del fields[name]
        return fields

    def numerics(self) -> dict[str, Any]:
        """The fields that decide what is computed; how, like the mesh, may change within a run."""
        fields = dataclasses.asdict(self)
        for name in ("attention_kernel", "logits_chunk", "remat"):
            del fields[name]
        return fields
