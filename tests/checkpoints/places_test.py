"""How a checkpoint is named."""

import pytest
from etils import epath

from detox_jax.checkpoints import places


@pytest.mark.parametrize(
    ("name", "model_dir", "step"),
    [
        ("runs/base", "runs/base", None),
        ("runs/base/checkpoints/78", "runs/base", 78),
        ("gs://bucket/base/checkpoints/0", "gs://bucket/base", 0),
        ("runs/base/checkpoints", "runs/base/checkpoints", None),
        ("runs/base/checkpoints/last", "runs/base/checkpoints/last", None),
        ("runs/steps/78", "runs/steps/78", None),
    ],
)
def test_only_a_number_below_checkpoints_is_a_step(name, model_dir, step):
    assert places.split(name) == (epath.Path(model_dir), step)
    assert places.split(epath.Path(name)) == places.split(name)
