"""The decoder: Mlp, DecoderLayer, the scanned stack, and TransformerLM."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning

from detox_jax.models import blocks, kernels
from detox_jax.models import edits as edits_lib
from detox_jax.models.adaptation import (
    Adaptation,
    AdapterConfig,
    BitFitConfig,
    LoReFTConfig,
    ParallelAdapterConfig,
    require_fit,
)
from detox_jax.models.adaptation_modules import Adapter, LoReFT, ParallelAdapter
from detox_jax.models.attention import (
    Attention,
    LayerData,
    Visibility,
    layer_data,
    lora_for,
    training_mask,
)
from detox_jax.models.config import TransformerConfig
from detox_jax.models.kv_cache import CACHE_AXES, CacheVariables, cache_shapes
from detox_jax.models.layers import Dense, Embed, Norm, activate, scan_layers, softcap

# By how much a product with weights must widen what it reads to be made again in place of kept: of
# an adapter that is less than 1 % of a layer's work.
WIDENS = 16
ACTIVATION_AXES = ("batch", "length", "embed")
_INVALID_LOGIT = -1e10
# Of the output table, see `logits_in_blocks`.
_NUMBERS_OF_BLOCK, MOST_BLOCKS = 2**21, 16
_POLICIES = jax.checkpoint_policies
# A kernel is no product to JAX: its results are saved by name.
_KERNEL_RESULTS = _POLICIES.save_only_these_names(kernels.RESULTS)


def _keeps_product(primitive: Any, *operands: Any, **how: Any) -> bool:
    """Whether `dots` keeps a result: of products with weights, but not with those that are narrow.

    What leaves a bottleneck is computed from it sooner than kept: of the wide side of an adapter,
    or of LoRA, there are as many numbers as of the layer's input.
    """
    if not _POLICIES.dots_with_no_batch_dims_saveable(primitive, *operands, **how):
        return False
    (contracted, _), _ = how["dimension_numbers"]
    left, right = (operand.shape for operand in operands[:2])
    depth = math.prod(left[axis] for axis in contracted)
    return math.prod(right) // depth < WIDENS * depth


_REMAT_POLICIES = {
    "dots_all": _POLICIES.save_from_both_policies(_POLICIES.dots_saveable, _KERNEL_RESULTS),
    "dots": _POLICIES.save_from_both_policies(_keeps_product, _KERNEL_RESULTS),
    "attention": _KERNEL_RESULTS,
    "full": _POLICIES.nothing_saveable,
}

# In place of `none`: what lies between two products is computed sooner than read from memory, where
# it takes two thirds of all that is kept for the way back.
_CPU_REMAT = "dots_all"


class Mlp(nn.Module):
    """`wo(activation(wi(x)))`; with several activations their outputs are multiplied (gating)."""

    config: TransformerConfig
    adaptation: Adaptation | None = None

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """Applies the MLP; shape stays."""
        cfg = self.config
        names = cfg.mlp_activations
        h_BLF: Any = None
        for i, activation in enumerate(names):
            part_BLF = Dense(
                cfg,
                (cfg.emb_dim,),
                (cfg.mlp_dim,),
                ("embed",),
                ("mlp",),
                use_bias=cfg.has_bias("mlp"),
                lora=lora_for("wi", self.adaptation),
                bitfit=isinstance(self.adaptation, BitFitConfig),
                name="wi" if len(names) == 1 else f"wi_{i}",
            )(x_BLD)
            part_BLF = activate(activation, part_BLF)
            h_BLF = part_BLF if h_BLF is None else h_BLF * part_BLF
        return Dense(
            cfg,
            (cfg.mlp_dim,),
            (cfg.emb_dim,),
            ("mlp",),
            ("embed",),
            residual=True,
            use_bias=cfg.has_bias("mlp"),
            lora=lora_for("wo", self.adaptation),
            bitfit=isinstance(self.adaptation, BitFitConfig),
            name="wo",
        )(h_BLF)


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, each with its residual and, where configured, its adapter."""

    config: TransformerConfig
    adaptation: Adaptation | None = None
    deterministic: bool = True
    return_keys_values: bool = False
    kernel: kernels.Kernel | None = None

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, layer: LayerData, visibility: Visibility, positions_BL: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        """One layer as a step of `nn.scan`: the carry is the residual stream."""
        cfg = self.config
        x_BLD = partitioning.with_sharding_constraint(x_BLD, ACTIVATION_AXES)
        bitfit = isinstance(self.adaptation, BitFitConfig)
        h_BLD = Norm(cfg, bitfit=bitfit, name="pre_attention_norm")(x_BLD)
        attention = Attention(cfg, self.adaptation, self.kernel, name="attention")
        a_BLD, keys_values = attention(h_BLD, visibility, positions_BL, layer)
        a_BLD = self._finish("attention", a_BLD, h_BLD)
        a_BLD = edits_lib.pass_through(self, edits_lib.ATTENTION, a_BLD, layer.edits)
        pre_mlp_norm = Norm(cfg, bitfit=bitfit, name="pre_mlp_norm")
        h_BLD = pre_mlp_norm(x_BLD if cfg.parallel_residual else x_BLD + a_BLD)
        m_BLD = Mlp(cfg, self.adaptation, name="mlp")(h_BLD)
        m_BLD = self._finish("mlp", m_BLD, h_BLD)
        m_BLD = edits_lib.pass_through(self, edits_lib.MLP, m_BLD, layer.edits)
        x_BLD = x_BLD + a_BLD + m_BLD
        if isinstance(self.adaptation, LoReFTConfig):
            x_BLD = self._rotate(self.adaptation, x_BLD, positions_BL, layer)
        x_BLD = edits_lib.pass_through(self, edits_lib.RESIDUAL, x_BLD, layer.edits)
        return x_BLD, keys_values if self.return_keys_values else None

    def _rotate(
        self, reft: LoReFTConfig, x_BLD: jax.Array, positions_BL: jax.Array, layer: LayerData
    ) -> jax.Array:
        """LoReFT's edit, where it acts."""
        edited_BLD = x_BLD + LoReFT(self.config, reft, name="loreft")(x_BLD)
        acts_BL = jnp.ones(positions_BL.shape, bool)
        if reft.first_positions is not None:
            acts_BL = positions_BL < reft.first_positions
        if layer.is_adapted is not None:
            acts_BL = acts_BL & layer.is_adapted
        return jnp.where(acts_BL[:, :, None], edited_BLD, x_BLD)

    def _finish(self, sublayer: str, x_BLD: jax.Array, input_BLD: jax.Array) -> jax.Array:
        """What happens between a sublayer, which read `input_BLD`, and its residual."""
        adaptation = self.adaptation
        if self.config.post_norms:
            bitfit = isinstance(adaptation, BitFitConfig)
            x_BLD = Norm(self.config, bitfit=bitfit, name=f"post_{sublayer}_norm")(x_BLD)
        if isinstance(adaptation, AdapterConfig) and (
            sublayer == "mlp" or adaptation.placement == "houlsby"
        ):
            adapter = Adapter(self.config, adaptation, name=f"{sublayer}_adapter")
            x_BLD = _whole(adapter(_in_parts(x_BLD)))
        if isinstance(adaptation, ParallelAdapterConfig) and sublayer == "mlp":
            beside = ParallelAdapter(self.config, adaptation, name="mlp_parallel_adapter")
            x_BLD = _whole(_in_parts(x_BLD) + beside(_in_parts(input_BLD)))
        return nn.Dropout(self.config.dropout_rate, name=f"{sublayer}_dropout")(
            x_BLD, deterministic=self.deterministic
        )


