"""The model families of Hugging Face: a config mapping and a map of tensors for each.

A map has one line a tensor. Lines whose parameters a config lacks (biases, an untied head) drop
out, so one map serves every variant of a family.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from detox_jax.interop.fields import Fields
from detox_jax.interop.layouts import Conv1D, Flat, FusedHeads, Linear, Rows, Table, Tensor
from detox_jax.models.config import RopeScaling, TransformerConfig

Map = dict[str, Tensor]

# Both directions of an activation's name; the first name of several is the one written.
_ACTIVATIONS = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_fast": "gelu",
    "gelu": "gelu_exact",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_ATTENTION = "layers/attention"
_MLP = "layers/mlp"


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type` of Hugging Face.

    Attributes:
      model_type: as config.json names it.
      architecture: the class that `AutoModelForCausalLM` loads.
      prefix: of the tensors of the body, which checkpoints of the bare body leave out.
      read: fields of config.json to a config.
      write: a config to fields of config.json.
      tensors: the map, for a number of tokens.
      head: name of an untied output projection.
      buffers: pattern of stored tensors that hold constants, no weights.
    """

    model_type: str
    architecture: str
    prefix: str
    read: Callable[[Fields], TransformerConfig]
    write: Callable[[TransformerConfig], dict[str, Any]]
    tensors: Callable[[int], Map]
    head: str = "lm_head.weight"
    buffers: str = r".*\.rotary_emb\.inv_freq"


# --- GPT-2 ------------------------------------------------------------------------------------


def _read_gpt2(fields: Fields) -> TransformerConfig:
    width = fields.require("n_embd")
    return TransformerConfig(
        vocab_size=fields.require("vocab_size") + 1,
        emb_dim=width,
        num_heads=fields.require("n_head"),
        num_layers=fields.require("n_layer"),
        mlp_dim=fields.take("n_inner", None) or 4 * width,
        max_length=fields.require("n_positions"),
        mlp_activations=(fields.choose("activation_function", "gelu_new", _ACTIVATIONS),),
        norm_epsilon=fields.take("layer_norm_epsilon", 1e-5),
        init_std=fields.take("initializer_range", 0.02),
        logits_via_embedding=fields.take("tie_word_embeddings", True),
    )


def _write_gpt2(config: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size - 1,
        "n_embd": config.emb_dim,
        "n_head": config.num_heads,
        "n_layer": config.num_layers,
        "n_inner": config.mlp_dim,
        "n_positions": config.max_length,
        "activation_function": _activation_name(config.mlp_activations[0]),
        "layer_norm_epsilon": config.norm_epsilon,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.logits_via_embedding,
    }


def _map_gpt2(num_tokens: int) -> Map:
    qkv = [f"{_ATTENTION}/{name}" for name in ("query", "key", "value")]
    layer = "transformer.h.{}"
    return {
        "transformer.wte.weight": Tensor(Rows(num_tokens), "token_embedder/embedding"),
        "transformer.wpe.weight": Tensor(Table(), "position_embedder/embedding"),
        f"{layer}.ln_1.weight": Tensor(Flat(), "layers/pre_attention_norm/scale"),
        f"{layer}.ln_1.bias": Tensor(Flat(), "layers/pre_attention_norm/bias"),
        f"{layer}.attn.c_attn.weight": Tensor(Conv1D(), *(f"{path}/kernel" for path in qkv)),
        f"{layer}.attn.c_attn.bias": Tensor(Conv1D(0), *(f"{path}/bias" for path in qkv)),
        f"{layer}.attn.c_proj.weight": Tensor(Conv1D(2), f"{_ATTENTION}/out/kernel"),
        f"{layer}.attn.c_proj.bias": Tensor(Flat(), f"{_ATTENTION}/out/bias"),
        f"{layer}.ln_2.weight": Tensor(Flat(), "layers/pre_mlp_norm/scale"),
        f"{layer}.ln_2.bias": Tensor(Flat(), "layers/pre_mlp_norm/bias"),
        f"{layer}.mlp.c_fc.weight": Tensor(Conv1D(), f"{_MLP}/wi/kernel"),
        f"{layer}.mlp.c_fc.bias": Tensor(Flat(), f"{_MLP}/wi/bias"),
        f"{layer}.mlp.c_proj.weight": Tensor(Conv1D(), f"{_MLP}/wo/kernel"),
        f"{layer}.mlp.c_proj.bias": Tensor(Flat(), f"{_MLP}/wo/bias"),
        "transformer.ln_f.weight": Tensor(Flat(), "final_norm/scale"),
        "transformer.ln_f.bias": Tensor(Flat(), "final_norm/bias"),
        "lm_head.weight": Tensor(Rows(num_tokens), "logits_dense/embedding"),
    }


