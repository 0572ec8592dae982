"""The model never mixes dtypes by accident (optax does, so this holds for `models` alone)."""

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_dtype_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield
