"""LoRA checkpoints in the layout of Hugging Face's PEFT."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from detox_jax.errors import UserError
from detox_jax.interop import adaptation_files
from detox_jax.models.adaptation import LoRAConfig

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
_FUSED = ("attention/query", "attention/key", "attention/value")


@dataclasses.dataclass(frozen=True)
class Projections:
    """Where a family of transformers keeps its projections.

    Attributes:
      layer: the prefix of the names in layer `{}`.
      modules: the module of each of our projections.
      fused: how query, key and value share a module's outputs: `blocks` (all queries, all keys, all
        values), `heads` (query, key and value of one head after another), or None.
      transposed: whether the base's weights are `[in, out]` (GPT-2's Conv1D).
    """

    layer: str
    modules: dict[str, str]
    fused: str | None = None
    transposed: bool = False


_LLAMA = Projections(
    "model.layers.{}.",
    {
        "attention/query": "self_attn.q_proj",
        "attention/key": "self_attn.k_proj",
        "attention/value": "self_attn.v_proj",
        "attention/out": "self_attn.o_proj",
        "mlp/wi_0": "mlp.gate_proj",
        "mlp/wi_1": "mlp.up_proj",
        "mlp/wo": "mlp.down_proj",
    },
)
_GPT2 = Projections(
    "transformer.h.{}.",
    {
        **dict.fromkeys(_FUSED, "attn.c_attn"),
        "attention/out": "attn.c_proj",
        "mlp/wi": "mlp.c_fc",
        "mlp/wo": "mlp.c_proj",
    },
    fused="blocks",
    transposed=True,
)
_GPT_NEOX = Projections(
    "gpt_neox.layers.{}.",
    {
        **dict.fromkeys(_FUSED, "attention.query_key_value"),
        "attention/out": "attention.dense",
        "mlp/wi": "mlp.dense_h_to_4h",
        "mlp/wo": "mlp.dense_4h_to_h",
    },
    fused="heads",
)
_OPT = Projections(
    "model.decoder.layers.{}.",
    {
        "attention/query": "self_attn.q_proj",
        "attention/key": "self_attn.k_proj",
        "attention/value": "self_attn.v_proj",
        "attention/out": "self_attn.out_proj",
        "mlp/wi": "fc1",
        "mlp/wo": "fc2",
    },
)
_LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
FAMILIES = {
    **dict.fromkeys(_LLAMA_LIKE, _LLAMA),
    "gpt2": _GPT2,
    "gpt_neox": _GPT_NEOX,
    "opt": _OPT,
}


def export(
    model_dir: str, to: str, base_name_or_path: str, family: str, revision: str | None = None
) -> None:
    """Writes a LoRA checkpoint so that `PeftModel.from_pretrained` over its base equals it.

    Where the family keeps query, key and value in one matrix, their additions become one: with
    `A = [A_q; A_v]` and B block by block in the rows of query and value, `B A` is the sum of both.
    Its rank is that of one times their number, and alpha grows with it, so that the scale stays;
    where all of them have one A, as one that came from PEFT, B alone has their blocks.

    Args:
      model_dir: the checkpoint.
      to: directory, created where it is missing.
      base_name_or_path: the base in transformers' form, as PEFT is to find it.
      family: transformers' `model_type` of the base, one of `FAMILIES`.
      revision: commit of the base where it is a repository of the hub.

    Raises:
      UserError: if the family is unknown or lacks a projection, the checkpoint is no LoRA, or `to`
        holds an adaptation already.
    """
    if family not in FAMILIES:
        raise UserError(f"no PEFT layout for family {family!r}; one of {', '.join(FAMILIES)}")
    arrays, lora, _ = adaptation_files.read(model_dir, LoRAConfig)
    assert isinstance(lora, LoRAConfig)
    where = FAMILIES[family]
    names = sorted({path.removeprefix("layers/").rpartition("/")[0] for path in arrays})
    for name in names:
        if name not in where.modules:
            raise UserError(f"{model_dir}: family {family!r} has no counterpart of {name}")
    weights: adaptation_files.Arrays = {}
    widened: dict[str, int] = {}
    ordered = sorted(names, key=lambda name: (where.modules[name], name))
    for module, group in itertools.groupby(ordered, key=where.modules.__getitem__):
        members = list(group)
        a_NRI, b_NOR = _module(arrays, members, where.fused)
        if (times := a_NRI.shape[1] // lora.rank) > 1:
            widened[module] = times
        for layer, (a_RI, b_OR) in enumerate(zip(a_NRI, b_NOR, strict=True)):
            prefix = f"base_model.model.{where.layer.format(layer)}{module}"
            weights[f"{prefix}.lora_A.weight"] = a_RI
            weights[f"{prefix}.lora_B.weight"] = b_OR
    config = _config(lora, where, base_name_or_path, sorted({where.modules[n] for n in names}))
    if revision is not None:
        config["revision"] = revision
    config["rank_pattern"] = {module: lora.rank * n for module, n in widened.items()}
    config["alpha_pattern"] = {module: lora.alpha * n for module, n in widened.items()}
    adaptation_files.write(to, WEIGHTS_FILE, weights, CONFIG_FILE, config)


def _module(
    arrays: adaptation_files.Arrays, members: list[str], fused: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """A `[layers, rank, in]` and B `[layers, out, rank]` of one module."""
    pairs = [(arrays[f"layers/{m}/lora_a"], arrays[f"layers/{m}/lora_b"]) for m in members]
    layers, rank = pairs[0][0].shape[0], pairs[0][0].shape[-1]
    a = [a.reshape(layers, -1, rank).swapaxes(1, 2) for a, _ in pairs]
    is_shared = all(np.array_equal(a[0], other) for other in a)
    a_NRI = a[0] if is_shared else np.concatenate(a, axis=1)
    if fused is None or members[0] not in _FUSED:
        (_, b) = pairs[0]
        return a_NRI, b.reshape(layers, rank, -1).swapaxes(1, 2)
    heads, head_dim = pairs[0][1].shape[2:]
    times = a_NRI.shape[1] // rank
    b_N3HKmR = np.zeros((layers, 3, heads, head_dim, times, rank), np.float32)
    for i, (member, (_, b_NRHK)) in enumerate(zip(members, pairs, strict=True)):
        b_N3HKmR[:, _FUSED.index(member), :, :, 0 if is_shared else i] = np.moveaxis(b_NRHK, 1, -1)
    if fused == "heads":
        b_N3HKmR = b_N3HKmR.swapaxes(1, 2)
    return a_NRI, b_N3HKmR.reshape(layers, 3 * heads * head_dim, -1)


def _config(
    lora: LoRAConfig, where: Projections, base_name_or_path: str, modules: list[str]
) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name_or_path,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": modules,
        "fan_in_fan_out": where.transposed,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