def _in_parts(x_BLD: jax.Array) -> jax.Array:
    """States of which devices that split heads have a part of the width each, for an adapter.

    What a sublayer returns is then summed into parts, and `_whole` gathers what the adapter made of
    them. Together that sends as much as the sum of whole states does, which there is without one.
    """
    if x_BLD.shape[-1] % kernels.parts_of_heads():
        return x_BLD
    return partitioning.with_sharding_constraint(x_BLD, ("batch", "length", "width"))


def _whole(x_BLD: jax.Array) -> jax.Array:
    return partitioning.with_sharding_constraint(x_BLD, ACTIVATION_AXES)


class TransformerLM(nn.Module):
    """A decoder-only language model with T5X's decoder-only call.

    Attributes:
      config: sizes and architecture.
      adaptation: what is added to the base model, or None.
      num_tokens: ids that stand for tokens, padding included, where those are fewer than the
        config's: a model that was imported may have rows beyond its vocabulary. All where None.
    """

    config: TransformerConfig
    adaptation: Adaptation | None = None
    num_tokens: int | None = None

    def __post_init__(self):
        require_fit(self.config, self.adaptation)
        super().__post_init__()

    @property
    def scan_layers(self) -> bool:
        """T5X asks this to find the batch axis of the cache: axis 1, behind the layers."""
        return True

    @property
    def vocab_size(self) -> int:
        """The ids that stand for tokens, padding included."""
        return self.num_tokens or self.config.vocab_size

    @nn.compact
    def __call__(
        self,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        decoder_causal_attention: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
        prefill: bool | None = None,
        prefill_lengths: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        logit_positions: jax.Array | None = None,
        with_logits: bool = True,
        edits: Sequence[edits_lib.Edit] = (),
        cache_room: int | None = None,
        ahead: bool = False,
    ) -> jax.Array:
        """Logits of the next token at every position.

        Three ways to call it. Training: tokens `[B, L]`, packed or not. Prefill: prompts `[B, L]`
        padded on the right; fills the cache and leaves each row's cache index at
        `prefill_lengths[b]`. Decode: one token a row, `[B, 1]`, read at the row's cache index,
        which advances by one. The cache is created by a call with `decode=True` on tokens `[B, M]`,
        M its length.

        Args:
          decoder_input_tokens: ids, int32 `[B, L]`.
          decoder_target_tokens: not needed (T5X passes them to mask padding, which on the right of
            a causal model changes nothing).
          decoder_segment_ids: document of each position, 0 for padding, `[B, L]`.
          decoder_positions: position within its document, `[B, L]`; counted from 0 where None.
          decoder_causal_attention: 1 where attention is bidirectional, `[B, L]`.
          enable_dropout: needs the rng `dropout` where the rate is above 0.
          decode: use the cache, one token a row.
          max_decode_length: ignored; the cache knows its length.
          prefill: fill the cache from prompts.
          prefill_lengths: tokens of each prompt that are in the cache afterwards, int32 `[B]`.
          attention_mask: who sees whom, bool `[B, L, L]`, in place of the causal mask; nobody sees
            what comes later.
          logit_positions: the indices, int32 `[B, T]`, at which alone logits are computed.
          edits: what changes hidden states, in this order at every site; arrays have the layers on
            axis 0, but for those of the final state.
          cache_room: of a decoding step: the first positions of the cache, which alone are read; no
            row of which the result matters may have filled more. All where None.
          ahead: of a decoding step: tokens `[B, k]` that might come next, each read at the row's
            cache index, from one cache and not from each other. What the call leaves as the cache
            is what each would add to it, k positions, and the index as it was.
          with_logits: False returns what `output_logits` makes the logits of, `[B, L, D]`.

        Returns:
          Float32 `[B, L, V]` or `[B, T, V]`; ids that stand for no token get -1e10.
        """
        del decoder_target_tokens, max_decode_length
        cfg = self.config
        B, L = decoder_input_tokens.shape
        cache = self._cache(B, L) if prefill or decode else None
        positions_BL = decoder_positions
        if positions_BL is None:
            positions_BL = jnp.broadcast_to(jnp.arange(L, dtype=jnp.int32), (B, L))
        by_layer = tuple(edit for edit in edits if edit.site != edits_lib.FINAL)
        layer = dataclasses.replace(layer_data(cfg, self.adaptation), edits=by_layer)
        if cache is not None and not prefill:
            positions_BL = jnp.broadcast_to(cache.index_B[:, None], (B, L))
            layer = dataclasses.replace(layer, number=jnp.arange(cfg.num_layers, dtype=jnp.int32))
        causal = decoder_causal_attention is None and attention_mask is None
        kernel = None if ahead else kernels.choose(cfg, B, L, causal=causal)[0]
        if ahead:
            visibility = Visibility(mask_BLM=jnp.eye(L, dtype=bool)[None])
        elif kernel is not None:
            visibility = Visibility(segment_ids_BL=decoder_segment_ids)
        else:
            visibility = _visibility(
                cfg,
                (B, L),
                attention_mask,
                decoder_segment_ids,
                decoder_causal_attention,
                trains=cache is None,
            )
        if cache is not None and not prefill:
            visibility = dataclasses.replace(visibility, cached=cache.read(cache_room))

        embedder = Embed(cfg, cfg.padded_vocab_size, "vocab", name="token_embedder")
        x_BLD = embedder(decoder_input_tokens)
        if cfg.embedding_scale:
            x_BLD = x_BLD * jnp.asarray(math.sqrt(cfg.emb_dim), x_BLD.dtype)
        if cfg.position_embedding == "learned":
            rows = cfg.max_length + cfg.position_offset
            positions = Embed(cfg, rows, "abspos_buckets", name="position_embedder")
            x_BLD = x_BLD + positions(positions_BL + cfg.position_offset)
        x_BLD = nn.Dropout(cfg.dropout_rate, name="input_dropout")(
            x_BLD, deterministic=not enable_dropout
        )
        scanned = _scanned(cfg, reads_alone=cache is not None, initializing=self.is_initializing())
        layers = scanned(
            cfg, self.adaptation, not enable_dropout, cache is not None, kernel, name="layers"
        )
        x_BLD, keys_values = layers(x_BLD, layer, visibility, positions_BL)
        if cache is not None and prefill:
            cache.fill(keys_values, prefill_lengths)
        elif cache is not None and ahead:
            cache.leave(keys_values)
        elif cache is not None:
            cache.extend(keys_values)
        if logit_positions is not None:
            x_BLD = jnp.take_along_axis(x_BLD, logit_positions[:, :, None], axis=1)
        bitfit = isinstance(self.adaptation, BitFitConfig)
        x_BLD = Norm(cfg, bitfit=bitfit, name="final_norm")(x_BLD)
        x_BLD = edits_lib.pass_through(self, edits_lib.FINAL, x_BLD, edits)
        if not with_logits:
            return x_BLD
        if not cfg.logits_via_embedding:
            embedder = Embed(cfg, cfg.padded_vocab_size, "vocab", name="logits_dense")
        return output_logits(cfg, embedder.embedding, x_BLD, self.vocab_size)

    def _cache(self, B: int, L: int) -> CacheVariables | None:
        """The cache of this call; None where the call only creates it, for L positions."""
        cfg = self.config
        initialized = self.has_variable("cache", "cache_index")
        shapes = cache_shapes(cfg, B, L)

        def variables(name: str) -> list[Any]:
            return [
                partitioning.variable_with_axes(
                    "cache",
                    name if len(shapes) == 1 else f"{name}_{place}",
                    jnp.zeros,
                    shape,
                    cfg.activation_dtype,
                    axes=CACHE_AXES,
                )
                for place, shape in enumerate(shapes)
            ]

        keys, values = variables("cached_key"), variables("cached_value")
        # One axis in front stands for the layers, so that all of the cache has batch at axis 1.
        index: Any = partitioning.variable_with_axes(
            "cache", "cache_index", jnp.zeros, (1, B), jnp.int32, axes=("layers", "batch")
        )
        return CacheVariables(keys, values, index) if initialized else None


