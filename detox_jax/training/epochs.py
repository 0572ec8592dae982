"""An endless walk over epochs, each in an order of its own, that a checkpoint can resume."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, Self

from detox_jax import output_settings
from detox_jax.errors import UserError
from detox_jax.output_settings import NotYet
from detox_jax.records import stable_hash

# Seeds of epochs are below it.
_SEEDS = 2**31 - 1
_OF_LARGE_SEEDS = "epochs of a seed from 2147483647 on in orders of their own"
_WHOLE = "all examples shuffled"


class Resumable:
    """Endless batches whose position is that of the stream of examples that they are made of."""

    identity: dict[str, Any]
    _stream: EpochStream

    def __iter__(self) -> Self:
        return self

    def state(self) -> dict[str, Any]:
        """The position in the data, as JSON."""
        return self._stream.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a position that `state` gave.

        Raises:
          UserError: if it belongs to other data, naming what differs.
        """
        self._stream.restore(state)


def order(seed: int, is_shuffled_whole: Callable[[], bool]) -> dict[str, Any]:
    """What `identity` says of the order of the data, see `output_settings.LEARNS`.

    A version before took the order of another seed for that of a large one, and shuffled more
    examples than a buffer holds within a window.

    Args:
      seed: of all epochs.
      is_shuffled_whole: see `seqio_tasks.is_shuffled_whole`, which may read all examples; a check
        asks it of a large seed alone.
    """
    if output_settings.is_ahead() and seed < _SEEDS:
        # What is finished stays with the first of them, whether it names it or not.
        return {output_settings.LEARNS: NotYet(among=(_WHOLE, output_settings.ABSENT))}
    said = [_WHOLE] * is_shuffled_whole() + [_OF_LARGE_SEEDS] * (seed >= _SEEDS)
    return {output_settings.LEARNS: "; ".join(said)} if said else {}


class EpochStream:
    """One example after another, epoch after epoch; `state` and `restore` make it resumable.

    Attributes:
      identity: what decides the examples, by name; a position belongs to it.
    """

    def __init__(
        self,
        read_epoch: Callable[[int], Iterator[Any]],
        seed: int,
        identity: dict[str, Any],
        if_empty: str,
    ):
        """Starts at the first example.

        Args:
          read_epoch: the examples of one epoch, in the order that its seed gives.
          seed: of all epochs.
          identity: see above.
          if_empty: what to say where an epoch has no example.
        """
        self.identity = identity
        self._read_epoch = read_epoch
        self._seed = seed
        self._if_empty = if_empty
        self._epoch = self._row = 0
        self._examples: Iterator[Any] | None = None

    def __iter__(self) -> EpochStream:
        return self

    def __next__(self) -> Any:
        while True:
            if self._examples is None:
                self._examples = self._open()
            example = next(self._examples, None)
            if example is not None:
                self._row += 1
                return example
            if self._row == 0:
                raise UserError(self._if_empty)
            self._epoch, self._row, self._examples = self._epoch + 1, 0, None

    @property
    def is_begun(self) -> bool:
        """Whether an epoch was opened."""
        return self._examples is not None or self._epoch > 0

    def _open(self) -> Iterator[Any]:
        # Seeds of epochs must not meet the seeds of neighbouring runs: spread them.
        seed = self._seed * 1_000_003 + self._epoch
        if self._seed >= _SEEDS:  # Which would be that of another run, in all epochs.
            seed = stable_hash(f"epoch:{self._seed}:{self._epoch}")
        return iter(self._read_epoch(seed % _SEEDS))

    def state(self) -> dict[str, Any]:
        """The position in the data, as JSON."""
        # As a checkpoint gives it back: JSON has no tuples. Not done at the start, where a check
        # may not know all of it yet.
        identity = json.loads(json.dumps(self.identity))
        return {"identity": identity, "epoch": self._epoch, "row": self._row}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a position that `state` gave.

        Raises:
          UserError: if it belongs to other data, naming what differs.
        """
        identity = self.state()["identity"]
        if output_settings.LEARNS in identity.keys() - state["identity"].keys():
            raise UserError(
                "the checkpoint is of a version before, which put this data in another order: go "
                "on with that one, or begin anew in another place"
            )
        for name, value in output_settings.as_named_before(state["identity"], identity).items():
            if state["identity"].get(name) != value:
                raise UserError(
                    f"the checkpoint's position in the data is for {name} "
                    f"{state['identity'].get(name)!r}, now it is {value!r}; resume with the same"
                )
        self._epoch, self._row = state["epoch"], state["row"]
        self._examples = itertools.islice(self._open(), self._row, None)
