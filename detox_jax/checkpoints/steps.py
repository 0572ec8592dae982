"""The saved steps of a model directory: whole or not at all, checked when they are read.

    MODEL_DIR/checkpoints/STEP/params, opt_state     arrays, as Orbax lays them out
    MODEL_DIR/checkpoints/STEP/data                  position in the data, JSON
    MODEL_DIR/checkpoints/STEP/record                hashes of all of these, and what a run knows
    MODEL_DIR/damaged/STEP                           a step that training found damaged

A step that cannot be read, or reads as other numbers than were saved, is `Damaged`: a storage that
flips a bit tells nobody. Every process of a run comes to the same judgement of a step, whichever
of them met the damage.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from detox_jax import atomic_files
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import places
from detox_jax.errors import (
    Unavailable,
    UserError,
    is_of_storage,
    lacks_role,
    shortened,
    storage_trouble,
    without_role,
    writing,
)
from detox_jax.parallel import processes

DAMAGED_DIR = "damaged"
ARRAYS = ("params", "opt_state")
ITEMS = (*ARRAYS, "data", "record")
# What Orbax puts last into a step, which it writes in place on an object store; and how it names
# what it is writing on a disk.
_MARK = "commit_success.txt"
_HALF_WRITTEN = re.compile(r"\d+\.orbax-checkpoint-tmp(-\d+)?")
# Of arrays on the host: into about how many files they go, and the least that a file holds.
_FILES, _LEAST_FILE_BYTES = 256, 4 * 2**20
_SHOWN = 200  # characters of a library's error

_Read = TypeVar("_Read")


class Damaged(Exception):
    """A step that cannot be restored as it was saved; the message says why, in one line."""


# --- where they lie -------------------------------------------------------------------------------


def checkpoints_dir(model_dir: epath.Path) -> epath.Path:
    """Where the steps lie."""
    return absolute(model_dir / places.CHECKPOINTS_DIR)


def absolute(path: epath.Path) -> epath.Path:
    """The path as Orbax wants it: absolute, where it is local."""
    return epath.Path(os.path.abspath(path)) if atomic_files.is_local(path) else path


def saved_steps(model_dir: epath.Path) -> list[int]:
    """The steps that are completely saved, in order.

    On a disk Orbax renames a step when it is whole; on an object store it writes into the step's
    own directory and marks it when it is whole (`commit_success.txt`).
    """
    return sorted(int(path.name) for path in _named_steps(model_dir) if _is_whole(path))


def remove_unfinished(model_dir: epath.Path) -> None:
    """Removes what a save that was killed left behind; Orbax leaves it for ever.

    Only names that Orbax gives to steps are touched, and nothing outside of `checkpoints/`.
    """

    def remove() -> None:
        directory = model_dir / places.CHECKPOINTS_DIR
        if not directory.exists():
            return
        for path in directory.iterdir():
            unmarked = path.name.isdigit() and path.is_dir() and not _is_whole(path)
            if unmarked or _HALF_WRITTEN.fullmatch(path.name):
                path.rmtree(missing_ok=True)

    processes.current().first_decides(remove)


def set_aside_after(model_dir: epath.Path, whole: int) -> None:
    """Moves the damaged steps behind a whole one out of the way of those that training will save.

    Process 0 lists them: others may look when it has moved them already.
    """

    def move() -> None:
        for step in saved_steps(model_dir):
            if step <= whole:
                continue
            place = model_dir / DAMAGED_DIR / str(step)
            while place.exists():
                place = place.parent / f"{place.name}-again"
            place.parent.mkdir(parents=True, exist_ok=True)
            (checkpoints_dir(model_dir) / str(step)).rename(place)

    processes.current().first_decides(move)


def remove(model_dir: epath.Path, steps: Sequence[int]) -> None:
    """Removes steps, each wholly or, where a kill comes between, as an unfinished one.

    The later ones first: a run that is killed meanwhile goes on from the last that is left.
    """
    processes.current().first_decides(lambda: remove_here(model_dir, steps))


def remove_here(model_dir: epath.Path, steps: Sequence[int]) -> None:
    """`remove`, in a process that asks no other."""
    for step in sorted(steps, reverse=True):
        path = checkpoints_dir(model_dir) / str(step)
        if atomic_files.is_local(path):  # `remove_unfinished` knows the name.
            path = path.rename(path.parent / f"{step}.orbax-checkpoint-tmp")
        else:  # Which knows no renaming; without its mark a step is none.
            (path / _MARK).unlink(missing_ok=True)
        path.rmtree()


def _named_steps(model_dir: epath.Path) -> list[epath.Path]:
    directory = model_dir / places.CHECKPOINTS_DIR
    if not directory.is_dir():
        return []
    return [path for path in directory.iterdir() if path.name.isdigit()]


def _is_whole(path: epath.Path) -> bool:
    return ocp.utils.is_checkpoint_finalized(path)


# --- writing --------------------------------------------------------------------------------------


def manager(model_dir: epath.Path, **options: Any) -> ocp.CheckpointManager:
    """The Orbax manager of a model directory's steps."""
    return ocp.CheckpointManager(
        checkpoints_dir(model_dir),
        options=ocp.CheckpointManagerOptions(
            enable_async_checkpointing=False, step_prefix=None, **options
        ),
        item_names=ITEMS,
    )