# --- OPT --------------------------------------------------------------------------------------


def _read_opt(fields: Fields) -> TransformerConfig:
    width = fields.require("hidden_size")
    fields.expect("do_layer_norm_before", True)
    fields.expect("_remove_final_layer_norm", False)
    fields.expect("word_embed_proj_dim", width, None)
    bias = None if fields.take("enable_bias", True) else False
    return TransformerConfig(
        vocab_size=fields.require("vocab_size") + 1,
        emb_dim=width,
        num_heads=fields.require("num_attention_heads"),
        num_layers=fields.require("num_hidden_layers"),
        mlp_dim=fields.require("ffn_dim"),
        max_length=fields.require("max_position_embeddings"),
        position_offset=2,
        mlp_activations=(fields.choose("activation_function", "relu", _ACTIVATIONS),),
        init_std=fields.take("init_std", 0.02),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        logits_via_embedding=fields.take("tie_word_embeddings", True),
    )


def _write_opt(config: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size - 1,
        "hidden_size": config.emb_dim,
        "word_embed_proj_dim": config.emb_dim,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "ffn_dim": config.mlp_dim,
        "max_position_embeddings": config.max_length,
        "activation_function": _activation_name(config.mlp_activations[0]),
        "enable_bias": config.has_bias("mlp"),
        "init_std": config.init_std,
        "tie_word_embeddings": config.logits_via_embedding,
    }


def _map_opt(num_tokens: int) -> Map:
    body, layer = "model.decoder", "model.decoder.layers.{}"
    return {
        f"{body}.embed_tokens.weight": Tensor(Rows(num_tokens), "token_embedder/embedding"),
        f"{body}.embed_positions.weight": Tensor(Table(), "position_embedder/embedding"),
        f"{layer}.self_attn_layer_norm.weight": Tensor(Flat(), "layers/pre_attention_norm/scale"),
        f"{layer}.self_attn_layer_norm.bias": Tensor(Flat(), "layers/pre_attention_norm/bias"),
        **_attention(f"{layer}.self_attn", out="out_proj"),
        f"{layer}.final_layer_norm.weight": Tensor(Flat(), "layers/pre_mlp_norm/scale"),
        f"{layer}.final_layer_norm.bias": Tensor(Flat(), "layers/pre_mlp_norm/bias"),
        **_linear(f"{layer}.fc1", f"{_MLP}/wi"),
        **_linear(f"{layer}.fc2", f"{_MLP}/wo"),
        f"{body}.final_layer_norm.weight": Tensor(Flat(), "final_norm/scale"),
        f"{body}.final_layer_norm.bias": Tensor(Flat(), "final_norm/bias"),
        "lm_head.weight": Tensor(Rows(num_tokens), "logits_dense/embedding"),
    }


def _linear(name: str, path: str, num_in: int = 1) -> Map:
    return {
        f"{name}.weight": Tensor(Linear(num_in), f"{path}/kernel"),
        f"{name}.bias": Tensor(Flat(), f"{path}/bias"),
    }


