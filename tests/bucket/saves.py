"""Run by checkpoints_test: saves three steps in MODEL_DIR, restores the last, goes on from it."""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from detox_jax.checkpoints import model_dir as checkpoints


def _params(step: int) -> dict[str, jax.Array]:
    return {"kernel": jax.numpy.arange(12.0).reshape(3, 4) + step, "bias": jax.numpy.ones(5) * step}


def _save(model_dir: epath.Path, count: int) -> None:
    with checkpoints.manager(model_dir, max_to_keep=2) as manager:
        first = (manager.latest_step() or 0) + 1
        for step in range(first, first + count):
            saved = ocp.args.StandardSave(_params(step))
            manager.save(step, args=ocp.args.Composite(params=saved))


def _main(model_dir: epath.Path) -> None:
    _save(model_dir, 3)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _params(0))
    restored = checkpoints.restore_arrays(model_dir, 3, "params", shapes)
    jax.tree.map(np.testing.assert_array_equal, restored, _params(3))
    _save(model_dir, 1)
    print(json.dumps(checkpoints.saved_steps(model_dir)))


if __name__ == "__main__":
    _main(epath.Path(sys.argv[1]))
