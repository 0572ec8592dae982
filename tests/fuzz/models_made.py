"""Files of models that are right, for `damage`: configs of every family, tokenizers, our own."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import safetensors.numpy

from detox_jax.interop.huggingface import FAMILIES
from tests.conftest import SENTENCES

_FIELDS = {
    "vocab_size": 99,
    "hidden_size": 64,
    "n_embd": 64,
    "num_attention_heads": 4,
    "n_head": 4,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 40,
    "ffn_dim": 40,
    "max_position_embeddings": 64,
    "n_positions": 64,
}


def _config(name: str) -> dict[str, Any]:
    """config.json of a small model of a family, as this package writes it."""
    from detox_jax.interop.config_fields import Fields

    family = FAMILIES[name]
    config = family.read(Fields(dict(_FIELDS), name))
    fields = {"model_type": name, "architectures": [family.architecture], **family.write(config)}
    return json.loads(json.dumps(fields))


CONFIGS = [_config(name) for name in FAMILIES]
_STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CONFIGS.append({**_config("llama"), "rope_parameters": _STRETCHED})
_ENCODER = {
    "vocab_size": 99,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "id2label": {"0": "toxic", "1": "insult"},
    "label2id": {"toxic": 0, "insult": 1},
    "problem_type": "multi_label_classification",
}
ENCODERS = [
    {**_ENCODER, "model_type": "bert", "architectures": ["BertForSequenceClassification"]},
    {
        **_ENCODER,
        "model_type": "roberta",
        "architectures": ["RobertaForSequenceClassification"],
        "pad_token_id": 1,
    },
    {
        **_ENCODER,
        "model_type": "deberta-v2",
        "architectures": ["DebertaV2ForSequenceClassification"],
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
    },
]
MODEL = {
    "config": {
        "vocab_size": 350,
        "emb_dim": 32,
        "num_heads": 4,
        "num_layers": 2,
        "mlp_dim": 64,
        "max_length": 64,
        "mlp_activations": ["silu", "linear"],
        "position_embedding": "rotary",
        "rope_scaling": {"kind": "linear", "factor": 2.0},
        "sliding_window": 8,
        "sliding_layers": [True, False],
    },
    "adaptation": {"kind": "lora", "rank": 4, "alpha": 8.0, "target_modules": ["query"]},
    "base": {"path": "../base", "fingerprint": "0123456789abcdef"},
    "vocabulary": "0123456789abcdef",
}
MODELS = [
    MODEL,
    {**MODEL, "adaptation": None, "base": None},
    {**MODEL, "adaptation": {"kind": "adapter", "bottleneck_dim": 4}},
    {**MODEL, "adaptation": {"kind": "prefix", "prefix_length": 4}},
]
ORIGINS = [{"source": {"path": "hf"}, "dtype": "float32", "config": CONFIGS[0]}]

WEIGHTS = safetensors.numpy.save({"a": np.zeros((2, 3), np.float32), "b": np.ones(2, np.float16)})
INDEX = {
    "metadata": {"total_size": 28},
    "weight_map": {"a": "one.safetensors", "b": "one.safetensors"},
}


def with_header(header: bytes) -> bytes:
    """A safetensors file that has this header before its numbers."""
    return struct.pack("<Q", len(header)) + header + bytes(28)


HEADER = json.loads(WEIGHTS[8 : 8 + struct.unpack("<Q", WEIGHTS[:8])[0]])


def tokenizer_json() -> Any:
    """A small trained `tokenizer.json`, as JSON."""
    from detox_jax.vocabulary import Vocabulary

    files = Vocabulary.train(SENTENCES, 265)._files
    return json.loads(files["tokenizer.json"])


TOKENIZER = tokenizer_json()
VOCAB = TOKENIZER["model"]["vocab"]
MERGES = "#version: 0.2\n" + "".join(
    " ".join(pair) + "\n" if isinstance(pair, list) else pair + "\n"
    for pair in TOKENIZER["model"]["merges"]
)
_ADDED = {"content": "<|endoftext|>", "special": True, "lstrip": False, "__type": "AddedToken"}
TOKENIZER_CONFIG = {
    "bos_token": "<|endoftext|>",
    "eos_token": {"content": "<|endoftext|>", "special": True},
    "add_prefix_space": False,
    "added_tokens_decoder": {"0": _ADDED},
    "chat_template": "{{ messages }}",
}
SPECIAL_TOKENS = {"eos_token": "<|endoftext|>", "bos_token": {"content": "<|endoftext|>"}}
ADDED_TOKENS = {"<|endoftext|>": 0}
GENERATION = {"bos_token_id": 0, "eos_token_id": [0, 5], "max_new_tokens": 20}
WORD_PIECES = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "bus", "##s"]) + "\n"