def _attention(name: str, out: str) -> Map:
    return {
        **_linear(f"{name}.q_proj", f"{_ATTENTION}/query"),
        **_linear(f"{name}.k_proj", f"{_ATTENTION}/key"),
        **_linear(f"{name}.v_proj", f"{_ATTENTION}/value"),
        **_linear(f"{name}.{out}", f"{_ATTENTION}/out", num_in=2),
    }


# --- GPT-NeoX, Pythia -------------------------------------------------------------------------


def _read_neox(fields: Fields) -> TransformerConfig:
    bias = None if fields.take("attention_bias", True) else False
    rope = fields.take("rope_parameters", None) or fields.take("rope_scaling", None) or {}
    rope = {**rope}
    rope.setdefault("rope_theta", fields.take("rotary_emb_base", 10_000.0))
    fraction = rope.pop("partial_rotary_factor", fields.take("rotary_pct", 0.25))
    theta, scaling = _rope(fields, rope, "rope_parameters")
    return TransformerConfig(
        vocab_size=fields.require("vocab_size") + 1,
        emb_dim=fields.require("hidden_size"),
        num_heads=fields.require("num_attention_heads"),
        num_layers=fields.require("num_hidden_layers"),
        mlp_dim=fields.require("intermediate_size"),
        max_length=fields.require("max_position_embeddings"),
        mlp_activations=(fields.choose("hidden_act", "gelu", _ACTIVATIONS),),
        position_embedding="rotary",
        rotary_fraction=fraction,
        rope_theta=theta,
        rope_scaling=scaling,
        norm_epsilon=fields.take("layer_norm_eps", 1e-5),
        init_std=fields.take("initializer_range", 0.02),
        qkv_bias=bias,
        out_bias=bias,
        parallel_residual=fields.take("use_parallel_residual", True),
        logits_via_embedding=fields.take("tie_word_embeddings", False),
    )


def _write_neox(config: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size - 1,
        "hidden_size": config.emb_dim,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "intermediate_size": config.mlp_dim,
        "max_position_embeddings": config.max_length,
        "hidden_act": _activation_name(config.mlp_activations[0]),
        "rotary_pct": config.rotary_fraction,
        "rotary_emb_base": config.rope_theta,
        "rope_scaling": _rope_scaling_fields(config),
        "layer_norm_eps": config.norm_epsilon,
        "initializer_range": config.init_std,
        "attention_bias": config.has_bias("qkv"),
        "use_parallel_residual": config.parallel_residual,
        "tie_word_embeddings": config.logits_via_embedding,
    }


def _map_neox(num_tokens: int) -> Map:
    qkv = [f"{_ATTENTION}/{name}" for name in ("query", "key", "value")]
    body, layer = "gpt_neox", "gpt_neox.layers.{}"
    fused = f"{layer}.attention.query_key_value"
    return {
        f"{body}.embed_in.weight": Tensor(Rows(num_tokens), "token_embedder/embedding"),
        f"{layer}.input_layernorm.weight": Tensor(Flat(), "layers/pre_attention_norm/scale"),
        f"{layer}.input_layernorm.bias": Tensor(Flat(), "layers/pre_attention_norm/bias"),
        f"{fused}.weight": Tensor(FusedHeads(), *(f"{path}/kernel" for path in qkv)),
        f"{fused}.bias": Tensor(FusedHeads(), *(f"{path}/bias" for path in qkv)),
        **_linear(f"{layer}.attention.dense", f"{_ATTENTION}/out", num_in=2),
        f"{layer}.post_attention_layernorm.weight": Tensor(Flat(), "layers/pre_mlp_norm/scale"),
        f"{layer}.post_attention_layernorm.bias": Tensor(Flat(), "layers/pre_mlp_norm/bias"),
        **_linear(f"{layer}.mlp.dense_h_to_4h", f"{_MLP}/wi"),
        **_linear(f"{layer}.mlp.dense_4h_to_h", f"{_MLP}/wo"),
        f"{body}.final_layer_norm.weight": Tensor(Flat(), "final_norm/scale"),
        f"{body}.final_layer_norm.bias": Tensor(Flat(), "final_norm/bias"),
        "embed_out.weight": Tensor(Rows(num_tokens), "logits_dense/embedding"),
    }


