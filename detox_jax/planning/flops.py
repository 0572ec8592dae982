"""Floating-point operations of a step, counted from the sizes: matrix products alone.

A product of `[m, k]` and `[k, n]` is `2 m n k` operations. Of attention the model has the positions
that the causal mask leaves, half of the square, and in sliding layers those of the window. Plain
attention computes the square, whatever the mask hides; a kernel leaves out the blocks that are
hidden, and computes scores again in its backward pass.
"""

from __future__ import annotations

import dataclasses

from detox_jax.models import kernels
from detox_jax.models.adaptation import (
    Adaptation,
    AdapterConfig,
    LoRAConfig,
    LoReFTConfig,
    ParallelAdapterConfig,
    PrefixConfig,
)
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import WIDENS


@dataclasses.dataclass(frozen=True)
class LayerFlops:
    """Forward operations of one layer, a token.

    Attributes:
      dense: products with the base's weights.
      attention: scores and weighted values.
      adaptation: what the adaptation adds.
    """

    dense: float
    attention: float
    adaptation: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.dense + self.attention + self.adaptation


def layer(config: TransformerConfig, adaptation: Adaptation | None, context: float) -> LayerFlops:
    """Of one token that attends to `context` positions."""
    shapes = _projections(config)
    dense = sum(2.0 * size_in * size_out for size_in, size_out in shapes.values())
    attention = 4.0 * config.num_heads * config.head_size * context
    return LayerFlops(dense, attention, _added(config, adaptation, shapes))


def _projections(config: TransformerConfig) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each product; a gated MLP has several `wi` side by side."""
    D, F, K = config.emb_dim, config.mlp_dim, config.head_size
    return {
        "query": (D, config.num_heads * K),
        "key": (D, config.kv_heads * K),
        "value": (D, config.kv_heads * K),
        "out": (config.num_heads * K, D),
        "wi": (D, F * len(config.mlp_activations)),
        "wo": (F, D),
    }


def _added(
    config: TransformerConfig,
    adaptation: Adaptation | None,
    shapes: dict[str, tuple[int, int]],
) -> float:
    if isinstance(adaptation, AdapterConfig):
        adapters = 2 if adaptation.placement == "houlsby" else 1
        return adapters * 4.0 * config.emb_dim * adaptation.width(config.emb_dim)
    if isinstance(adaptation, ParallelAdapterConfig):
        return 4.0 * config.emb_dim * adaptation.width(config.emb_dim)
    if isinstance(adaptation, LoReFTConfig):
        return 4.0 * config.emb_dim * adaptation.rank
    if isinstance(adaptation, LoRAConfig):
        parts = {"wi": len(config.mlp_activations)}
        return sum(
            2.0 * adaptation.rank * (shapes[name][0] * parts.get(name, 1) + shapes[name][1])
            for name in adaptation.target_modules
        )
    if isinstance(adaptation, PrefixConfig):
        return 4.0 * config.num_heads * config.head_size * adaptation.prefix_length
    return 0.0


def logits(config: TransformerConfig) -> float:
    """Of one token's scores of the vocabulary."""
    return 2.0 * config.emb_dim * config.padded_vocab_size


def train_step(
    config: TransformerConfig,
    adaptation: Adaptation | None,
    *,
    tokens: int,
    length: int,
) -> float:
    """Forward and backward of a step: what the model needs, nothing twice.

    The backward pass of a product makes the gradients of both operands, as much work as twice the
    forward; of frozen weights it needs only the gradient of the input.

    Args:
      config: sizes.
      adaptation: what is trained.
      tokens: of the batch, padding included.
      length: of a row.
    """
    flops = layer(config, adaptation, _visible(config, length))
    a_layer = _dense_passes(adaptation) * flops.dense + 3 * (flops.attention + flops.adaptation)
    head = _dense_passes(adaptation) * logits(config)
    return tokens * (config.num_layers * a_layer + head)


def _visible(config: TransformerConfig, length: int) -> float:
    """Positions that a token attends to, itself included: the mean over a row and the layers."""
    window = min(config.sliding_window or length, length)
    # The first tokens of a row have less than a window before them.
    in_window = window - window * (window - 1) / (2 * length)
    sliding = sum(config.slides) / config.num_layers
    return sliding * in_window + (1 - sliding) * (length + 1) / 2


