"""LLaMA and what descends from it: Mistral, Qwen, Gemma; RMSNorm, rotary positions, gated MLPs."""

from __future__ import annotations

from typing import Any

from detox_jax.interop.config_fields import Fields
from detox_jax.interop.family import (
    ACTIVATIONS,
    ATTENTION,
    MLP,
    Family,
    Map,
    activation_name,
    attention,
    linear,
    read_rope,
    take_rope,
    write_rope_scaling,
)
from detox_jax.interop.layouts import Flat, Rows, Tensor
from detox_jax.models import field_types
from detox_jax.models.config import TransformerConfig
from detox_jax.vocabulary import ID_SHIFT

# --- LLaMA and what descends from it ----------------------------------------------------------


_SIZES = ("num_key_value_heads", "head_dim")


def _common(
    fields: Fields, activation_field: str, activation: str, required: tuple[str, ...] = _SIZES
) -> dict[str, Any]:
    """Settings that LLaMA, Mistral, Qwen and Gemma share.

    Sizes for which a family has defaults of its own are `required`, so that none is guessed.
    """
    for name in required:
        fields.require(name)
    return {
        "vocab_size": fields.require("vocab_size") + ID_SHIFT,
        "emb_dim": fields.require("hidden_size"),
        "num_heads": fields.require("num_attention_heads"),
        "num_layers": fields.require("num_hidden_layers"),
        "mlp_dim": fields.require("intermediate_size"),
        "head_dim": fields.take("head_dim", None),
        "num_kv_heads": fields.take("num_key_value_heads", None),
        "max_length": fields.require("max_position_embeddings"),
        "mlp_activations": (fields.choose(activation_field, activation, ACTIVATIONS), "linear"),
        "position_embedding": "rotary",
        "norm": "rmsnorm",
        "norm_epsilon": fields.take("rms_norm_eps", 1e-6),
        "use_bias": False,
        "init_std": fields.take("initializer_range", 0.02),
    }


def _plain_rope(fields: Fields) -> dict[str, Any]:
    """Rotary settings: `rope_parameters`, or `rope_theta` and `rope_scaling` of older configs."""
    rope = {"rope_theta": fields.take("rope_theta", 10_000.0), **take_rope(fields)}
    theta, scaling = read_rope(fields, rope, "rope_parameters")
    return {"rope_theta": theta, "rope_scaling": scaling}


def _attention_bias(fields: Fields) -> dict[str, Any]:
    bias = True if fields.take("attention_bias", False) else None
    return {"qkv_bias": bias, "out_bias": bias}


def _read_llama(fields: Fields) -> TransformerConfig:
    # transformers' LLaMA reads no window: off in derivatives of families that have one.
    fields.expect("sliding_window", None)
    fields.expect("use_sliding_window", False)
    # The first LLaMA came before grouped queries, and its config.json has no such field.
    return TransformerConfig(
        **_common(fields, "hidden_act", "silu", required=()),
        **_plain_rope(fields),
        **_attention_bias(fields),
        mlp_bias=True if fields.take("mlp_bias", False) else None,
        logits_via_embedding=fields.take("tie_word_embeddings", False),
    )


def _read_mistral(fields: Fields) -> TransformerConfig:
    fields.expect("layer_types", None)
    return TransformerConfig(
        **_common(fields, "hidden_act", "silu", required=_SIZES[:1]),
        **_plain_rope(fields),
        sliding_window=fields.take("sliding_window", 4096),
        logits_via_embedding=fields.take("tie_word_embeddings", False),
    )


def _layer_count(fields: Fields) -> int:
    """How many layers there are; a list of them is made before the config can be checked."""
    layers, most = fields.require("num_hidden_layers"), field_types.MOST["num_layers"]
    if layers > most:
        fields.refuse("num_hidden_layers", layers, f"at most {most} are read")
    return layers


def _qwen_window(fields: Fields) -> dict[str, Any]:
    layers = _layer_count(fields)
    window = fields.take("sliding_window", None)
    if not fields.take("use_sliding_window", False):
        window = None
    first = fields.take("max_window_layers", 28)
    default = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    types = fields.take("layer_types", None) or default
    return _windows(fields, types if window is not None else ["full_attention"] * layers, window)


def _windows(fields: Fields, types: list[str], window: int | None) -> dict[str, Any]:
    if unknown := set(types) - {"sliding_attention", "full_attention"}:
        fields.refuse("layer_types", sorted(unknown))
    slides = tuple(kind == "sliding_attention" for kind in types)
    if not any(slides) or window is None:
        return {"sliding_window": None, "sliding_layers": None}
    return {"sliding_window": window, "sliding_layers": None if all(slides) else slides}


def _read_qwen2(fields: Fields) -> TransformerConfig:
    return TransformerConfig(
        **_common(fields, "hidden_act", "silu", required=_SIZES[:1]),
        **_plain_rope(fields),
        **_qwen_window(fields),
        qkv_bias=True,
        logits_via_embedding=fields.take("tie_word_embeddings", False),
    )


