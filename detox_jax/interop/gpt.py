"""GPT-2, OPT and GPT-NeoX (Pythia): LayerNorm, biases, plain MLPs."""

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
from detox_jax.interop.layouts import Conv1D, Copied, Flat, FusedHeads, Rows, Tensor
from detox_jax.models.config import TransformerConfig
from detox_jax.vocabulary import ID_SHIFT

# What GPT-2 and GPT-NeoX keep in one tensor.
_FUSED = tuple(f"{ATTENTION}/{name}" for name in ("query", "key", "value"))

# --- GPT-2 ------------------------------------------------------------------------------------


def _read_gpt2(fields: Fields) -> TransformerConfig:
    width = fields.require("n_embd")
    return TransformerConfig(
        vocab_size=fields.require("vocab_size") + ID_SHIFT,
        emb_dim=width,
        num_heads=fields.require("n_head"),
        num_layers=fields.require("n_layer"),
        mlp_dim=fields.take("n_inner", None) or 4 * width,
        max_length=fields.require("n_positions"),
        mlp_activations=(fields.choose("activation_function", "gelu_new", ACTIVATIONS),),
        norm_epsilon=fields.take("layer_norm_epsilon", 1e-5),
        init_std=fields.take("initializer_range", 0.02),
        logits_via_embedding=fields.take("tie_word_embeddings", True),
    )


def _write_gpt2(config: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size - ID_SHIFT,
        "n_embd": config.emb_dim,
        "n_head": config.num_heads,
        "n_layer": config.num_layers,
        "n_inner": config.mlp_dim,
        "n_positions": config.max_length,
        "n_ctx": config.max_length,  # transformers reads it no more; llama.cpp's converter does
        "activation_function": activation_name(config.mlp_activations[0]),
        "layer_norm_epsilon": config.norm_epsilon,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.logits_via_embedding,
    }


def _map_gpt2(num_tokens: int) -> Map:
    layer = "transformer.h.{}"
    return {
        "transformer.wte.weight": Tensor(Rows(num_tokens), "token_embedder/embedding"),
        "transformer.wpe.weight": Tensor(Copied(), "position_embedder/embedding"),
        f"{layer}.ln_1.weight": Tensor(Flat(), "layers/pre_attention_norm/scale"),
        f"{layer}.ln_1.bias": Tensor(Flat(), "layers/pre_attention_norm/bias"),
        f"{layer}.attn.c_attn.weight": Tensor(Conv1D(), *(f"{path}/kernel" for path in _FUSED)),
        f"{layer}.attn.c_attn.bias": Tensor(Conv1D(0), *(f"{path}/bias" for path in _FUSED)),
        f"{layer}.attn.c_proj.weight": Tensor(Conv1D(2), f"{ATTENTION}/out/kernel"),
        f"{layer}.attn.c_proj.bias": Tensor(Flat(), f"{ATTENTION}/out/bias"),
        f"{layer}.ln_2.weight": Tensor(Flat(), "layers/pre_mlp_norm/scale"),
        f"{layer}.ln_2.bias": Tensor(Flat(), "layers/pre_mlp_norm/bias"),
        f"{layer}.mlp.c_fc.weight": Tensor(Conv1D(), f"{MLP}/wi/kernel"),
        f"{layer}.mlp.c_fc.bias": Tensor(Flat(), f"{MLP}/wi/bias"),
        f"{layer}.mlp.c_proj.weight": Tensor(Conv1D(), f"{MLP}/wo/kernel"),
        f"{layer}.mlp.c_proj.bias": Tensor(Flat(), f"{MLP}/wo/bias"),
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
        vocab_size=fields.require("vocab_size") + ID_SHIFT,
        emb_dim=width,
        num_heads=fields.require("num_attention_heads"),
        num_layers=fields.require("num_hidden_layers"),
        mlp_dim=fields.require("ffn_dim"),
        max_length=fields.require("max_position_embeddings"),
        position_offset=2,
        mlp_activations=(fields.choose("activation_function", "relu", ACTIVATIONS),),
        init_std=fields.take("init_std", 0.02),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        logits_via_embedding=fields.take("tie_word_embeddings", True),
    )


def _write_opt(config: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size - ID_SHIFT,
        "hidden_size": config.emb_dim,
        "word_embed_proj_dim": config.emb_dim,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "ffn_dim": config.mlp_dim,
        "max_position_embeddings": config.max_length,
        "activation_function": activation_name(config.mlp_activations[0]),
        "enable_bias": config.has_bias("mlp"),
        "init_std": config.init_std,
        "tie_word_embeddings": config.logits_via_embedding,
    }


