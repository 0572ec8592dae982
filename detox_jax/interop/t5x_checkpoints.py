"""T5X's checkpoints, `MODEL_DIR/checkpoint_STEP/state`: parameters out and in, without T5X.

They are Orbax's, a tree `{"target": parameters, "state": {"step", "param_states"}}`. A T5X
checkpoint is always whole: under an adaptation it holds the base's parameters too. It does not say
what model it is of; a native checkpoint of the base, or MODEL and VOCABULARY_PATH, must.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import places, streamed
from detox_jax.errors import UserError, unread
from detox_jax.models import adaptation as adaptations
from detox_jax.models.config import TransformerConfig
from detox_jax.vocabulary import Vocabulary

Arrays = dict[str, np.ndarray]
_PREFIX = "checkpoint"
_STATE = "state"
POSITION = "dataset"


@dataclasses.dataclass(frozen=True)
class Description:
    """What model a T5X checkpoint is of.

    Attributes:
      config: its sizes.
      vocabulary: its vocabulary.
      adaptation: what was trained, or None for everything.
      base: what it started from, if that is known.
      base_path: where that is, as the user gave it.
    """

    config: TransformerConfig
    vocabulary: Vocabulary
    adaptation: adaptations.Adaptation | None
    base: streamed.Checkpoint | None
    base_path: str | None = None

    @classmethod
    def of(
        cls,
        base: str | None,
        model: TransformerConfig | None,
        vocabulary: str | None,
        adaptation: adaptations.Adaptation | None,
    ) -> Description:
        """From what the user gave.

        Args:
          base: the model directory that training started from.
          model: the model's sizes, where there is no base.
          vocabulary: the directory of the model's tokenizer, where there is no base.
          adaptation: what was trained of the base; None for everything.

        Raises:
          UserError: if that does not describe a model.
        """
        if base is not None:
            if model is not None or vocabulary is not None:
                raise UserError("BASE says what MODEL and VOCABULARY_PATH say; leave them out")
            opened = streamed.Checkpoint.open(base)
            if opened.spec.adaptation is not None:
                raise UserError(f"{base}: is itself an adaptation; give its base as BASE")
            directory = str(opened.model_dir / places.VOCABULARY_DIR)
            vocabulary_there = Vocabulary.load(directory)
            return cls(opened.spec.config, vocabulary_there, adaptation, opened, base)
        if adaptation is not None:
            raise UserError("ADAPTATION has a base; set BASE to the model it was trained on")
        if model is None or vocabulary is None:
            raise UserError(
                "a T5X checkpoint does not say what model it is of; set BASE, or MODEL (a file of "
                "gin_configs/models) and VOCABULARY_PATH"
            )
        loaded = Vocabulary.load(vocabulary)
        if loaded.vocab_size > model.vocab_size:
            raise UserError(
                f"MODEL has vocab_size {model.vocab_size}, but the vocabulary {vocabulary} has "
                f"{loaded.vocab_size} ids; set VOCAB_SIZE={loaded.vocab_size}"
            )
        return cls(model, loaded, None, None)

    def spec(self, model_dir: epath.Path) -> checkpoints.ModelSpec:
        """What `model.json` of the imported model says; an adaptation's names its base."""
        reference = None
        if self.adaptation is not None and self.base is not None:
            assert self.base_path is not None
            reference = {
                "path": checkpoints.base_reference(self.base_path, model_dir),
                "fingerprint": self.base.fingerprint,
            }
        return checkpoints.ModelSpec(
            self.config, self.adaptation, reference, self.vocabulary.fingerprint
        )


def write(directory: epath.Path, arrays: Arrays) -> epath.Path:
    """Writes `directory/checkpoint_0`, to start from.

    Args:
      directory: a T5X model directory.
      arrays: every parameter of the model, by path.

    Returns:
      The checkpoint.
    """
    state = {"target": streamed.nested(arrays), "state": {"step": np.int32(0)}}
    options = ocp.CheckpointManagerOptions(
        step_prefix=_PREFIX, enable_async_checkpointing=False, create=True
    )
    with ocp.CheckpointManager(
        checkpoints.absolute(directory), options=options, item_names=(_STATE, POSITION)
    ) as manager:
        # T5X wants a position in some data also of what a run starts from; this one is empty.
        items = {_STATE: ocp.args.PyTreeSave(state), POSITION: ocp.args.JsonSave({})}
        manager.save(0, args=ocp.args.Composite(**items))
    return directory / f"{_PREFIX}_0"


