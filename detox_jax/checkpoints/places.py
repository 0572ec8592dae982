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

from detox_jax import atomic_files, manifests
from detox_jax.errors import UserError, suggestion

MODEL_FILE = "model.json"
VOCABULARY_DIR = "vocabulary"
ORIGIN_FILE = "huggingface.json"
CHECKPOINTS_DIR = "checkpoints"
METRICS_FILE = "metrics.jsonl"
# What other settings may have left where no step is saved (`outputs.OutputDirectory`). What else
# they leave is replaced by what is written: the vocabulary, unfinished steps, TensorBoard's events.
MADE = (MODEL_FILE, ORIGIN_FILE, METRICS_FILE)
REWARD_VERB = "train_reward"
_MAKE_MODELS = ("train", "convert", "combine", REWARD_VERB)
_NEAR = 2  # directories below or above one without a model, in which an error looks for some
_NAMED = 5  # models that it names

# A repository of the hub, or a file or directory that is named so.
_HUB = "hf://"
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def require(checkpoint_path: str | epath.Path, is_reward: bool = False) -> epath.Path:
    """The model directory that a checkpoint's name holds, where one of ours is there.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.
      is_reward: whether it may be what `train_reward` trained, which has a language model's shapes
        and is none: what it gives each token says nothing any more.

    Raises:
      UserError: if none is; for a Hugging Face model, with the command that brings it here.
    """
    if not str(checkpoint_path):
        raise UserError("the name of a checkpoint is empty; give MODEL_DIR")
    model_dir = split(checkpoint_path)[0]
    if (model_dir / MODEL_FILE).exists():
        if not is_reward and manifests.verb_of(model_dir) == REWARD_VERB:
            raise UserError(
                f"{checkpoint_path}: a reward model of `{REWARD_VERB}`, which writes no text; give "
                "a language model, and this to RewardAugmented.reward (docs/STEERING.md)"
            )
        return model_dir
    if (model_dir / "config.json").exists():
        raise UserError(
            f"{checkpoint_path}: a Hugging Face model; bring it here first, and give DIR: "
            f"detox-jax convert --from_hf={shlex.quote(str(checkpoint_path))} --to=DIR"
        )
    if model_dir.is_dir():
        raise UserError(f"{model_dir}: no {MODEL_FILE}; {_what_it_is(model_dir)}")
    if model_dir.exists():
        raise UserError(f"{model_dir}: a file; a checkpoint is a directory with a {MODEL_FILE}")
    # Where a bucket is missing a listing is an error.
    listed = model_dir.parent.glob(f"*/{MODEL_FILE}") if model_dir.parent.exists() else ()
    beside = [file.parent.name for file in listed]
    hint = suggestion(model_dir.name, beside, f"{model_dir.parent}/")
    if not hint and is_hub_name(str(checkpoint_path)):
        hint = (
            "; a model of the hub is brought here first: detox-jax convert "
            f"--from_hf={checkpoint_path} --to=DIR"
        )
    raise UserError(f"{checkpoint_path}: no such checkpoint{hint}")


def _what_it_is(directory: epath.Path) -> str:
    """What a directory without a model is, and which models are near, for an error."""
    verb = manifests.verb_of(directory)
    if verb in _MAKE_MODELS:
        return f"what `{verb}` wrote there is unfinished or damaged; run that command again"
    what = verb and f"it is an output of `{verb}`"
    for above in list(directory.parents)[:_NEAR]:
        if (above / MODEL_FILE).exists():
            return f"it is a part of the model {above}; give it"
    below = [
        str(file.parent)
        for depth in range(1, _NEAR + 1)
        for file in sorted(directory.glob("/".join(["*"] * depth + [MODEL_FILE])))
    ]
    if not below:
        return what or "not a model that detox-jax trained or imported"
    more = f" and {len(below) - _NAMED} more" if len(below) > _NAMED else ""
    models = f"give a model that lies in it: {', '.join(below[:_NAMED])}{more}"
    return f"{what}; {models}" if what else models


def is_hub_name(name: str) -> bool:
    """Whether it may name a repository of the hub, `OWNER/NAME` or `NAME`."""
    return _HUB_NAME.fullmatch(name) is not None


def split(checkpoint_path: str | epath.Path) -> tuple[epath.Path, int | None]:
    """MODEL_DIR and the step that a checkpoint's name holds; nothing need be there.

    Raises:
      UserError: for an address that is not read; of the hub's with the command that brings it here.

    >>> split("runs/base/checkpoints/78")
    (PosixGPath('runs/base'), 78)
    >>> split("runs/base")
    (PosixGPath('runs/base'), None)
    """
    if (address := str(checkpoint_path)).startswith(_HUB):
        name = shlex.quote(address.removeprefix(_HUB))
        raise UserError(
            f"{address}: a model of the hub; bring it here first, and give DIR: "
            f"detox-jax convert --from_hf={name} --to=DIR"
        )
    atomic_files.require_place(checkpoint_path)
    path = epath.Path(checkpoint_path)
    if path.parent.name == CHECKPOINTS_DIR and path.name.isdigit():
        return path.parent.parent, int(path.name)
    return path, None