# --- LLaMA and what descends from it ----------------------------------------------------------


def _common(fields: Fields, activation_field: str, activation: str) -> dict[str, Any]:
    """Settings that LLaMA, Mistral, Qwen and Gemma share."""
    heads = fields.require("num_attention_heads")
    return {
        "vocab_size": fields.require("vocab_size") + 1,
        "emb_dim": fields.require("hidden_size"),
        "num_heads": heads,
        "num_layers": fields.require("num_hidden_layers"),
        "mlp_dim": fields.require("intermediate_size"),
        "head_dim": fields.take("head_dim", None),
        "num_kv_heads": fields.take("num_key_value_heads", None),
        "max_length": fields.require("max_position_embeddings"),
        "mlp_activations": (fields.choose(activation_field, activation, _ACTIVATIONS), "linear"),
        "position_embedding": "rotary",
        "norm": "rmsnorm",
        "norm_epsilon": fields.take("rms_norm_eps", 1e-6),
        "use_bias": False,
        "init_std": fields.take("initializer_range", 0.02),
    }


def _plain_rope(fields: Fields) -> dict[str, Any]:
    """Rotary settings: `rope_parameters`, or `rope_theta` and `rope_scaling` of older configs."""
    rope = fields.take("rope_parameters", None) or fields.take("rope_scaling", None) or {}
    rope = {"rope_theta": fields.take("rope_theta", 10_000.0), **rope}
    theta, scaling = _rope(fields, rope, "rope_parameters")
    return {"rope_theta": theta, "rope_scaling": scaling}


def _rope(fields: Fields, rope: dict[str, Any], name: str) -> tuple[float, RopeScaling | None]:
    rest = dict(rope)
    theta = rest.pop("rope_theta")
    kind = rest.pop("rope_type", rest.pop("type", "default"))
    rest.pop("type", None)
    scaling = None
    if rest.pop("partial_rotary_factor", 1.0) != 1.0:
        fields.refuse(f"{name}.partial_rotary_factor", rope["partial_rotary_factor"])
    if kind == "linear":
        scaling = RopeScaling("linear", rest.pop("factor"))
    elif kind == "llama3":
        scaling = RopeScaling(
            "llama3",
            factor=rest.pop("factor"),
            low_freq_factor=rest.pop("low_freq_factor"),
            high_freq_factor=rest.pop("high_freq_factor"),
            original_max_length=rest.pop("original_max_position_embeddings"),
        )
    elif kind != "default":
        fields.refuse(f"{name}.rope_type", kind, "supported are default, linear, llama3")
    if rest:
        fields.refuse(f"{name}.{min(rest)}", rest[min(rest)])
    return theta, scaling


def _attention_bias(fields: Fields) -> dict[str, Any]:
    bias = True if fields.take("attention_bias", False) else None
    return {"qkv_bias": bias, "out_bias": bias}


def _read_llama(fields: Fields) -> TransformerConfig:
    return TransformerConfig(
        **_common(fields, "hidden_act", "silu"),
        **_plain_rope(fields),
        **_attention_bias(fields),
        mlp_bias=True if fields.take("mlp_bias", False) else None,
        logits_via_embedding=fields.take("tie_word_embeddings", False),
    )


def _read_mistral(fields: Fields) -> TransformerConfig:
    fields.expect("layer_types", None)
    return TransformerConfig(
        **_common(fields, "hidden_act", "silu"),
        **_plain_rope(fields),
        sliding_window=fields.take("sliding_window", None),
        logits_via_embedding=fields.take("tie_word_embeddings", False),
    )


def _qwen_window(fields: Fields) -> dict[str, Any]:
    layers = fields.require("num_hidden_layers")
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
        **_common(fields, "hidden_act", "silu"),
        **_plain_rope(fields),
        **_qwen_window(fields),
        qkv_bias=True,
        logits_via_embedding=fields.take("tie_word_embeddings", False),
    )