def resolve(path: str) -> tuple[epath.Path, int]:
    """The checkpoint that a path names: itself, or the last one of a T5X model directory.

    Raises:
      UserError: if there is none, or it is not of the kind that T5X writes by default.
    """
    directory = checkpoints.absolute(epath.Path(path))
    if not directory.is_dir():
        raise UserError(f"{path}: no such T5X checkpoint")
    steps = {_step(child): child for child in directory.iterdir() if _step(child) is not None}
    if _step(directory) is None and steps:
        last = max(step for step in steps if step is not None)
        return steps[last], last
    step = _step(directory)
    if step is None:
        raise UserError(f"{path}: no {_PREFIX}_STEP of T5X, nor a directory of them")
    if not (directory / _STATE).is_dir():
        raise UserError(
            f"{path}: has no {_STATE}/, so T5X did not write it with Orbax (its default); load and "
            "save it once with T5X"
        )
    return directory, step


def _step(path: epath.Path) -> int | None:
    prefix, _, number = path.name.rpartition("_")
    return int(number) if prefix == _PREFIX and number.isdigit() else None


def read(
    checkpoint: epath.Path,
    config: TransformerConfig,
    adaptation: adaptations.Adaptation | None,
) -> Arrays:
    """Every parameter of a model out of a T5X checkpoint, by path, in the dtype that it has there.

    Raises:
      UserError: if the checkpoint is of another model, naming a parameter that differs.
    """
    wanted = streamed.shapes_of(config, adaptation)
    _check_same(checkpoint, shapes(checkpoint), wanted)
    item = {
        "target": streamed.nested(
            {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in wanted.items()}
        )
    }
    arguments = ocp.args.PyTreeRestore(
        item=item,
        restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item),
        partial_restore=True,
    )
    restored = ocp.PyTreeCheckpointHandler().restore(checkpoint / _STATE, args=arguments)
    return _flat(restored["target"])


def unrounded(
    spec: checkpoints.ModelSpec, params: params_lib.Params
) -> tuple[checkpoints.ModelSpec, params_lib.Params]:
    """Parameters of a T5X checkpoint in a dtype that holds all their bits, and a spec that says so.

    What T5X trained is float32, also where its base is bfloat16.

    Args:
      spec: as the base, or MODEL, describes it.
      params: as they are stored.
    """
    own = spec.config.parameter_dtype
    if any(leaf.dtype != own for leaf in jax.tree.leaves(params)):
        config = dataclasses.replace(spec.config, param_dtype="float32")
        spec, params = dataclasses.replace(spec, config=config), params_lib.cast(params, np.float32)
    return spec, params


def shapes(checkpoint: epath.Path) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a T5X checkpoint, by path.

    Raises:
      UserError: if it cannot be read, or holds none.
    """
    try:
        metadata: Any = ocp.PyTreeCheckpointHandler().metadata(checkpoint / _STATE)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise unread(checkpoint, error) or UserError(
            f"{checkpoint}: cannot be read as a T5X checkpoint: {reason}"
        ) from None
    target = getattr(metadata, "tree", metadata).get("target")
    if not target:
        raise UserError(f"{checkpoint}: holds no parameters (no `target`)")
    return {path: tuple(entry.shape) for path, entry in _flat(target).items()}


def _flat(tree: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")  # type: ignore  # Its leaves are arrays.


def _check_same(
    checkpoint: epath.Path, stored: dict[str, Any], wanted: dict[str, tuple[int, ...]]
) -> None:
    for path in sorted(stored.keys() | wanted.keys()):
        if stored.get(path) == wanted.get(path):
            continue
        theirs = stored.get(path, "not there")
        ours = wanted.get(path, "not in the model")
        raise UserError(
            f"{checkpoint}: of another model: {path} is {theirs}, expected {ours}; give the MODEL "
            "(or BASE) and ADAPTATION that it was trained with"
        )


def trained(arrays: Arrays, adaptation: adaptations.Adaptation, base: streamed.Checkpoint) -> Any:
    """What an adaptation trained, once it is certain that the rest is its base, bit for bit.

    Raises:
      UserError: if a frozen parameter differs from the base's.
    """
    pattern = adaptations.trainable_pattern(adaptation)
    adapted, frozen = params_lib.partition(streamed.nested(arrays), pattern)
    for path, value in _flat(frozen).items():
        # T5X has every parameter in float32, which holds the bits of a base in bfloat16.
        as_read, expected = (np.asarray(x, np.float32) for x in (value, base.read(path)))
        if as_read.tobytes() != expected.tobytes():
            raise UserError(
                f"{path} of the T5X checkpoint differs from {base.model_dir}: it was trained on "
                "another base; give that one as BASE"
            )
    return adapted
