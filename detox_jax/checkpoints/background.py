"""Steps that are saved while training goes on.

A step's arrays are copied to the host, which takes as long as the devices' links need; then the
training may change them, and threads write the copies. What is promised of a step holds for these
too: it counts when all of it is written, and what fails is told, if a step later.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Collection
from types import TracebackType
from typing import Any

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import metadata

from detox_jax import atomic_files, storage_watch
from detox_jax.checkpoints import steps as steps_lib
from detox_jax.errors import writing
from detox_jax.parallel import processes

# Orbax gives a save up after 20 minutes, beyond which clients of a bucket try again by themselves.
_LONGEST_S = 7 * 24 * 3600


class BackgroundSaves:
    """Saves the steps of a model directory, one after the other; used as a context.

    All processes of a run have one, and call `save` and `wait` alike. No thread of it computes on
    devices or asks other processes for a decision, so that none meets what training does there.

    Orbax's `AsyncCheckpointer` does the work. Its `CheckpointManager` around it would keep an error
    to itself until the save is waited for, and with several processes until all have failed.

    Args:
      model_dir: of the model.
      most: how many steps to keep.
    """

    def __init__(self, model_dir: epath.Path, most: int = 2):
        self._model_dir, self._most = model_dir, most
        # Where a directory cannot be made in the background, other threads wait for it for five
        # minutes, and the process for them.
        options = ocp.AsyncOptions(timeout_secs=_LONGEST_S, create_directories_asynchronously=False)
        handler = ocp.CompositeCheckpointHandler(
            *steps_lib.ITEMS, composite_options=ocp.CompositeOptions(async_options=options)
        )
        self._checkpointer = ocp.AsyncCheckpointer(
            handler,
            async_options=options,
            # Its own store would raise what fails there a second time, when it is closed.
            checkpoint_metadata_store=metadata.metadata_store(
                enable_write=True, blocking_write=True
            ),
        )
        self._threads = concurrent.futures.ThreadPoolExecutor(1, "finishes_saves")
        self._path = steps_lib.checkpoints_dir(model_dir)
        self._finished: concurrent.futures.Future[None] | None = None

    def __enter__(self) -> BackgroundSaves:
        return self

    def save(self, step: int, content: ocp.args.Composite, keep: Collection[int] = ()) -> None:
        """Begins to save a step, once the one before is saved.

        Args:
          step: its number, which no saved step has.
          content: from `steps.content_of`. Its arrays may be changed, donated or deleted as soon as
            this returns.
          keep: steps that are kept beside the last ones.

        Raises:
          UserError: where the account lacks a role.
          Unavailable: where the storage fails, at this step or at the one before.
        """
        self.wait()
        self._path = path = steps_lib.checkpoints_dir(self._model_dir) / str(step)
        with atomic_files.staying(self._model_dir), writing(path):
            self._checkpointer.save(path, args=content)
        self._finished = self._threads.submit(self._finish, frozenset(keep))

    def check(self) -> None:
        """Raises what `save` would, where the save that was begun has failed; waits for nothing."""
        if self._finished is not None and self._finished.done():
            self.wait()

    @storage_watch.waits_for_storage
    def wait(self) -> None:
        """Returns when the step that was begun is saved, or raises what `save` would."""
        path = self._path
        finished, self._finished = self._finished, None
        if finished is not None:
            with atomic_files.staying(self._model_dir), writing(path):
                finished.result()

    def __exit__(
        self, kind: Any, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as behind:  # whatever the storage's clients raise
            if error is None:
                raise
            processes.warn(f"{behind}")  # Of the two errors, the first one ends the run.
        finally:
            self._threads.shutdown()
            self._checkpointer.close()

    def _finish(self, keep: Collection[int]) -> None:
        """Waits for Orbax's threads, then removes what is older than the last steps."""
        self._checkpointer.wait_until_finished()
        if processes.current().is_first:
            older = steps_lib.saved_steps(self._model_dir)[: -self._most]
            steps_lib.remove_here(self._model_dir, [at for at in older if at not in keep])
