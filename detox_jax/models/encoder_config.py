"""EncoderConfig: the sizes and the architecture of a bidirectional sequence classifier."""

from __future__ import annotations

import dataclasses

from detox_jax.errors import UserError
from detox_jax.models.config import NetworkConfig, check_dropout

_CHOICES = {
    "head_activation": ("tanh", "relu", "gelu", "gelu_exact"),
    "dtype": ("float32", "bfloat16"),
    "param_dtype": ("float32", "bfloat16"),
}
_POSITIVE = (
    "vocab_size",
    "emb_dim",
    "num_heads",
    "num_layers",
    "mlp_dim",
    "num_labels",
    "max_length",
)


@dataclasses.dataclass(frozen=True)
class RelativePositions:
    """Disentangled attention (DeBERTa; He et al., 2021, section 3.1): scores also know distances.

    Attributes:
      content_to_position: the query's content reads the distance to the key.
      position_to_content: the key's content reads the distance from the query.
      span: distances that have a vector of their own, on either side; farther ones share the last.
      max_distance: where logarithmic buckets end (DeBERTa-v2 and v3): of the `span` buckets of a
        side the nearer half holds one distance each, and the rest grow up to `max_distance`. One
        bucket a distance where None.
      shared_projections: distances pass through the content's query and key projections.
      norm: LayerNorm of the distances' vectors.
    """

    content_to_position: bool = True
    position_to_content: bool = True
    span: int = 256
    max_distance: int | None = 512
    shared_projections: bool = True
    norm: bool = True

    def __post_init__(self):
        if self.span < 1:
            raise UserError(f"RelativePositions.span is {self.span}; must be positive")
        if self.max_distance is not None and not 1 < self.span // 2 < self.max_distance - 1:
            raise UserError(
                f"RelativePositions: logarithmic buckets need a span of at least 4 and less than "
                f"twice max_distance; they are {self.span} and {self.max_distance}"
            )

    @property
    def num_terms(self) -> int:
        """Summands of a score, content to content among them."""
        return 1 + self.content_to_position + self.position_to_content


@dataclasses.dataclass(frozen=True)
class EncoderConfig(NetworkConfig):
    """An encoder with LayerNorm behind each sublayer and a head on its first token.

    The defaults are BERT's architecture.

    Attributes:
      vocab_size: number of ids, the padding id 0 included; the embedding is padded to a multiple
        of 128 rows.
      emb_dim: width.
      num_heads: heads, each of `emb_dim / num_heads`.
      num_layers: layers.
      mlp_dim: hidden units of the MLP.
      num_labels: outputs.
      max_length: the longest text, in tokens.
      type_vocab_size: rows of the table of segments; all tokens are of the first. No table where 0.
      absolute_positions: learned absolute positions.
      position_offset: rows of the position table before that of the first position.
      uncounted_id: an id that advances no position (RoBERTa's own padding token, where a text
        spells it); none where None.
      relative_positions: of attention; none where None.
      activation: of the MLP, see `layers.activate`.
      head_activation: of the head's hidden layer.
      norm_epsilon: added to the variance.
      dropout_rate: on embeddings, sublayers and the head.
      init_std: standard deviation of initial weights.
      dtype: of activations and matrix products; softmax, norms and logits are float32.
      param_dtype: of stored parameters.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    num_layers: int
    mlp_dim: int
    num_labels: int
    max_length: int = 512
    type_vocab_size: int = 2
    absolute_positions: bool = True
    position_offset: int = 0
    uncounted_id: int | None = None
    relative_positions: RelativePositions | None = None
    activation: str = "gelu_exact"
    head_activation: str = "tanh"
    norm_epsilon: float = 1e-12
    dropout_rate: float = 0.0
    init_std: float = 0.02
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise UserError(f"EncoderConfig.{name} is {getattr(self, name)}; must be positive")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(
                    f"EncoderConfig.{name} is {getattr(self, name)!r}; one of {', '.join(choices)}"
                )
        if self.emb_dim % self.num_heads:
            raise UserError(
                f"EncoderConfig: emb_dim {self.emb_dim} is no multiple of num_heads "
                f"{self.num_heads}"
            )
        check_dropout(self)

    # What `layers.LayerConfig` asks and no encoder here varies.
    norm = "layernorm"
    norm_unit_offset = False
    use_bias = True

    @property
    def head_size(self) -> int:
        """Size of a head."""
        return self.emb_dim // self.num_heads
