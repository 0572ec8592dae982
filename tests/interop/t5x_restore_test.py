"""What T5X is given to restore from: found, complete, and of the right model."""

import os
import subprocess
import sys

import numpy as np
import pytest
from etils import epath
from flax import traverse_util

from detox_jax.errors import UserError
from detox_jax.interop import t5x_checkpoints, t5x_restore
from detox_jax.models.adaptation import AdapterConfig

ADAPTER = AdapterConfig(bottleneck_dim=3)


def test_what_a_checkpoint_must_hold():
    def tree(*paths):
        return {"target": traverse_util.unflatten_dict(dict.fromkeys(paths, 0), sep="/")}

    own = "layers/mlp_adapter/up_bias"
    base, adapted = tree("a/b"), tree("a/b", own)
    start = t5x_restore.Restored(ADAPTER, initial=True)
    assert start({**base, "state": 1}, adapted) == base
    assert start({**base, "state": 1}, adapted, is_resuming=True) == {**base, "state": 1}
    with pytest.raises(UserError, match="trained with this ADAPTATION"):
        t5x_restore.Restored(ADAPTER)(base, adapted)
    with pytest.raises(UserError, match="another architecture"):
        start(tree(own), adapted)
    with pytest.raises(UserError, match="the model has not"):
        t5x_restore.Restored(initial=True)(adapted, base)


def test_a_checkpoint_of_other_sizes(tmp_path):
    """Of the same names, so that T5X would go on to a traceback of Flax's."""
    stored = {"a/b": np.zeros((2, 3), np.float32), "layers/mlp_adapter/up": np.zeros(4, np.float32)}
    t5x_checkpoints.write(epath.Path(tmp_path), stored)
    names = {"target": traverse_util.unflatten_dict(dict.fromkeys(stored, "a name"), sep="/")}

    def restored(**shapes):
        flat = {path: np.zeros(shapes.get(path[-1], x.shape)) for path, x in stored.items()}
        wanted = {"target": traverse_util.unflatten_dict(flat, sep="/")}
        return t5x_restore.Restored(ADAPTER, path=str(tmp_path))(names, wanted)

    assert restored() == names
    with pytest.raises(UserError, match=r"_0: a/b is \(2, 3\), and that of MODEL \(2, 5\)"):
        restored(b=(2, 5))
    with pytest.raises(UserError, match=r"up is \(4,\), and that of ADAPTATION \(6,\)"):
        restored(p=(6,))


def test_where_training_starts(tmp_path):
    (tmp_path / "run" / "checkpoint_4" / "state").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint_20" / "state").mkdir(parents=True)
    found = t5x_restore.checkpoint_path(str(tmp_path / "run"))
    assert found == str(tmp_path / "run" / "checkpoint_20")
    four = str(tmp_path / "run" / "checkpoint_4")
    assert t5x_restore.checkpoint_path(four, ADAPTER) == four
    assert t5x_restore.checkpoint_path(None) == []
    with pytest.raises(UserError, match="without a position"):
        t5x_restore.checkpoint_path(four, has_position=True)
    (tmp_path / "run" / "checkpoint_4" / "dataset").mkdir()
    assert t5x_restore.checkpoint_path(four, has_position=True) == four
    with pytest.raises(UserError, match="ADAPTATION needs a model to adapt"):
        t5x_restore.checkpoint_path(None, ADAPTER)
    with pytest.raises(UserError, match="no such T5X checkpoint"):
        t5x_restore.checkpoint_path(str(tmp_path / "none"))


def test_a_mistake_ends_in_one_line(tmp_path):
    """Under absl's `app.run`, which T5X's scripts start with, and gin, which adds to a message."""
    (tmp_path / "script.py").write_text(
        "from absl import app\n"
        "import gin\n"
        "from detox_jax.interop import t5x_restore\n"
        "find = gin.configurable(t5x_restore.checkpoint_path)\n"
        "app.run(lambda argv: find('none'))\n"
    )
    command = [sys.executable, str(tmp_path / "script.py")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.stderr.endswith("detox-jax: error: none: no such T5X checkpoint\n")
    assert "Traceback" not in result.stderr
    assert result.returncode == 2
