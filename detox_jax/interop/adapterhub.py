"""Bottleneck adapters in the names and files of AdapterHub's `adapters` library."""

from __future__ import annotations

from typing import Any

import numpy as np

from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.errors import UserError
from detox_jax.interop import adaptation_files
from detox_jax.models.adaptation import AdapterConfig, ParallelAdapterConfig
from detox_jax.models.config import TransformerConfig

WEIGHTS_FILE, CONFIG_FILE = "adapter.safetensors", "adapter_config.json"
# Where the library hangs adapters into each family that it knows; both take their place alike.
_LAYERS = {"gpt2": "transformer.h.{}.", "llama": "model.layers.{}.", "mistral": "model.layers.{}."}
_CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
}
_PLACES = {
    "attention_adapter": "attention_adapters",
    "mlp_adapter": "output_adapters",
    "mlp_parallel_adapter": "output_adapters",
}
_TORCH_EPSILON = 1e-5  # of the LayerNorm that the library makes
# Activations by the names of transformers; jax.nn.gelu is the tanh approximation.
_NON_LINEARITIES = {
    "gelu": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}


def export(
    model_dir: str, to: str, family: str, name: str = "detox", base_name_or_path: str = ""
) -> None:
    """Writes an adapter checkpoint so that `model.load_adapter(to, use_safetensors=True)` reads it.

    Ours is `x + up(activation(down(x)))` on what a sublayer returns, before it joins the residual
    stream. The library's `double_seq_bn` (Houlsby) computes the same. Its `seq_bn` (Pfeiffer) would
    add the residual stream first, so that `original_ln_before` is written as false, which the
    library honours.

    Its parallel adapter reads the residual stream before the MLP's norm; ours, as its authors have
    it, what the MLP reads. So the library's `ln_before` goes out with the base's scale and bias,
    which is the same where that norm is a LayerNorm.

    Args:
      model_dir: the checkpoint.
      to: directory, created where it is missing.
      family: transformers' `model_type` of the base; `gpt2`, `llama` or `mistral`.
      name: of the adapter.
      base_name_or_path: the base, for the record.

    Raises:
      UserError: if the library has no such family or activation, the checkpoint is no adapter, or
        `to` holds an adaptation already.
    """
    if family not in _LAYERS:
        raise UserError(
            f"the `adapters` library has no family {family!r} with adapters in these places; one "
            f"of {', '.join(_LAYERS)}"
        )
    kinds = (AdapterConfig, ParallelAdapterConfig)
    arrays, adapter, config = adaptation_files.read(model_dir, kinds)
    assert isinstance(adapter, kinds)
    if adapter.activation not in _NON_LINEARITIES:
        raise UserError(
            f"{model_dir}: {type(adapter).__name__}.activation {adapter.activation!r} has no "
            f"counterpart in the `adapters` library; one of {', '.join(_NON_LINEARITIES)}"
        )
    is_parallel = isinstance(adapter, ParallelAdapterConfig)
    weights = _norms(model_dir, config, family, name) if is_parallel else {}
    for path, array in arrays.items():
        _, place, leaf = path.split("/")
        side, _, kind = leaf.partition("_")
        module = f"adapter_down.{int(is_parallel)}" if side == "down" else "adapter_up"
        for layer, values in enumerate(array):
            prefix = f"{_LAYERS[family].format(layer)}{_PLACES[place]}.adapters.{name}.{module}"
            weights[f"{prefix}.{'weight' if kind == 'kernel' else kind}"] = values.T
    full = {
        "config": _architecture(adapter, config.emb_dim),
        "hidden_size": config.emb_dim,
        "model_class": _CLASSES[family],
        "model_name": base_name_or_path,
        "model_type": family,
        "name": name,
        "version": "adapters.1.3.0",
    }
    adaptation_files.write(to, WEIGHTS_FILE, weights, CONFIG_FILE, full)


def _norms(
    model_dir: str, config: TransformerConfig, family: str, name: str
) -> adaptation_files.Arrays:
    """The norm before the MLP of each layer, which the library keeps under two names.

    Raises:
      UserError: where that norm is none of the library's.
    """
    if not (config.norm == "layernorm" and config.norm_epsilon == _TORCH_EPSILON):
        raise UserError(
            f"{model_dir}: the `adapters` library's parallel adapter has no place behind the norm "
            f"of family {family!r}; a LayerNorm with epsilon {_TORCH_EPSILON:g} alone can go with "
            "it: train an AdapterConfig or a LoRAConfig to export one"
        )
    checkpoint = Checkpoint.open(model_dir)
    scale_ND = checkpoint.read("layers/pre_mlp_norm/scale").astype(np.float32)
    scale_ND = scale_ND + np.float32(config.norm_unit_offset)
    bias_ND = np.zeros_like(scale_ND)
    if config.use_bias:
        bias_ND = checkpoint.read("layers/pre_mlp_norm/bias").astype(np.float32)
    weights: adaptation_files.Arrays = {}
    for layer, (scale_D, bias_D) in enumerate(zip(scale_ND, bias_ND, strict=True)):
        prefix = f"{_LAYERS[family].format(layer)}output_adapters.adapters.{name}"
        for module in ("adapter_norm_before", "adapter_down.0"):
            weights[f"{prefix}.{module}.weight"] = scale_D
            weights[f"{prefix}.{module}.bias"] = bias_D
    return weights


def _architecture(adapter: AdapterConfig | ParallelAdapterConfig, emb_dim: int) -> dict[str, Any]:
    """Fields of the library's `BnConfig`: `double_seq_bn`, `seq_bn` without its norm, `par_bn`."""
    is_parallel = isinstance(adapter, ParallelAdapterConfig)
    return {
        "mh_adapter": not is_parallel and adapter.placement == "houlsby",
        "output_adapter": True,
        "reduction_factor": _reduction_factor(emb_dim, adapter.width(emb_dim)),
        "non_linearity": _NON_LINEARITIES[adapter.activation],
        "original_ln_before": False,
        "original_ln_after": True,
        "ln_before": is_parallel,
        "ln_after": False,
        "residual_before_ln": True,
        "adapter_residual_before_ln": False,
        "is_parallel": is_parallel,
        "scaling": float(adapter.scale) if is_parallel else 1.0,
        "dropout": 0.0,
    }


def _reduction_factor(emb_dim: int, bottleneck_dim: int) -> float:
    """The factor from which the library's `int(emb_dim // factor)` gives the bottleneck."""
    factor = emb_dim / bottleneck_dim
    if int(emb_dim // factor) == bottleneck_dim:
        return factor
    return emb_dim / (bottleneck_dim + 0.5)  # Rounding fell below the bottleneck's own factor.