def save(
    manager: ocp.CheckpointManager,
    step: int,
    arrays: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> None:
    """Saves a step with its hashes, and returns when it is written.

    Args:
      manager: of the model directory.
      step: its number.
      arrays: trees by item, of `ARRAYS`.
      data: the position in the data.
      run: what else a run that goes on from here must know, JSON.

    Raises:
      Unavailable: where the storage fails.
    """
    content = content_of(arrays, data, run)
    with writing(f"{manager.directory}/{step}"):
        is_saved = manager.save(step, args=content)
    if not is_saved:  # Orbax says no more than that where a later step is there.
        raise RuntimeError(f"{manager.directory}: step {step} was not saved: a later one is there")


def content_of(
    arrays: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> ocp.args.Composite:
    """What a step holds, with its hashes, as Orbax takes it; see `save`.

    The hashes are those of the arrays on their devices. What reaches the storage otherwise, such as
    a copy that was made of them too late, is damage that the next restore finds.
    """
    items: dict[str, Any] = {name: _arguments(tree) for name, tree in arrays.items()}
    digests: dict[str, Any] = {name: params_lib.digests(tree) for name, tree in arrays.items()}
    if data is not None:
        items["data"] = ocp.args.JsonSave(dict(data))
        digests["data"] = _hash_of(data)
    content = {"digests": digests, "run": dict(run or {})}
    items["record"] = ocp.args.JsonSave({"content": content, "sha256": _hash_of(content)})
    return ocp.args.Composite(**items)


def _arguments(tree: Any) -> Any:
    """How Orbax shall write arrays.

    It encodes all arrays of the host at once, and holds what it encoded until a file is full. What
    is mapped to memory because there is no room for it goes out in small pieces.
    """
    leaves = jax.tree.leaves(tree)
    if not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return ocp.args.StandardSave(tree)
    file_bytes = max(_LEAST_FILE_BYTES, sum(leaf.nbytes for leaf in leaves) // _FILES)
    pieces = ocp.SaveArgs(chunk_byte_size=file_bytes // 2)
    return ocp.args.PyTreeSave(
        tree,
        save_args=jax.tree.map(lambda _: pieces, tree),
        ocdbt_target_data_file_size=file_bytes,
    )


def _hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# --- reading --------------------------------------------------------------------------------------


def restore_item(model_dir: epath.Path, step: int, item: str, arguments: Any) -> Any:
    """Restores one item of a step, unchecked.

    Args:
      model_dir: of the model.
      step: one of `saved_steps`.
      item: `params`, `opt_state`, `data` or `record`.
      arguments: Orbax's, which say how to read it, such as `JsonRestore()`.
    """
    is_json = isinstance(arguments, ocp.args.JsonRestore)
    # Not through an Orbax checkpointer: in its barrier all would wait for one that found damage.
    handler = ocp.JsonCheckpointHandler() if is_json else ocp.StandardCheckpointHandler()
    return handler.restore(checkpoints_dir(model_dir) / str(step) / item, args=arguments)


def restore_arrays(
    model_dir: epath.Path, step: int, item: str, abstract: Any, record: Mapping[str, Any] | None
) -> Any:
    """Restores one item that holds arrays, checked against the hashes that were saved with it.

    Args:
      model_dir: of the model.
      step: one of `saved_steps`.
      item: `params` or `opt_state`.
      abstract: `ShapeDtypeStruct`s of the arrays, with the shardings that they shall have.
      record: from `read_record`; None for no check.

    Raises:
      Damaged: if they cannot be read, or are not what was saved.
      Unavailable: where the storage fails.
    """
    arguments = ocp.args.StandardRestore(abstract)
    return checked(item, record, lambda: restore_item(model_dir, step, item, arguments))


def checked(item: str, record: Mapping[str, Any] | None, read: Callable[[], _Read]) -> _Read:
    """What `read` reads of an item's arrays, checked like `restore_arrays`.

    Args:
      item: `params` or `opt_state`.
      record: from `read_record`; None for no check.
      read: gives the tree, or a part of it.

    Raises:
      Damaged: if it cannot be read, or is not what was saved.
      Unavailable: where the storage fails.
    """
    tree = _together(read)
    if record is None:
        return tree
    expected = record["digests"].get(item)
    path = item if expected is None else params_lib.differs(tree, expected)
    # Of an array that every device holds whole, a process sums its own copy alone.
    _judge(None if path is None else f"{item}: {path} is not what was saved")
    return tree


def restore_data(
    model_dir: epath.Path, step: int, record: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The position in the data, checked against `record` where there is one.

    Raises:
      Damaged: if it cannot be read, or is not what was saved.
      Unavailable: where the storage fails.
    """
    data = _together(lambda: restore_item(model_dir, step, "data", ocp.args.JsonRestore()))
    differs = record is not None and record["digests"].get("data") != _hash_of(data)
    _judge("data: the position in the data is not what was saved" if differs else None)
    return data


def read_record(model_dir: epath.Path, step: int) -> dict[str, Any] | None:
    """`digests` and `run` of a step; None of one that an earlier version saved, which it says.

    Raises:
      Damaged: if it cannot be read, or is not what was saved.
      Unavailable: where the storage fails.
    """

    def read() -> dict[str, Any] | None:
        if not (checkpoints_dir(model_dir) / str(step) / "record").exists():
            return None
        saved = restore_item(model_dir, step, "record", ocp.args.JsonRestore())
        if saved["sha256"] != _hash_of(saved["content"]):
            raise ValueError("record: is not what was saved")
        return saved["content"]

    record = _together(read)
    _judge_absence(record is None)
    if record is None:
        processes.warn(f"{model_dir}: step {step} was saved without hashes: not checked")
    return record


def recorded_digests(model_dir: epath.Path, step: int) -> dict[str, Any] | None:
    """What a step's record says of its parameters, by path; None where it says nothing.

    It is for a check, which judges no step: what cannot be read is a restore's to tell.
    """
    with contextlib.suppress(
        Exception
    ):  # Orbax, tensorstore and JSON each have errors of their own
        saved = restore_item(model_dir, step, "record", ocp.args.JsonRestore())
        return saved["content"]["digests"]["params"]
    return None


def _together(read: Callable[[], _Read]) -> _Read:
    """Reads on all processes; what one of them cannot read, none has read."""
    value, trouble = None, None
    try:
        value = read()
    except Exception as error:  # Orbax, tensorstore and JSON each have errors of their own
        if lacks_role(error):
            trouble = f"role:{without_role(error)}"
        elif is_of_storage(error):
            trouble = f"storage:{storage_trouble(error) or _in_one_line(error)}"
        else:
            trouble = f"damaged:{_in_one_line(error)}"
    trouble = processes.current().first_trouble(trouble)
    if trouble is None:
        return value  # type: ignore
    kind, _, why = trouble.partition(":")
    if kind == "damaged":
        raise Damaged(why)
    if kind == "role":
        raise UserError(f"a checkpoint cannot be read: {why}")
    raise Unavailable(f"a checkpoint cannot be read: {why}; run the same command again")


def _judge(damage: str | None) -> None:
    """Raises `Damaged` on all processes where one of them has found damage in its own copy."""
    damage = processes.current().first_trouble(damage)
    if damage is not None:
        raise Damaged(damage)


def _judge_absence(is_absent: bool) -> None:
    """Raises `Damaged` on all processes where the record is absent on some of them alone."""
    run = processes.current()
    absent = run.gather(is_absent)

    def lacking() -> str | None:
        return None if all(absent) or not any(absent) else run.name(absent.index(True))

    if (name := run.first_decides(lacking)) is not None:
        raise Damaged(f"record: is not there on {name}")


def _in_one_line(error: Exception) -> str:
    text = shortened(" ".join(str(error).split()), _SHOWN)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# --- the newest that is whole ---------------------------------------------------------------------


def newest_whole(
    model_dir: epath.Path,
    read: Callable[[int], _Read],
    *,
    strict: bool = False,
    only: int | None = None,
    remedy: str | None = None,
) -> tuple[int, _Read]:
    """Reads the newest step that is not damaged, and says so where it is not the newest of all.

    Args:
      model_dir: holds at least one step.
      read: reads a step, or raises `Damaged`.
      strict: what the setting STRICT says: refuse a damaged newest step instead.
      only: the one step that will do, whatever that setting says.
      remedy: what to do where that one is damaged, if not to give another in its place.

    Returns:
      The step and what `read` gave.

    Raises:
      UserError: naming a damaged step, if no other will do or none is left.
    """

    def saved() -> list[int]:
        return processes.current().first_decides(lambda: saved_steps(model_dir))

    # Of the only one that will do, the others are looked for where it is damaged.
    steps = saved() if only is None else [only]
    causes: dict[int, str] = {}
    for step in reversed(steps):
        try:
            value = read(step)
        except Damaged as damage:
            causes[step] = str(damage)
        else:
            for damaged, cause in causes.items():
                processes.warn(
                    f"{model_dir}: step {damaged} is damaged ({cause}); TAKING STEP {step}"
                )
            return step, value
        if strict and len(steps) > 1:
            break
    step, cause = next(iter(causes.items()))
    steps = steps if only is None else saved()
    others = [other for other in steps if other not in causes]
    if not others:
        left = f"none of its steps {steps} is whole: start again in another directory"
    elif only is not None:
        left = remedy or (
            f"put it back from a copy, or give another of its steps {others} where you gave this "
            f"one, such as {model_dir}/{places.CHECKPOINTS_DIR}/{others[-1]}"
        )
    else:
        left = f"STRICT=True refuses the step before; set it to False to take step {others[-1]}"
    raise UserError(f"{model_dir}: step {step} is damaged ({cause}); {left}")
