"""What a family of Hugging Face models is, and the pieces that several families share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from detox_jax.interop.config_fields import Fields
from detox_jax.interop.layouts import Flat, Linear, Tensor
from detox_jax.models.config import RopeScaling, TransformerConfig

Map = dict[str, Tensor]

# Both directions of an activation's name; the first name of several is the one written.
ACTIVATIONS = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_fast": "gelu",
    "gelu": "gelu_exact",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
ATTENTION = "layers/attention"
MLP = "layers/mlp"


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
      meant: fields of config.json, each with a value and with the other that it means there.
    """

    model_type: str
    architecture: str
    prefix: str
    read: Callable[[Fields], TransformerConfig]
    write: Callable[[TransformerConfig], dict[str, Any]]
    tensors: Callable[[int], Map]
    head: str = "lm_head.weight"
    buffers: str = r".*\.rotary_emb\.inv_freq"
    meant: tuple[tuple[str, str, str], ...] = ()


def linear(name: str, path: str, num_in: int = 1) -> Map:
    """A `torch.nn.Linear` and its bias, if it has one."""
    return {
        f"{name}.weight": Tensor(Linear(num_in), f"{path}/kernel"),
        f"{name}.bias": Tensor(Flat(), f"{path}/bias"),
    }


def attention(name: str, out: str) -> Map:
    """Separate query, key, value and output projections."""
    return {
        **linear(f"{name}.q_proj", f"{ATTENTION}/query"),
        **linear(f"{name}.k_proj", f"{ATTENTION}/key"),
        **linear(f"{name}.v_proj", f"{ATTENTION}/value"),
        **linear(f"{name}.{out}", f"{ATTENTION}/out", num_in=2),
    }


def take_rope(fields: Fields) -> dict[str, Any]:
    """The field `rope_parameters`, which older configs call `rope_scaling`."""
    parameters, scaling = fields.take("rope_parameters", None), fields.take("rope_scaling", None)
    if parameters and scaling:
        fields.refuse("rope_scaling", scaling, "there is rope_parameters too; keep one")
    return dict(parameters or scaling or {})


def read_rope(fields: Fields, rope: dict[str, Any], name: str) -> tuple[float, RopeScaling | None]:
    """Base and scaling of rotary positions.

    Args:
      fields: to refuse with.
      rope: the field's own fields, `rope_theta` among them.
      name: of the field.
    """
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


def write_rope_scaling(config: TransformerConfig) -> dict[str, Any] | None:
    """The field `rope_scaling`."""
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


def activation_name(activation: str) -> str:
    """Hugging Face's name of an activation."""
    return next((name for name, ours in ACTIVATIONS.items() if ours == activation), activation)