def _map_opt(num_tokens: int) -> Map:
    body, layer = "model.decoder", "model.decoder.layers.{}"
    return {
        f"{body}.embed_tokens.weight": Tensor(Rows(num_tokens), "token_embedder/embedding"),
        f"{body}.embed_positions.weight": Tensor(Copied(), "position_embedder/embedding"),
        f"{layer}.self_attn_layer_norm.weight": Tensor(Flat(), "layers/pre_attention_norm/scale"),
        f"{layer}.self_attn_layer_norm.bias": Tensor(Flat(), "layers/pre_attention_norm/bias"),
        **attention(f"{layer}.self_attn", out="out_proj"),
        f"{layer}.final_layer_norm.weight": Tensor(Flat(), "layers/pre_mlp_norm/scale"),
        f"{layer}.final_layer_norm.bias": Tensor(Flat(), "layers/pre_mlp_norm/bias"),
        **linear(f"{layer}.fc1", f"{MLP}/wi"),
        **linear(f"{layer}.fc2", f"{MLP}/wo"),
        f"{body}.final_layer_norm.weight": Tensor(Flat(), "final_norm/scale"),
        f"{body}.final_layer_norm.bias": Tensor(Flat(), "final_norm/bias"),
        "lm_head.weight": Tensor(Rows(num_tokens), "logits_dense/embedding"),
    }


# --- GPT-NeoX, Pythia -------------------------------------------------------------------------


def _read_neox(fields: Fields) -> TransformerConfig:
    bias = None if fields.take("attention_bias", True) else False
    rope = take_rope(fields)
    rope.setdefault("rope_theta", fields.take("rotary_emb_base", 10_000.0))
    fraction = rope.pop("partial_rotary_factor", fields.take("rotary_pct", 0.25))
    theta, scaling = read_rope(fields, rope, "rope_parameters")
    # Late versions of transformers 4 write both a second time, as other families call them.
    fields.expect("rope_theta", theta)
    fields.expect("partial_rotary_factor", fraction)
    return TransformerConfig(
        vocab_size=fields.require("vocab_size") + ID_SHIFT,
        emb_dim=fields.require("hidden_size"),
        num_heads=fields.require("num_attention_heads"),
        num_layers=fields.require("num_hidden_layers"),
        mlp_dim=fields.require("intermediate_size"),
        max_length=fields.require("max_position_embeddings"),
        mlp_activations=(fields.choose("hidden_act", "gelu", ACTIVATIONS),),
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
        "vocab_size": config.vocab_size - ID_SHIFT,
        "hidden_size": config.emb_dim,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "intermediate_size": config.mlp_dim,
        "max_position_embeddings": config.max_length,
        "hidden_act": activation_name(config.mlp_activations[0]),
        "rotary_pct": config.rotary_fraction,
        "rotary_emb_base": config.rope_theta,
        "rope_scaling": write_rope_scaling(config),
        "layer_norm_eps": config.norm_epsilon,
        "initializer_range": config.init_std,
        "attention_bias": config.has_bias("qkv"),
        "use_parallel_residual": config.parallel_residual,
        "tie_word_embeddings": config.logits_via_embedding,
    }


def _map_neox(num_tokens: int) -> Map:
    body, layer = "gpt_neox", "gpt_neox.layers.{}"
    fused = f"{layer}.attention.query_key_value"
    return {
        f"{body}.embed_in.weight": Tensor(Rows(num_tokens), "token_embedder/embedding"),
        f"{layer}.input_layernorm.weight": Tensor(Flat(), "layers/pre_attention_norm/scale"),
        f"{layer}.input_layernorm.bias": Tensor(Flat(), "layers/pre_attention_norm/bias"),
        f"{fused}.weight": Tensor(FusedHeads(), *(f"{path}/kernel" for path in _FUSED)),
        f"{fused}.bias": Tensor(FusedHeads(), *(f"{path}/bias" for path in _FUSED)),
        **linear(f"{layer}.attention.dense", f"{ATTENTION}/out", num_in=2),
        f"{layer}.post_attention_layernorm.weight": Tensor(Flat(), "layers/pre_mlp_norm/scale"),
        f"{layer}.post_attention_layernorm.bias": Tensor(Flat(), "layers/pre_mlp_norm/bias"),
        **linear(f"{layer}.mlp.dense_h_to_4h", f"{MLP}/wi"),
        **linear(f"{layer}.mlp.dense_4h_to_h", f"{MLP}/wo"),
        f"{body}.final_layer_norm.weight": Tensor(Flat(), "final_norm/scale"),
        f"{body}.final_layer_norm.bias": Tensor(Flat(), "final_norm/bias"),
        "embed_out.weight": Tensor(Rows(num_tokens), "logits_dense/embedding"),
    }


FAMILIES = (
    Family(
        "gpt2",
        "GPT2LMHeadModel",
        "transformer.",
        _read_gpt2,
        _write_gpt2,
        _map_gpt2,
        buffers=r".*\.attn\.(masked_)?bias",
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
        buffers=r".*\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
    ),
)
