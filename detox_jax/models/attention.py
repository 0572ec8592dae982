"""Attention, its masks, and the key-value cache as a pure function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from flax.linen import partitioning

from detox_jax.models.adaptation import Adaptation, LoRAConfig, Prefix, PrefixConfig
from detox_jax.models.config import TransformerConfig
from detox_jax.models.layers import Dense, Norm, rotary_frequencies, rotate, softcap

CACHE_AXES = ("batch", "length", "heads", "kv")
_EVERYTHING = 2**30


@struct.dataclass
class LayerData:
    """What may differ from layer to layer: arrays with a leading axis, which the scan takes off.

    Attributes:
      frequency_K: rotary radians a position; None with learned positions.
      window: int32, positions that a query sees; None where no layer of the model slides.
    """

    frequency_K: jax.Array | None = None
    window: jax.Array | None = None


def layer_data(cfg: TransformerConfig) -> LayerData:
    """The data of all layers, stacked."""
    frequency_NK = window_N = None
    if cfg.position_embedding == "rotary":
        frequency_NK = jnp.asarray(rotary_frequencies(cfg))
    if cfg.sliding_window is not None:
        windows = [cfg.sliding_window if slides else _EVERYTHING for slides in cfg.slides]
        window_N = jnp.asarray(windows, jnp.int32)
    return LayerData(frequency_K=frequency_NK, window=window_N)


def attend(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask_BLM: jax.Array,
    scale: float | None = None,
    cap: float | None = None,
) -> jax.Array:
    """Softmax attention, scores and softmax in float32; H/G query heads share a key-value head.

    Args:
      q_BLHK: queries.
      k_BMGK: keys.
      v_BMGK: values.
      mask_BLM: True where a query may look (B may be 1).
      scale: what scores are multiplied by; `K ** -0.5` where None.
      cap: of the scores, see `softcap`.

    Returns:
      The weighted values, `[B, L, H, K]`.
    """
    B, L, H, K = q_BLHK.shape
    G = k_BMGK.shape[2]
    q_BLGNK = q_BLHK.reshape(B, L, G, H // G, K)
    scores = jnp.einsum("BLGNK,BMGK->BGNLM", q_BLGNK, k_BMGK, preferred_element_type=jnp.float32)
    scores = softcap(scores * (K**-0.5 if scale is None else scale), cap)
    scores = jnp.where(mask_BLM[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BMGK.dtype)
    return jnp.einsum("BGNLM,BMGK->BLGNK", weights, v_BMGK).reshape(B, L, H, K)


def training_mask(
    length: int, segment_ids_BL: jax.Array | None, bidirectional_BL: jax.Array | None
) -> jax.Array:
    """Causal mask `[B or 1, L, L]`; packed segments do not see each other.

    Args:
      length: L.
      segment_ids_BL: which document each position belongs to, 0 for padding.
      bidirectional_BL: 1 on a part in which every position sees every other (a prefix LM's inputs).
    """
    index = jnp.arange(length)
    mask_BLM = (index[:, None] >= index[None, :])[None]
    if bidirectional_BL is not None:
        both = bidirectional_BL.astype(bool)
        mask_BLM = mask_BLM | (both[:, :, None] & both[:, None, :])
    if segment_ids_BL is not None:
        mask_BLM = mask_BLM & (segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :])
    return mask_BLM


def write_cache(cache_BMGK: jax.Array, new_BLGK: jax.Array, index_B: jax.Array) -> jax.Array:
    """Puts one step's keys or values (L = 1) at each row's own index."""
    here_BM = jnp.arange(cache_BMGK.shape[1])[None, :] == index_B[:, None]
    return jnp.where(here_BM[:, :, None, None], new_BLGK, cache_BMGK)


class Attention(nn.Module):
    """Multi-head self-attention in one of three modes, fixed when the module is built.

    Attributes:
      config: of the model.
      adaptation: LoRA and prefixes act here.
      mode: `train` (no cache), `prefill` (full attention; fills the cache from its start) or
        `decode` (one position a row; reads and extends the cache).
    """

    config: TransformerConfig
    adaptation: Adaptation | None = None
    mode: str = "train"

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        mask_BLM: jax.Array,
        positions_BL: jax.Array,
        layer: LayerData,
    ) -> jax.Array:
        """Attends and projects back to `[B, L, D]`.

        Args:
          x_BLD: input.
          mask_BLM: who sees whom, in `train` and `prefill`; unused in `decode`.
          positions_BL: of the inputs; in `decode` also the index at which the cache is written.
          layer: rotary frequencies and window of this layer.
        """
        cfg = self.config
        q_BLHK = self._project("query", cfg.num_heads)(x_BLD)
        k_BLGK = self._project("key", cfg.kv_heads)(x_BLD)
        v_BLGK = self._project("value", cfg.kv_heads)(x_BLD)
        if cfg.qk_norm:
            q_BLHK = Norm(cfg, "rmsnorm", "kv", name="query_norm")(q_BLHK)
            k_BLGK = Norm(cfg, "rmsnorm", "kv", name="key_norm")(k_BLGK)
        if layer.frequency_K is not None:
            q_BLHK = rotate(q_BLHK, positions_BL, layer.frequency_K)
            k_BLGK = rotate(k_BLGK, positions_BL, layer.frequency_K)
        k_BMGK, v_BMGK = k_BLGK, v_BLGK
        if self.mode != "train":
            k_BMGK, v_BMGK, mask_BLM = self._through_cache(k_BLGK, v_BLGK, mask_BLM, positions_BL)
        if layer.window is not None:
            mask_BLM = mask_BLM & self._window_mask(mask_BLM.shape, positions_BL, layer.window)
        out_BLHK = attend(
            q_BLHK, k_BMGK, v_BMGK, mask_BLM, cfg.attention_scale, cfg.attention_softcap
        )
        if isinstance(self.adaptation, PrefixConfig):
            out_BLHK = out_BLHK + Prefix(cfg, self.adaptation, name="prefix")(q_BLHK)
        return Dense(
            cfg,
            (cfg.num_heads, cfg.head_size),
            (cfg.emb_dim,),
            ("heads", "kv"),
            ("embed",),
            residual=True,
            use_bias=cfg.has_bias("out"),
            lora=lora_for("out", self.adaptation),
            name="out",
        )(out_BLHK)

    def _project(self, name: str, heads: int) -> Dense:
        cfg = self.config
        return Dense(
            cfg,
            (cfg.emb_dim,),
            (heads, cfg.head_size),
            ("embed",),
            ("heads", "kv"),
            use_bias=cfg.has_bias("qkv"),
            lora=lora_for(name, self.adaptation),
            name=name,
        )

    def _window_mask(
        self, shape: tuple[int, ...], positions_BL: jax.Array, window: jax.Array
    ) -> jax.Array:
        """Which keys are near enough, by their index in the row or in the cache."""
        query_BL = positions_BL if self.mode == "decode" else jnp.arange(shape[1])[None]
        return query_BL[:, :, None] - jnp.arange(shape[2])[None, None, :] < window

    def _through_cache(
        self, k_BLGK: jax.Array, v_BLGK: jax.Array, mask_BLM: jax.Array, positions_BL: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Writes keys and values to the cache and returns what the queries attend to."""
        initialized = self.has_variable("cache", "cached_key")
        cache = [
            partitioning.variable_with_axes(
                "cache", name, jnp.zeros_like, new_BLGK, axes=CACHE_AXES
            )
            for name, new_BLGK in (("cached_key", k_BLGK), ("cached_value", v_BLGK))
        ]
        new = (k_BLGK, v_BLGK)
        if not initialized:  # This call only sizes the cache, by the length of its input.
            return k_BLGK, v_BLGK, mask_BLM
        if self.mode == "prefill":
            for variable, new_BLGK in zip(cache, new, strict=True):
                variable.value = jax.lax.dynamic_update_slice(
                    variable.value, new_BLGK.astype(variable.value.dtype), (0, 0, 0, 0)
                )
            return k_BLGK, v_BLGK, mask_BLM
        for variable, new_BLGK in zip(cache, new, strict=True):
            variable.value = write_cache(variable.value, new_BLGK, positions_BL[:, 0])
        key, value = cache[0].value, cache[1].value
        mask_BLM = jnp.arange(key.shape[1])[None, None, :] <= positions_BL[:, :, None]
        return key, value, mask_BLM


def lora_for(name: str, adaptation: Adaptation | None) -> LoRAConfig | None:
    """The LoRA config of the projection `name`, if it has one."""
    if isinstance(adaptation, LoRAConfig) and name in adaptation.target_modules:
        return adaptation
    return None
