"""Where what lies in a model directory, and how a checkpoint is named; loads no JAX.

    MODEL_DIR/model.json             config, adaptation, base (of an adapter-only checkpoint)
    MODEL_DIR/vocabulary/            tokenizer.json
    MODEL_DIR/huggingface.json       where an imported model came from, and its config.json
    MODEL_DIR/checkpoints/STEP/      params, opt_state, data and their hashes, see `steps`
    MODEL_DIR/damaged/STEP/          a step that training found damaged
    MODEL_DIR/metrics.jsonl          what training logged

A checkpoint is named by MODEL_DIR (its last step) or by MODEL_DIR/checkpoints/STEP.
"""

from __future__ import annotations

from etils import epath

MODEL_FILE = "model.json"
VOCABULARY_DIR = "vocabulary"
ORIGIN_FILE = "huggingface.json"
CHECKPOINTS_DIR = "checkpoints"
METRICS_FILE = "metrics.jsonl"


def split(checkpoint_path: str | epath.Path) -> tuple[epath.Path, int | None]:
    """MODEL_DIR and the step that a checkpoint's name holds; nothing need be there.

    >>> split("runs/base/checkpoints/78")
    (PosixGPath('runs/base'), 78)
    >>> split("runs/base")
    (PosixGPath('runs/base'), None)
    """
    path = epath.Path(checkpoint_path)
    if path.parent.name == CHECKPOINTS_DIR and path.name.isdigit():
        return path.parent.parent, int(path.name)
    return path, None
