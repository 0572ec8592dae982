"""The model families of Hugging Face by `model_type`.

A family is a config mapping and a map of tensors, one line a tensor. Lines whose parameters a
config lacks (biases, an untied head) drop out, so one map serves every variant of a family.
"""

from __future__ import annotations

from detox_jax.interop import gpt, llama
from detox_jax.interop.family import Family

# An export is of the first family that holds a model exactly, so the plainer come first.
FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (*gpt.FAMILIES, *llama.FAMILIES)
}
