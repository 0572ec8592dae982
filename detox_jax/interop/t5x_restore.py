"""What T5X restores from: found, and checked before it is used; does not need T5X."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping
from typing import Any

from flax import core, traverse_util

from detox_jax.errors import IN_CALL, UserError
from detox_jax.interop import t5x_checkpoints
from detox_jax.models import adaptation as adaptations


def checkpoint_path(
    path: str | None,
    adaptation: adaptations.Adaptation | None = None,
    has_position: bool = False,
) -> Any:
    """What T5X's `RestoreCheckpointConfig.path` wants.

    Args:
      path: a checkpoint, or a directory of them, whose last one is meant; None starts from random
        weights.
      adaptation: of the model.
      has_position: whether it must hold a position in some data, as T5X's `save_dataset` asks also
        of what a run starts from.

    Raises:
      UserError: if there is no such checkpoint, or an adaptation has nothing to adapt.
    """
    end_in_one_line()
    if path is not None:
        checkpoint, _ = t5x_checkpoints.resolve(path)
        if has_position and not (checkpoint / t5x_checkpoints.POSITION).is_dir():
            raise UserError(
                f"{path}: was saved without a position in its data, on which T5X insists; bind "
                "utils.SaveCheckpointConfig.save_dataset=False and "
                "t5x_restore.checkpoint_path.has_position=False, or convert it there and back"
            )
        return str(checkpoint)
    if adaptation is not None:
        raise UserError(
            "ADAPTATION needs a model to adapt: set INITIAL_CHECKPOINT_PATH, or ADAPTATION=None to "
            "train from scratch"
        )
    return []


@dataclasses.dataclass(frozen=True)
class Restored:
    """A T5X `state_transformation_fn` that checks what a checkpoint holds before it is used.

    Attributes:
      adaptation: of the model.
      initial: the checkpoint is what training starts from: its parameters alone are taken, training
        starts at step 0, and the adaptation's own parameters may be missing; they are then created.
      path: what `checkpoint_path` is given. T5X tells names alone; shapes are read there, and not
        compared where it is None.
    """

    adaptation: adaptations.Adaptation | None = None
    initial: bool = False
    path: str | None = None

    def __call__(
        self, state_dict: Any, target_state_dict: Any, *, is_resuming: bool = False
    ) -> Any:
        """Returns what is to be restored.

        Args:
          state_dict: what the checkpoint holds, as nested dicts of arrays or their descriptions.
          target_state_dict: what the model needs.
          is_resuming: whether it is a checkpoint of this very run.

        Raises:
          UserError: if parameters are missing, have another shape or belong to nothing here.
        """
        if is_resuming:
            return state_dict
        stored, wanted = _target(state_dict), _target(target_state_dict)
        missing = sorted(wanted.keys() - stored.keys())
        new = [path for path in missing if self.initial and self._is_own(path)]
        if len(new) < len(missing):
            path = next(path for path in missing if path not in new)
            hint = (
                "give one that was trained with this ADAPTATION"
                if self._is_own(path)
                else "it is of another architecture than MODEL"
            )
            raise UserError(f"the checkpoint has no parameter {path}; {hint}")
        if extra := sorted(stored.keys() - wanted.keys()):
            raise UserError(
                f"the checkpoint has a parameter {extra[0]} that the model has not; give the "
                "ADAPTATION and MODEL that it was trained with"
            )
        if self.path is not None:
            self._check_shapes(self.path, {path: leaf.shape for path, leaf in wanted.items()})
        return {"target": state_dict["target"]} if self.initial else state_dict

    def _check_shapes(self, path: str, wanted: Mapping[str, tuple[int, ...]]) -> None:
        checkpoint, _ = t5x_checkpoints.resolve(path)
        for name, theirs in sorted(t5x_checkpoints.shapes(checkpoint).items()):
            if theirs != wanted[name]:
                what = "ADAPTATION" if self._is_own(name) else "MODEL"
                raise UserError(
                    f"{checkpoint}: {name} is {theirs}, and that of {what} {wanted[name]}; give "
                    f"the {what} that it was trained with"
                )

    def _is_own(self, path: str) -> bool:
        pattern = adaptations.trainable_pattern(self.adaptation)
        return self.adaptation is not None and re.fullmatch(pattern, path) is not None


def _target(state_dict: Any) -> dict[str, Any]:
    flat: Any = traverse_util.flatten_dict(core.unfreeze(state_dict).get("target", {}), sep="/")
    return flat


def end_in_one_line() -> None:
    """A mistake of the user's then ends T5X's scripts as it ends ours: one line, exit status 2."""
    sys.excepthook = _excepthook


def _excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if not isinstance(error, UserError):
        sys.__excepthook__(kind, error, trace)
        return
    message = str(error).split(IN_CALL)[0]
    print(f"detox-jax: error: {message}", file=sys.stderr)
    sys.exit(2)
