"""What `import detox_jax` offers."""

from importlib import metadata

import pytest

import detox_jax


def test_every_public_name_is_there():
    assert len(detox_jax.__all__) == len(set(detox_jax.__all__)) > 0
    for name in detox_jax.__all__:
        assert getattr(detox_jax, name).__name__ == name


def test_dir_lists_them_and_the_version():
    assert dir(detox_jax) == sorted([*detox_jax.__all__, "__version__"])
    assert detox_jax.__version__ == metadata.version("detox-jax")


def test_another_name_is_not():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        detox_jax.Nothing  # noqa: B018