def _read_qwen3(fields: Fields) -> TransformerConfig:
    return TransformerConfig(
        **_common(fields, "hidden_act", "silu"),
        **_plain_rope(fields),
        **_qwen_window(fields),
        **_attention_bias(fields),
        qk_norm=True,
        logits_via_embedding=fields.take("tie_word_embeddings", False),
    )


def _write_llama(config: TransformerConfig) -> dict[str, Any]:
    return {
        **_write_common(config),
        "hidden_act": activation_name(config.mlp_activations[0]),
        **_rope_fields(config),
        "attention_bias": config.has_bias("qkv"),
        "mlp_bias": config.has_bias("mlp"),
    }


def _write_mistral(config: TransformerConfig) -> dict[str, Any]:
    return {
        **_write_common(config),
        "hidden_act": activation_name(config.mlp_activations[0]),
        **_rope_fields(config),
        "sliding_window": config.sliding_window,
    }


def _write_qwen2(config: TransformerConfig) -> dict[str, Any]:
    return {
        **_write_common(config),
        "hidden_act": activation_name(config.mlp_activations[0]),
        **_rope_fields(config),
        "use_sliding_window": config.sliding_window is not None,
        "sliding_window": config.sliding_window,
        "layer_types": _layer_types(config),
    }


def _write_qwen3(config: TransformerConfig) -> dict[str, Any]:
    return {**_write_qwen2(config), "attention_bias": config.has_bias("qkv")}


def _write_common(config: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size - ID_SHIFT,
        "hidden_size": config.emb_dim,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "num_hidden_layers": config.num_layers,
        "intermediate_size": config.mlp_dim,
        "head_dim": config.head_size,
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_epsilon,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.logits_via_embedding,
    }


def _rope_fields(config: TransformerConfig) -> dict[str, Any]:
    return {"rope_theta": config.rope_theta, "rope_scaling": write_rope_scaling(config)}


def _layer_types(config: TransformerConfig) -> list[str]:
    return ["sliding_attention" if slides else "full_attention" for slides in config.slides]


def _map_llama(num_tokens: int) -> Map:
    layer = "model.layers.{}"
    return {
        "model.embed_tokens.weight": Tensor(Rows(num_tokens), "token_embedder/embedding"),
        f"{layer}.input_layernorm.weight": Tensor(Flat(), "layers/pre_attention_norm/scale"),
        **attention(f"{layer}.self_attn", out="o_proj"),
        f"{layer}.self_attn.q_norm.weight": Tensor(Flat(), f"{ATTENTION}/query_norm/scale"),
        f"{layer}.self_attn.k_norm.weight": Tensor(Flat(), f"{ATTENTION}/key_norm/scale"),
        f"{layer}.post_attention_layernorm.weight": Tensor(Flat(), "layers/pre_mlp_norm/scale"),
        **linear(f"{layer}.mlp.gate_proj", f"{MLP}/wi_0"),
        **linear(f"{layer}.mlp.up_proj", f"{MLP}/wi_1"),
        **linear(f"{layer}.mlp.down_proj", f"{MLP}/wo"),
        "model.norm.weight": Tensor(Flat(), "final_norm/scale"),
        "lm_head.weight": Tensor(Rows(num_tokens), "logits_dense/embedding"),
    }


# --- Gemma ------------------------------------------------------------------------------------


def _read_gemma(fields: Fields) -> TransformerConfig:
    fields.expect("hidden_activation", None, "gelu_pytorch_tanh")
    common = _common(fields, "hidden_act", "gelu_pytorch_tanh")
    activation = common["mlp_activations"][0].replace("gelu_exact", "gelu")  # see _GEMMA_MEANS
    return TransformerConfig(
        **{**common, "mlp_activations": (activation, "linear")},
        **_plain_rope(fields),
        **_attention_bias(fields),
        **_GEMMA,
        logits_via_embedding=fields.take("tie_word_embeddings", True),
    )


# Early Gemma files say `gelu` and mean its tanh approximation, with which the models were trained.
# transformers 5.24 reads them so, with a line; versions before whose GemmaMLP is LlamaMLP take the
# name as it stands. So an export says what is meant.
_GEMMA_MEANS = (("hidden_act", "gelu", "gelu_pytorch_tanh"),)
_GEMMA: dict[str, Any] = {"norm_unit_offset": True, "embedding_scale": True}


