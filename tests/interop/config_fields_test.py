"""Fields of config.json: configs as they are published, and what is refused by name."""

import pytest

from detox_jax.errors import UserError
from detox_jax.interop import huggingface
from detox_jax.interop.config_fields import Fields
from detox_jax.interop.huggingface import FAMILIES

GPT2 = {"vocab_size": 50257, "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 64}
LLAMA = {
    "vocab_size": 100,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
NEOX = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
# What each published config holds beside its sizes.
PUBLISHED = {
    "gpt2-medium": (
        "gpt2",
        {**GPT2, "n_ctx": 1024, "n_special": 0, "predict_special_tokens": True},
    ),
    "distilgpt2": (
        "gpt2",
        {**GPT2, "_num_labels": 1, "id2label": {"0": "LABEL_0"}, "task_specific_params": {}},
    ),
    "old, with settings of generation": (
        "gpt2",
        {**GPT2, "do_sample": True, "max_length": 50, "temperature": 0.7, "top_p": 1.0}
        | {"num_beams": 1, "top_k": 50, "repetition_penalty": 1.0, "bad_words_ids": None},
    ),
    "Qwen2.5-0.5B": (
        "qwen2",
        {**LLAMA, "max_window_layers": 24, "sliding_window": 32768, "use_sliding_window": False}
        | {"use_mrope": False},
    ),
    "LLaMA 1": ("llama", {**LLAMA, "max_sequence_length": 2048, "pad_token_id": -1}),
    "SmolLM": (
        "llama",
        {**LLAMA, "is_llama_config": True, "rope_interleaved": False, "pretraining_tp": 1}
        | {"transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}}},
    ),
    "GPT-NeoX-20B": (
        "gpt_neox",
        {**NEOX, "attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0, "rotary_pct": 0.25},
    ),
    "of Unsloth": (
        "llama",
        {**LLAMA, "unsloth_fixed": True, "unsloth_version": "2025.1.1", "auto_map": {}}
        | {"_attn_implementation_autoset": True, "sliding_window": None},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read(name):
    family, fields = PUBLISHED[name]
    assert huggingface.config_from(FAMILIES[family], fields, name).num_layers == 2


@pytest.mark.parametrize(
    ("name", "value"), [("use_mrope", True), ("rope_interleaved", True), ("is_causal", False)]
)
def test_what_would_compute_otherwise_is_refused_with_its_value(name, value):
    with pytest.raises(UserError, match=f"{name} = .*; detox-jax has no such computation"):
        huggingface.config_from(FAMILIES["llama"], {**LLAMA, name: value}, "config.json")


def test_a_window_that_llama_would_not_read_is_refused():
    with pytest.raises(UserError, match="sliding_window = 16"):
        huggingface.config_from(FAMILIES["llama"], {**LLAMA, "sliding_window": 16}, "config.json")


def test_without_a_way_to_ignore_fields_none_is_offered():
    fields = Fields({"odd": 1}, "config.json")
    with pytest.raises(UserError, match="odd = 1 is not supported; it is unknown .* guessed$"):
        fields.finish()