def _in_blocks(config: TransformerConfig, length: int) -> float:
    """Positions a token that splash attention computes, in whole blocks, see `kernels.Splash`."""
    block = kernels.block_of(length)
    num_blocks = -(-length // block)
    # Layers that slide and layers that do not have no kernel where the window hides anything.
    window = config.sliding_window if any(config.slides) else None
    behind = num_blocks if window is None else -(-(window - 1) // block)
    computed = sum(1 + min(number, behind) for number in range(num_blocks))
    return computed * block**2 / length


def computed_train_step(
    config: TransformerConfig,
    adaptation: Adaptation | None,
    *,
    tokens: int,
    length: int,
    kernel: bool = False,
) -> float:
    """What the devices compute in a step, rematerialisation and hidden positions included.

    Args:
      config: sizes.
      adaptation: what is trained.
      tokens: of the batch, padding included.
      length: of a row.
      kernel: attention is splash attention; plain otherwise. Its backward pass is seven products of
        the size of the forward pass's two: it makes scores, and gradients of weights, twice.
    """
    flops = layer(config, adaptation, _in_blocks(config, length) if kernel else length)
    a_layer = _dense_passes(adaptation) * flops.dense + 3 * flops.adaptation
    a_layer += (1 + (3.5 if kernel else 2)) * flops.attention
    a_layer += _recomputed(config, adaptation, flops, kernel)
    head = _dense_passes(adaptation) * logits(config)
    return tokens * (config.num_layers * a_layer + head)


def _dense_passes(adaptation: Adaptation | None) -> float:
    """Products with each weight: forward, gradient of the input, gradient of what is trained."""
    return 2.0 if adaptation is not None else 3.0


def _recomputed(
    config: TransformerConfig, adaptation: Adaptation | None, flops: LayerFlops, kernel: bool
) -> float:
    """What the backward pass of a layer computes again, a token, by the name of its policy."""
    if config.remat in ("none", "dots_all"):
        return 0.0
    if config.remat == "dots":  # Products with weights are kept, those of a batch are not.
        return _widened(config, adaptation) + (0.0 if kernel else flops.attention)
    # The last product's result is needed by nothing but what follows it in the layer.
    follows = isinstance(adaptation, AdapterConfig) or config.post_norms
    again = flops.total - (0.0 if follows else 2.0 * config.mlp_dim * config.emb_dim)
    # What a kernel returns is kept by `attention`, and by nothing that is left.
    return again - (flops.attention if kernel and config.remat == "attention" else 0.0)


def _widened(config: TransformerConfig, adaptation: Adaptation | None) -> float:
    """What `dots` computes again: products that leave an adaptation's bottleneck, where it is one.

    Not of an adapter behind the MLP, nor of LoReFT, whose result the layer only passes on.
    """
    D = config.emb_dim
    if isinstance(adaptation, AdapterConfig) and adaptation.placement == "houlsby":
        width = adaptation.width(D)
        return 2.0 * width * D if WIDENS * width <= D else 0.0
    if isinstance(adaptation, LoRAConfig):
        outs = [
            size_out
            for name, (_, size_out) in _projections(config).items()
            if name in adaptation.target_modules and name != "wo"
        ]
        rank = adaptation.rank
        return sum(2.0 * rank * size for size in outs if WIDENS * rank <= size)
    return 0.0


def prefill(
    config: TransformerConfig, adaptation: Adaptation | None, *, rows: int, length: int
) -> float:
    """Filling the cache from prompts, with plain attention; their logits are not needed.

    Args:
      config: sizes.
      adaptation: of the model that generates.
      rows: prompts.
      length: of a prompt, padding included.
    """
    return rows * length * config.num_layers * layer(config, adaptation, length).total


def decode_step(
    config: TransformerConfig,
    adaptation: Adaptation | None,
    *,
    rows: int,
    context: float,
    with_logits: bool = True,
) -> float:
    """One new token a row, with plain attention, which computes what a window hides too.

    Args:
      config: sizes.
      adaptation: of the model that generates.
      rows: samples that are decoded at once.
      context: positions of the cache that the token attends to, beside itself.
      with_logits: whether the vocabulary is scored.
    """
    flops = layer(config, adaptation, context + 1)
    return rows * (config.num_layers * flops.total + with_logits * logits(config))
