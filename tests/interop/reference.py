"""An independent LLaMA/Gemma forward pass in NumPy, and checkpoints for it; needs no torch.

It reads Hugging Face's names and config fields directly, float64, one sequence at a time.
"""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 349,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
GEMMA2 = {
    **LLAMA,
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 10,
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention"],
    "attn_logit_softcapping": 3.0,
    "final_logit_softcapping": 4.0,
    "tie_word_embeddings": True,
}
del GEMMA2["hidden_act"]


def shapes(config):
    width, heads, size = (config[k] for k in ("hidden_size", "num_attention_heads", "head_dim"))
    groups, hidden = config["num_key_value_heads"], config["intermediate_size"]
    result = {"model.embed_tokens.weight": (config["vocab_size"], width)}
    norms = ["input_layernorm", "post_attention_layernorm"]
    if config["model_type"] == "gemma2":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        result |= {f"{layer}.{norm}.weight": (width,) for norm in norms}
        result |= {
            f"{layer}.self_attn.q_proj.weight": (heads * size, width),
            f"{layer}.self_attn.k_proj.weight": (groups * size, width),
            f"{layer}.self_attn.v_proj.weight": (groups * size, width),
            f"{layer}.self_attn.o_proj.weight": (width, heads * size),
            f"{layer}.mlp.gate_proj.weight": (hidden, width),
            f"{layer}.mlp.up_proj.weight": (hidden, width),
            f"{layer}.mlp.down_proj.weight": (width, hidden),
        }
    result["model.norm.weight"] = (width,)
    if not config["tie_word_embeddings"]:
        result["lm_head.weight"] = (config["vocab_size"], width)
    return result


def make(directory: Path, config, dtype=np.float32, seed=0):
    """Writes a random checkpoint and returns its tensors."""
    noise = np.random.default_rng(seed)
    tensors = {
        name: (noise.normal(size=shape) * 0.4 + ("norm" in name)).astype(dtype)
        for name, shape in shapes(config).items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return tensors


def logits(config, tensors, ids):
    """Logits `[L, tokens]` of one sequence."""
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    gemma = config["model_type"] == "gemma2"
    table = weights["model.embed_tokens.weight"]
    x = table[ids] * (config["hidden_size"] ** 0.5 if gemma else 1)

    def norm(x, name):
        scale = weights[f"{name}.weight"] + gemma
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * scale

    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        sliding = gemma and config["layer_types"][i] == "sliding_attention"
        window = config["sliding_window"] if sliding else len(ids)
        h = _attention(
            config, weights, f"{layer}.self_attn", norm(x, f"{layer}.input_layernorm"), window
        )
        x = x + (norm(h, f"{layer}.post_attention_layernorm") if gemma else h)
        before_mlp = "pre_feedforward_layernorm" if gemma else "post_attention_layernorm"
        h = _mlp(weights, f"{layer}.mlp", norm(x, f"{layer}.{before_mlp}"), gemma)
        x = x + (norm(h, f"{layer}.post_feedforward_layernorm") if gemma else h)
    out = norm(x, "model.norm") @ weights.get("lm_head.weight", table).T
    cap = config.get("final_logit_softcapping")
    return out if cap is None else cap * np.tanh(out / cap)


def _mlp(weights, name, x, gemma):
    gate = x @ weights[f"{name}.gate_proj.weight"].T
    if gemma:
        gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    else:
        gate = gate / (1 + np.exp(-gate))
    return (gate * (x @ weights[f"{name}.up_proj.weight"].T)) @ weights[
        f"{name}.down_proj.weight"
    ].T


def _attention(config, weights, name, x, window):
    size, heads = config["head_dim"], config["num_attention_heads"]
    groups = config["num_key_value_heads"]
    scale = config.get("query_pre_attn_scalar", size) ** -0.5
    cap = config.get("attn_logit_softcapping")
    q, k, v = ((x @ weights[f"{name}.{p}_proj.weight"].T).reshape(len(x), -1, size) for p in "qkv")
    q, k = _rotate(q, config["rope_theta"]), _rotate(k, config["rope_theta"])
    distance = np.arange(len(x))[:, None] - np.arange(len(x))[None]
    out = []
    for head in range(heads):
        group = head // (heads // groups)
        scores = q[:, head] @ k[:, group].T * scale
        scores = scores if cap is None else cap * np.tanh(scores / cap)
        scores = np.where((distance >= 0) & (distance < window), scores, -np.inf)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        out.append(share / share.sum(-1, keepdims=True) @ v[:, group])
    return np.concatenate(out, -1) @ weights[f"{name}.o_proj.weight"].T


def _rotate(x, theta):
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None, None] * theta ** (-np.arange(half) / half)
    pairs = x[..., :half] + 1j * x[..., half:]
    turned = pairs * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], -1)
