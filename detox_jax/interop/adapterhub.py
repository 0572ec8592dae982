"""Bottleneck adapters in the names and files of AdapterHub's `adapters` library."""

from __future__ import annotations

from typing import Any

from detox_jax.errors import UserError
from detox_jax.interop import adaptation_files
from detox_jax.models.adaptation import AdapterConfig

WEIGHTS_FILE, CONFIG_FILE = "adapter.safetensors", "adapter_config.json"
# Where the library hangs adapters into each family that it knows; both take their place alike.
_LAYERS = {"gpt2": "transformer.h.{}.", "llama": "model.layers.{}.", "mistral": "model.layers.{}."}
_CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
}
_PLACES = {"attention_adapter": "attention_adapters", "mlp_adapter": "output_adapters"}
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
    arrays, adapter, config = adaptation_files.read(model_dir, AdapterConfig)
    assert isinstance(adapter, AdapterConfig)
    if adapter.activation not in _NON_LINEARITIES:
        raise UserError(
            f"{model_dir}: AdapterConfig.activation {adapter.activation!r} has no counterpart in "
            f"the `adapters` library; one of {', '.join(_NON_LINEARITIES)}"
        )
    weights: adaptation_files.Arrays = {}
    for path, array in arrays.items():
        _, place, leaf = path.split("/")
        side, _, kind = leaf.partition("_")
        module = "adapter_down.0" if side == "down" else "adapter_up"
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


def _architecture(adapter: AdapterConfig, emb_dim: int) -> dict[str, Any]:
    """The fields of the library's `BnConfig`: `double_seq_bn`, or `seq_bn` without its own norm."""
    return {
        "mh_adapter": adapter.placement == "houlsby",
        "output_adapter": True,
        "reduction_factor": _reduction_factor(emb_dim, adapter.bottleneck_dim),
        "non_linearity": _NON_LINEARITIES[adapter.activation],
        "original_ln_before": False,
        "original_ln_after": True,
        "ln_before": False,
        "ln_after": False,
        "residual_before_ln": True,
        "adapter_residual_before_ln": False,
        "is_parallel": False,
        "scaling": 1.0,
        "dropout": 0.0,
    }


def _reduction_factor(emb_dim: int, bottleneck_dim: int) -> float:
    """The factor from which the library's `int(emb_dim // factor)` gives the bottleneck."""
    factor = emb_dim / bottleneck_dim
    if int(emb_dim // factor) == bottleneck_dim:
        return factor
    return emb_dim / (bottleneck_dim + 0.5)  # Rounding fell below the bottleneck's own factor.