def _read_qwen3(fields: Fields) -> TransformerConfig:
    common = _common(fields, "hidden_act", "silu")
    return TransformerConfig(
        **{**common, "head_dim": common["head_dim"] or 128},
        **_plain_rope(fields),
        **_qwen_window(fields),
        **_attention_bias(fields),
        qk_norm=True,
        logits_via_embedding=fields.take("tie_word_embeddings", False),
    )


def _write_llama(config: TransformerConfig) -> dict[str, Any]:
    return {
        **_write_common(config),
        "hidden_act": _activation_name(config.mlp_activations[0]),
        **_rope_fields(config),
        "attention_bias": config.has_bias("qkv"),
        "mlp_bias": config.has_bias("mlp"),
    }


def _write_mistral(config: TransformerConfig) -> dict[str, Any]:
    return {
        **_write_common(config),
        "hidden_act": _activation_name(config.mlp_activations[0]),
        **_rope_fields(config),
        "sliding_window": config.sliding_window,
    }


def _write_qwen2(config: TransformerConfig) -> dict[str, Any]:
    return {
        **_write_common(config),
        "hidden_act": _activation_name(config.mlp_activations[0]),
        **_rope_fields(config),
        "use_sliding_window": config.sliding_window is not None,
        "sliding_window": config.sliding_window,
        "layer_types": _layer_types(config),
    }


def _write_qwen3(config: TransformerConfig) -> dict[str, Any]:
    return {**_write_qwen2(config), "attention_bias": config.has_bias("qkv")}


def _write_common(config: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size - 1,
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
    return {"rope_theta": config.rope_theta, "rope_scaling": _rope_scaling_fields(config)}


def _rope_scaling_fields(config: TransformerConfig) -> dict[str, Any] | None:
    scaling = config.rope_scaling
    if scaling is None:
        return None
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_length,
    }


def _layer_types(config: TransformerConfig) -> list[str]:
    return ["sliding_attention" if slides else "full_attention" for slides in config.slides]


def _activation_name(activation: str) -> str:
    return next((name for name, ours in _ACTIVATIONS.items() if ours == activation), activation)


def _map_llama(num_tokens: int) -> Map:
    layer = "model.layers.{}"
    return {
        "model.embed_tokens.weight": Tensor(Rows(num_tokens), "token_embedder/embedding"),
        f"{layer}.input_layernorm.weight": Tensor(Flat(), "layers/pre_attention_norm/scale"),
        **_attention(f"{layer}.self_attn", out="o_proj"),
        f"{layer}.self_attn.q_norm.weight": Tensor(Flat(), f"{_ATTENTION}/query_norm/scale"),
        f"{layer}.self_attn.k_norm.weight": Tensor(Flat(), f"{_ATTENTION}/key_norm/scale"),
        f"{layer}.post_attention_layernorm.weight": Tensor(Flat(), "layers/pre_mlp_norm/scale"),
        **_linear(f"{layer}.mlp.gate_proj", f"{_MLP}/wi_0"),
        **_linear(f"{layer}.mlp.up_proj", f"{_MLP}/wi_1"),
        **_linear(f"{layer}.mlp.down_proj", f"{_MLP}/wo"),
        "model.norm.weight": Tensor(Flat(), "final_norm/scale"),
        "lm_head.weight": Tensor(Rows(num_tokens), "logits_dense/embedding"),
    }


# --- Gemma ------------------------------------------------------------------------------------


def _read_gemma(fields: Fields) -> TransformerConfig:
    fields.expect("hidden_activation", None, "gelu_pytorch_tanh")
    common = _common(fields, "hidden_act", "gelu_pytorch_tanh")
    # Early Gemma files say `gelu` and mean its tanh approximation; transformers reads them so.
    activation = common["mlp_activations"][0].replace("gelu_exact", "gelu")
    return TransformerConfig(
        **{**common, "mlp_activations": (activation, "linear")},
        **_plain_rope(fields),
        **_attention_bias(fields),
        **_GEMMA,
        logits_via_embedding=fields.take("tie_word_embeddings", True),
    )


