"""A causal model that says how toxic a text will be: its final hidden state times one row.

The row is that of id 0 in the table of outputs, which stands for no token. So a reward model is a
language model's checkpoint like any other, and starts from one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import output_table


def head(config: TransformerConfig, params: object) -> jax.Array:
    """The row, float32 `[D]`."""
    return output_table(config, params)[0].astype(jnp.float32)


def toxicity(hidden: jax.Array, head_D: jax.Array) -> jax.Array:
    """What is expected behind final hidden states `[..., D]`; not clipped."""
    return hidden.astype(jnp.float32) @ head_D
