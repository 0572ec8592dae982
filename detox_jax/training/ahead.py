"""The batch of the next step, read and put on the devices while this one's computes.

On one CPU device a step has ended before anything is read; it takes all threads, so nothing waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from detox_jax.training.objective import Batches
from detox_jax.training.step import Batch


class Ahead:
    """Batches in their order, one of which may be there before it is asked for.

    Devices compute behind the host; but where the host waits for a step, to log, validate or save
    it, they would have nothing to do until the next batch has been read and copied. One that is
    read ahead does not count as taken: a run that goes on from `state` begins with it.

    Args:
      batches: where they come from; nobody else takes any of them.
      put: copies a batch to the devices, and does not wait for it.
    """

    def __init__(self, batches: Batches, put: Callable[[Batch], dict[str, jax.Array]]):
        self._batches, self._put = batches, put
        self._next: dict[str, jax.Array] | None = None
        self._error: Exception | None = None
        self._position: dict[str, Any] | None = None  # before the batch that was read ahead

    def read(self) -> None:
        """Reads the next batch, unless it is there; an error waits for `take`."""
        if self._position is not None:
            return
        self._position = self._batches.state()
        try:
            self._next = self._put(next(self._batches))
        except Exception as error:  # whatever a reader raises: the steps before come first
            self._error = error

    def take(self) -> dict[str, jax.Array]:
        """The next batch, all of its rows on the devices.

        Raises:
          Exception: what reading it raised.
        """
        self.read()
        batch, self._next, self._position = self._next, None, None
        if batch is None:
            assert self._error is not None
            raise self._error
        return batch

    def state(self) -> dict[str, Any]:
        """The position behind the last batch that was taken, as JSON."""
        return self._batches.state() if self._position is None else self._position