def _read_gemma2(fields: Fields) -> TransformerConfig:
    layers = _layer_count(fields)
    default = ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    types = fields.take("layer_types", None) or default
    fields.expect("hidden_act", "gelu_pytorch_tanh")
    window = fields.take("sliding_window", 4096)
    fields.expect("sliding_window_size", window)  # gemma-2-9b has both; transformers reads the one
    return TransformerConfig(
        **_common(fields, "hidden_activation", "gelu_pytorch_tanh"),
        **_plain_rope(fields),
        **_attention_bias(fields),
        **_windows(fields, types, window),
        **_GEMMA,
        post_norms=True,
        query_scalar=fields.take("query_pre_attn_scalar", 256),
        attention_softcap=fields.take("attn_logit_softcapping", 50.0),
        logits_softcap=fields.take("final_logit_softcapping", 30.0),
        logits_via_embedding=fields.take("tie_word_embeddings", True),
    )


def _read_gemma3(fields: Fields) -> TransformerConfig:
    layers = _layer_count(fields)
    pattern = fields.take("sliding_window_pattern", fields.take("_sliding_window_pattern", 6))
    default = [
        "sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers)
    ]
    types = fields.take("layer_types", None) or default
    fields.expect("attn_logit_softcapping", None)
    windows = _windows(fields, types, fields.take("sliding_window", 4096))
    rope = _gemma3_rope(fields)
    if windows["sliding_window"] is None:
        rope["rope_local_theta"] = None
    return TransformerConfig(
        **_common(fields, "hidden_activation", "gelu_pytorch_tanh"),
        **rope,
        **_attention_bias(fields),
        **windows,
        **_GEMMA,
        post_norms=True,
        qk_norm=True,
        query_scalar=fields.take("query_pre_attn_scalar", 256),
        logits_softcap=fields.take("final_logit_softcapping", None),
        logits_via_embedding=fields.take("tie_word_embeddings", True),
    )


def _gemma3_rope(fields: Fields) -> dict[str, Any]:
    rope = take_rope(fields)
    local = dict(rope.pop("sliding_attention", None) or {})
    full = dict(rope.pop("full_attention", None) or rope)
    full.setdefault("rope_theta", fields.take("rope_theta", 1_000_000.0))
    local.setdefault("rope_theta", fields.take("rope_local_base_freq", 10_000.0))
    theta, scaling = read_rope(fields, full, "rope_parameters.full_attention")
    local_theta, local_scaling = read_rope(fields, local, "rope_parameters.sliding_attention")
    if local_scaling is not None:
        fields.refuse("rope_parameters.sliding_attention.rope_type", local_scaling.kind)
    return {"rope_theta": theta, "rope_scaling": scaling, "rope_local_theta": local_theta}


def _write_gemma(config: TransformerConfig) -> dict[str, Any]:
    activation = config.mlp_activations[0]
    name = "gelu_pytorch_tanh" if activation == "gelu" else activation_name(activation)
    return {
        **_write_common(config),
        "hidden_act": name,
        "hidden_activation": name,
        **_rope_fields(config),
        "attention_bias": config.has_bias("qkv"),
    }


def _write_gemma2(config: TransformerConfig) -> dict[str, Any]:
    fields = {
        **_write_gemma(config),
        "query_pre_attn_scalar": config.query_scalar,
        "sliding_window": config.sliding_window or 4096,
        "layer_types": _layer_types(config),
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logits_softcap,
    }
    del fields["hidden_act"]
    return fields


def _write_gemma3(config: TransformerConfig) -> dict[str, Any]:
    return {**_write_gemma2(config), "rope_local_base_freq": config.rope_local_theta or 10_000.0}


def _map_gemma2(num_tokens: int) -> Map:
    tensors, layer = _map_llama(num_tokens), "model.layers.{}"
    tensors |= {
        f"{layer}.post_attention_layernorm.weight": Tensor(
            Flat(), "layers/post_attention_norm/scale"
        ),
        f"{layer}.pre_feedforward_layernorm.weight": Tensor(Flat(), "layers/pre_mlp_norm/scale"),
        f"{layer}.post_feedforward_layernorm.weight": Tensor(Flat(), "layers/post_mlp_norm/scale"),
    }
    return tensors


FAMILIES = (
    Family("llama", "LlamaForCausalLM", "model.", _read_llama, _write_llama, _map_llama),
    Family("mistral", "MistralForCausalLM", "model.", _read_mistral, _write_mistral, _map_llama),
    Family("qwen2", "Qwen2ForCausalLM", "model.", _read_qwen2, _write_qwen2, _map_llama),
    Family("qwen3", "Qwen3ForCausalLM", "model.", _read_qwen3, _write_qwen3, _map_llama),
    Family(
        "gemma",
        "GemmaForCausalLM",
        "model.",
        _read_gemma,
        _write_gemma,
        _map_llama,
        meant=_GEMMA_MEANS,
    ),
    Family("gemma2", "Gemma2ForCausalLM", "model.", _read_gemma2, _write_gemma2, _map_gemma2),
    Family("gemma3_text", "Gemma3ForCausalLM", "model.", _read_gemma3, _write_gemma3, _map_gemma2),
)