def _visibility(
    cfg: TransformerConfig,
    shape: tuple[int, int],
    mask_BLL: jax.Array | None,
    segment_ids_BL: jax.Array | None,
    bidirectional_BL: jax.Array | None,
    *,
    trains: bool,
) -> Visibility:
    """Who sees whom in plain attention: by the mask that is given, or by the causal one.

    Args:
      cfg: of the model.
      shape: B and L.
      mask_BLL: in place of the causal mask; None for that.
      segment_ids_BL: see `training_mask`.
      bidirectional_BL: likewise.
      trains: whether a gradient may be taken, which then goes block by block.
    """
    B, L = shape
    if mask_BLL is not None:
        return Visibility(mask_BLM=mask_BLL, in_blocks=blocks.reads_in_blocks(cfg, B, L))
    mask_BLM = training_mask(L, segment_ids_BL, bidirectional_BL)
    by_blocks = trains and bidirectional_BL is None and blocks.trains_in_blocks(cfg, B, L)
    return Visibility(mask_BLM=mask_BLM, gradient_in_blocks=by_blocks)


def output_table(cfg: TransformerConfig, params: Any) -> jax.Array:
    """The rows, `[V, D]`, whose products with the final hidden states are the logits."""
    return params["token_embedder" if cfg.logits_via_embedding else "logits_dense"]["embedding"]


