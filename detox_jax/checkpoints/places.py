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

import re
import shlex

from etils import epath

from detox_jax.errors import UserError

MODEL_FILE = "model.json"
VOCABULARY_DIR = "vocabulary"
ORIGIN_FILE = "huggingface.json"
CHECKPOINTS_DIR = "checkpoints"
METRICS_FILE = "metrics.jsonl"

# A repository of the hub, or a file or directory that is named so.
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def require(checkpoint_path: str | epath.Path) -> epath.Path:
    """The model directory that a checkpoint's name holds, where one of ours is there.

    Raises:
      UserError: if none is; for a Hugging Face model, with the command that brings it here.
    """
    model_dir = split(checkpoint_path)[0]
    if (model_dir / MODEL_FILE).exists():
        return model_dir
    if (model_dir / "config.json").exists():
        raise UserError(
            f"{checkpoint_path}: a Hugging Face model; bring it here first, and give DIR: "
            f"detox-jax convert --from_hf={shlex.quote(str(checkpoint_path))} --to=DIR"
        )
    if model_dir.exists():
        raise UserError(
            f"{model_dir}: no {MODEL_FILE}; not a model that detox-jax trained or imported"
        )
    hint = ""
    if is_hub_name(str(checkpoint_path)):
        hint = (
            "; a model of the hub is brought here first: detox-jax convert "
            f"--from_hf={checkpoint_path} --to=DIR"
        )
    raise UserError(f"{checkpoint_path}: no such checkpoint{hint}")


def is_hub_name(name: str) -> bool:
    """Whether it may name a repository of the hub, `OWNER/NAME` or `NAME`."""
    return _HUB_NAME.fullmatch(name) is not None


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
