"""The model that training starts from, beside the one that is trained.

An adaptation leaves its base in place: the same parameters without the adaptation are the base. Of
a model that is trained whole, or of base parameters that an adaptation trains, a frozen copy is
held under `BASE`: as many bytes again as the trained parameters have.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from detox_jax.checkpoints import params as params_lib

BASE = "base"  # no network of ours has a parameter of that name


def held(params: params_lib.Params, pattern: str) -> params_lib.Params:
    """What has to be held beside the frozen parameters: copies of what training changes.

    Args:
      params: the base's, whole.
      pattern: of the paths that are trained; those that the base has not are no parameters of it.

    Returns:
      `{"base": copies}`; empty where training changes no parameter of the base.
    """
    try:
        trained, _ = params_lib.partition(params, pattern)
    except ValueError:  # None of them is.
        return {}
    # A step gives the memory of what it trains away: a reference to it would be to nothing.
    return {BASE: jax.tree.map(jnp.copy, trained)}


def without_base(params: params_lib.Params) -> params_lib.Params:
    """The parameters of the model that is trained, without what is held beside them."""
    return {name: tree for name, tree in params.items() if name != BASE}


def of(model: Any, params: params_lib.Params) -> tuple[Any, params_lib.Params]:
    """The base's network and its parameters.

    Args:
      model: the network that is trained, its adaptation included.
      params: its parameters, and what is `held`.
    """
    own = without_base(params)
    if model.adaptation is not None:
        _, own = params_lib.partition(own, model.adaptation.trainable_pattern)
    elif BASE not in params:
        raise ValueError("the base of a model that is trained whole must be held")
    flat = traverse_util.flatten_dict(own, sep="/")
    copies = traverse_util.flatten_dict(params.get(BASE, {}), sep="/")
    base = traverse_util.unflatten_dict({**flat, **copies}, sep="/")
    return model.clone(adaptation=None), base
