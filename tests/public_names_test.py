"""What `import detox_jax` offers."""

import pytest

import detox_jax


def test_every_public_name_is_there():
    assert len(detox_jax.__all__) == len(set(detox_jax.__all__)) > 0
    for name in detox_jax.__all__:
        assert getattr(detox_jax, name).__name__ == name


def test_another_name_is_not():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        detox_jax.Nothing  # noqa: B018
