"""Small randomly initialised checkpoints of every family, made by transformers itself."""

import importlib
from pathlib import Path
from typing import Any

_SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2}
_GEMMA = {**_GROUPED, "head_dim": 12}
_GPT2 = {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 128, "initializer_range": 0.3}
_OPT = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "ffn_dim": 48,
    "max_position_embeddings": 128,
    "init_std": 0.3,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]

# Name: (class prefix in transformers, config fields). The names of a family share its prefix.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2-tied": ("GPT2", _GPT2),
    "gpt2-untied": ("GPT2", {**_GPT2, "tie_word_embeddings": False, "n_inner": 80}),
    "gpt2-gelu": ("GPT2", {**_GPT2, "activation_function": "gelu", "layer_norm_epsilon": 1e-3}),
    "opt-tied": ("OPT", _OPT),
    "opt-untied-no-bias": ("OPT", {**_OPT, "tie_word_embeddings": False, "enable_bias": False}),
    "neox-partial": (
        "GPTNeoX",
        {
            **_SMALL,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 0.25,
            },
        },
    ),
    "neox-sequential-no-bias": (
        "GPTNeoX",
        {
            **_SMALL,
            "use_parallel_residual": False,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 500.0,
                "partial_rotary_factor": 1.0,
            },
        },
    ),
    "neox-linear": (
        "GPTNeoX",
        {
            **_SMALL,
            "rope_parameters": {
                "rope_type": "linear",
                "factor": 2.0,
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 0.5,
            },
        },
    ),
    "llama-untied": ("Llama", {**_SMALL, "rms_norm_eps": 1e-5}),
    "llama-grouped-tied": ("Llama", {**_GROUPED, "tie_word_embeddings": True, "head_dim": 12}),
    "llama-biases": ("Llama", {**_GROUPED, "attention_bias": True, "mlp_bias": True}),
    "llama-linear": (
        "Llama",
        {
            **_GROUPED,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0},
        },
    ),
    "llama-llama3": ("Llama", {**_GROUPED, "rope_parameters": _LLAMA3}),
    "mistral-window": ("Mistral", {**_GROUPED, "sliding_window": 7}),
    "mistral-full-tied": (
        "Mistral",
        {**_GROUPED, "sliding_window": None, "tie_word_embeddings": True},
    ),
    "qwen2-untied": ("Qwen2", _GROUPED),
    "qwen2-tied-window": (
        "Qwen2",
        {
            **_GROUPED,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 1,
        },
    ),
    "qwen3-untied": ("Qwen3", {**_GROUPED, "head_dim": 12}),
    "qwen3-tied-bias-window": (
        "Qwen3",
        {
            **_GROUPED,
            "head_dim": 8,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 9,
            "max_window_layers": 2,
        },
    ),
    "gemma-tied": ("Gemma", _GEMMA),
    "gemma-multi-query": (
        "Gemma",
        {
            **_GEMMA,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
    ),
    "gemma2-caps": (
        "Gemma2",
        {
            **_GEMMA,
            "sliding_window": 7,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma2-no-caps": (
        "Gemma2",
        {
            **_GEMMA,
            "sliding_window": 7,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "layer_types": ["full_attention"] * 3,
        },
    ),
    "gemma3-mixed": (
        "Gemma3Text",
        {**_GEMMA, "sliding_window": 7, "layer_types": _MIXED, "query_pre_attn_scalar": 20},
    ),
    "gemma3-stretched": (
        "Gemma3Text",
        {
            **_GEMMA,
            "sliding_window": 5,
            "layer_types": _MIXED,
            "final_logit_softcapping": 4.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
}


def make(name: str, directory: Path, vocab_size: int, **save: Any) -> Any:
    """Makes a case's model, in which no weight is constant, and saves it; returns the model."""
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    prefix, fields = CASES[name]
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    config = getattr(transformers, f"{prefix}Config")(vocab_size=vocab_size, **fields, **ids)
    torch.manual_seed(sum(map(ord, name)))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.eval().save_pretrained(directory, **save)
    return model
