"""The axes of parameters by names that T5X's rules know; does not need T5X."""

from __future__ import annotations

from typing import Any

import jax
from flax import core
from flax.linen import partitioning

# Of adapters: which mesh axes split them is said in `parallel.mesh`, of which T5X knows nothing. By
# these names it splits them as it splits the products of an MLP.
_OWN_NAMES = {"width": "embed", "bottleneck": "mlp"}


def known_to_t5x(variables: Any) -> Any:
    """A model's variables, with axes that T5X's `standard_logical_axis_rules` have all.

    What T5X has no rule for it leaves whole on every device, without a word.

    Args:
      variables: what `TransformerLM.init` returns, with `params_axes`.
    """

    def renamed(axes: partitioning.AxisMetadata) -> partitioning.AxisMetadata:
        return partitioning.AxisMetadata(tuple(_OWN_NAMES.get(name, name) for name in axes.names))

    def has_names(x: Any) -> bool:
        return isinstance(x, partitioning.AxisMetadata)

    axes = jax.tree.map(renamed, variables["params_axes"], is_leaf=has_names)
    return core.copy(variables, {"params_axes": axes})
