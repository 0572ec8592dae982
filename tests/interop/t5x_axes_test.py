"""Axes of parameters under T5X, whose rules name these (T5X itself: t5x_test.py)."""

import jax
import jax.numpy as jnp
import pytest
from flax import core

from detox_jax.interop import t5x_axes
from detox_jax.models import adaptation as adaptations
from detox_jax.models.transformer import TransformerLM

# Of t5x.partitioning.standard_logical_axis_rules at the commit of the extra t5x.
KNOWN = {
    *("batch", "vocab", "embed", "mlp", "heads", "kv", "joined_kv", "relpos_buckets"),
    *("abspos_buckets", "length", "layers", "stack", "mlp_activations"),
}
ADAPTATIONS = [
    None,
    adaptations.AdapterConfig(4),
    adaptations.ParallelAdapterConfig(4),
    adaptations.LoRAConfig(2),
    adaptations.PrefixConfig(2),
    adaptations.BitFitConfig(),
    adaptations.LoReFTConfig(2),
]


@pytest.mark.parametrize("adaptation", ADAPTATIONS, ids=lambda a: type(a).__name__)
def test_every_axis_has_a_name_that_t5x_knows(config, adaptation):
    model = TransformerLM(config, adaptation)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 1), jnp.int32))
    known = t5x_axes.known_to_t5x(core.freeze(variables))
    assert isinstance(known, core.FrozenDict)

    def names(of):
        leaves = jax.tree_util.tree_leaves_with_path(
            core.unfreeze(of["params_axes"]), is_leaf=lambda x: hasattr(x, "names")
        )
        return {jax.tree_util.keystr(path): leaf.names for path, leaf in leaves}

    ours, theirs = names(variables), names(known)
    assert {name for axes in theirs.values() for name in axes} <= KNOWN
    assert ours.keys() == theirs.keys()
    assert all(len(ours[path]) == len(theirs[path]) for path in ours)
    changed = {path for path in ours if ours[path] != theirs[path]}
    assert all("adapter" in path for path in changed)
    assert bool(changed) == ("Adapter" in type(adaptation).__name__)
    assert known["params"] == core.freeze(variables["params"])