def logits_in_chunks(
    cfg: TransformerConfig, params: Any, vocab_size: int | None = None
) -> Callable[[jax.Array], jax.Array]:
    """`output_logits` of a chunk of positions, `[B, C, D]`, for a loop over chunks.

    Where its width is split over devices, the output table is gathered here, once for all chunks,
    and rounded as activations are before, so that half as much is sent. Of its gradient a device
    keeps its own part alone.

    Args:
      cfg: of the network.
      params: its parameters.
      vocab_size: see `output_logits`.
    """
    table_VD = output_table(cfg, params)
    table_VD = _of_whole_width(table_VD.astype(cfg.activation_dtype)).astype(table_VD.dtype)
    return lambda x_BCD: output_logits(cfg, _of_whole_width(table_VD), x_BCD, vocab_size)


def logits_in_blocks(
    cfg: TransformerConfig, params: Any, vocab_size: int | None = None
) -> Callable[[jax.Array], list[jax.Array]]:
    """The same in blocks along the vocabulary, one behind the other.

    Of one CPU device they are several where the output table is large: products with so many rows
    at once are faster (`benchmarks/loss_places.py`), and what is made of logits stays in its
    caches. Else there is one; also in bfloat16, in which the states' gradients, a sum over blocks,
    would be rounded block by block.

    Args:
      cfg: of the network.
      params: its parameters.
      vocab_size: see `output_logits`.
    """
    table_VD = output_table(cfg, params)
    number = min(table_VD.size // _NUMBERS_OF_BLOCK, MOST_BLOCKS)
    is_float32 = cfg.activation_dtype == jnp.float32
    if number <= 1 or not (is_float32 and kernels.is_one_cpu()):
        logits_of = logits_in_chunks(cfg, params, vocab_size)
        return lambda x_BCD: [logits_of(x_BCD)]
    tables = jnp.array_split(table_VD, number)
    firsts = np.cumsum([0, *map(len, tables[:-1])]).tolist()
    return lambda x_BCD: [
        output_logits(cfg, table, x_BCD, vocab_size, first)
        for table, first in zip(tables, firsts, strict=True)
    ]


@jax.custom_vjp
def _of_whole_width(table_VD: jax.Array) -> jax.Array:
    return partitioning.with_sharding_constraint(table_VD, ("vocab", None))


def _split_gradient(_: None, gradient_VD: jax.Array) -> tuple[jax.Array]:
    return (partitioning.with_sharding_constraint(gradient_VD, ("vocab", "embed")),)


_of_whole_width.defvjp(lambda table_VD: (_of_whole_width(table_VD), None), _split_gradient)


def output_logits(
    cfg: TransformerConfig,
    table_VD: jax.Array,
    x_BLD: jax.Array,
    vocab_size: int | None = None,
    first: int = 0,
) -> jax.Array:
    """The logits of final hidden states, float32 `[B, L, V]`, as `TransformerLM` returns them.

    Args:
      cfg: of the network.
      table_VD: see `output_table`, or some of its rows.
      x_BLD: the states.
      vocab_size: see `TransformerLM.vocab_size`; the config's where None.
      first: the id of the table's first row.
    """
    table_VD = table_VD.astype(cfg.activation_dtype)
    logits_BLV = jnp.einsum("BLD,VD->BLV", x_BLD, table_VD, preferred_element_type=jnp.float32)
    logits_BLV = softcap(logits_BLV, cfg.logits_softcap)
    logits_BLV = partitioning.with_sharding_constraint(logits_BLV, ("batch", "length", "vocab"))
    ids_V = jnp.arange(first, first + len(table_VD))
    is_token_V = (ids_V > 0) & (ids_V < (vocab_size or cfg.vocab_size))
    return jnp.where(is_token_V, logits_BLV, _INVALID_LOGIT)


def _scanned(cfg: TransformerConfig, *, reads_alone: bool, initializing: bool) -> Any:
    """DecoderLayer, rematerialised as configured and scanned over a leading `layers` axis.

    Args:
      cfg: `remat` says what the backward pass computes again.
      reads_alone: no gradient is ever taken of this call.
      initializing: this call creates the parameters.
    """
    layer: Any = DecoderLayer
    remat = cfg.remat
    if remat == "none" and not reads_alone and kernels.platform_in_use() == "cpu":
        remat = _CPU_REMAT
    if remat != "none":
        layer = nn.remat(layer, prevent_cse=False, policy=_REMAT_POLICIES[remat])
    in_axes = (0, nn.broadcast, nn.broadcast)
    return scan_layers(layer, cfg.num_layers, in_axes, initializing=initializing)