_GEMMA: dict[str, Any] = {"norm_unit_offset": True, "embedding_scale": True}


def _read_gemma2(fields: Fields) -> TransformerConfig:
    layers = fields.require("num_hidden_layers")
    default = ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    types = fields.take("layer_types", None) or default
    fields.expect("hidden_act", "gelu_pytorch_tanh")
    return TransformerConfig(
        **_common(fields, "hidden_activation", "gelu_pytorch_tanh"),
        **_plain_rope(fields),
        **_attention_bias(fields),
        **_windows(fields, types, fields.take("sliding_window", 4096)),
        **_GEMMA,
        post_norms=True,
        query_scalar=fields.take("query_pre_attn_scalar", 256),
        attention_softcap=fields.take("attn_logit_softcapping", 50.0),
        logits_softcap=fields.take("final_logit_softcapping", 30.0),
        logits_via_embedding=fields.take("tie_word_embeddings", True),
    )


def _read_gemma3(fields: Fields) -> TransformerConfig:
    layers = fields.require("num_hidden_layers")
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
    parameters = fields.take("rope_parameters", None) or {}
    full = dict(parameters.get("full_attention") or fields.take("rope_scaling", None) or {})
    local = dict(parameters.get("sliding_attention") or {})
    full.setdefault("rope_theta", fields.take("rope_theta", 1_000_000.0))
    local.setdefault("rope_theta", fields.take("rope_local_base_freq", 10_000.0))
    theta, scaling = _rope(fields, full, "rope_parameters.full_attention")
    local_theta, local_scaling = _rope(fields, local, "rope_parameters.sliding_attention")
    if local_scaling is not None:
        fields.refuse("rope_parameters.sliding_attention.rope_type", local_scaling.kind)
    return {"rope_theta": theta, "rope_scaling": scaling, "rope_local_theta": local_theta}


def _write_gemma(config: TransformerConfig) -> dict[str, Any]:
    activation = config.mlp_activations[0]
    name = "gelu_pytorch_tanh" if activation == "gelu" else _activation_name(activation)
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


_GPT2_BUFFERS = r".*\.attn\.(masked_)?bias"
_NEOX_BUFFERS = r".*\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)"

# An export is of the first family that holds a model exactly, so the plainer come first.
FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            "gpt2",
            "GPT2LMHeadModel",
            "transformer.",
            _read_gpt2,
            _write_gpt2,
            _map_gpt2,
            buffers=_GPT2_BUFFERS,
        ),
        Family("opt", "OPTForCausalLM", "model.", _read_opt, _write_opt, _map_opt),
        Family(
            "gpt_neox",
            "GPTNeoXForCausalLM",
            "gpt_neox.",
            _read_neox,
            _write_neox,
            _map_neox,
            head="embed_out.weight",
            buffers=_NEOX_BUFFERS,
        ),
        Family("llama", "LlamaForCausalLM", "model.", _read_llama, _write_llama, _map_llama),
        Family(
            "mistral", "MistralForCausalLM", "model.", _read_mistral, _write_mistral, _map_llama
        ),
        Family("qwen2", "Qwen2ForCausalLM", "model.", _read_qwen2, _write_qwen2, _map_llama),
        Family("qwen3", "Qwen3ForCausalLM", "model.", _read_qwen3, _write_qwen3, _map_llama),
        Family("gemma", "GemmaForCausalLM", "model.", _read_gemma, _write_gemma, _map_llama),
        Family("gemma2", "Gemma2ForCausalLM", "model.", _read_gemma2, _write_gemma2, _map_gemma2),
        Family(
            "gemma3_text", "Gemma3ForCausalLM", "model.", _read_gemma3, _write_gemma3, _map_gemma2
        ),
    )
}
