"""Runs of characters that were read before: most words of a text are words of earlier texts too.

What a run adds to a text's score is computed when it is seen first, and then looked up. Weights are
of half precision, so that their sums are exact in whatever order: what was seen before decides no
score.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

import numpy as np

from detox_jax.toxicity import letters

# With so many runs, or so many characters of runs, all are let go: some 50 MB.
_MOST_RUNS, _MOST_CHARACTERS = 1 << 17, 1 << 23
_PARTS = 0  # the place of what parts texts
WORDS, PAIRS = -2, -1  # kinds


@dataclasses.dataclass(frozen=True)
class Readings:
    """What was found in N texts, of K kinds of features: the last but one words, the last pairs.

    Attributes:
      sums_NK: of the weights of a text's features, float64.
      counts_NK: how many features it has, float64.
      first_N: the hash of its first word, uint64; anything where it has none.
      last_N: that of its last word.
      lone_N: how many of its letters stand alone, int64, before those spaced out are put together.
    """

    sums_NK: np.ndarray
    counts_NK: np.ndarray
    first_N: np.ndarray
    last_N: np.ndarray
    lone_N: np.ndarray

    def put(self, first: int, readings: Readings) -> Readings:
        """These with others from a place on, in arrays that grow by doubling."""
        end = first + len(readings.lone_N)
        columns = self._columns()
        if end > len(self.lone_N):
            columns = [np.resize(column, (2 * end, *column.shape[1:])) for column in columns]
        for column, part in zip(columns, readings._columns(), strict=True):
            column[first:end] = part
        return Readings(*columns)

    def _columns(self) -> list[np.ndarray]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


class _Places(dict[bytes, int]):
    """Runs by number; one that is new gets the next."""

    def __init__(self):
        self.new: list[bytes] = []

    def __missing__(self, run: bytes) -> int:
        self[run] = place = len(self)
        self.new.append(run)
        return place


class SeenRuns:
    """Reads texts by their runs, see `letters.read_runs`; from several threads one after the other.

    Args:
      read: reads texts, of which a run may be one.
      weigh_pairs: the weights of pairs of words, of the hashes of the first and the second word.
    """

    def __init__(
        self,
        read: Callable[[Sequence[str]], Readings],
        weigh_pairs: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ):
        self._read, self._weigh_pairs = read, weigh_pairs
        self._lock = threading.Lock()
        self._forget()

    def read(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """What `read` finds in one or more texts: `sums_NK` and `counts_NK` of `Readings`."""
        runs = letters.read_runs(texts)
        with self._lock:
            runs_E, seen = self._looked_up(runs)
        # Each text begins with what parts it from the one before.
        starts_N = np.flatnonzero(runs_E == _PARTS)
        sums_NK = np.add.reduceat(seen.sums_NK[runs_E], starts_N, axis=0)
        counts_NK = np.add.reduceat(seen.counts_NK[runs_E], starts_N, axis=0)
        rows_E = np.repeat(np.arange(len(texts)), np.diff(starts_N, append=len(runs_E)))

        # --- pairs of words of two runs ------------------------------------------------------
        words = np.flatnonzero(seen.counts_NK[:, WORDS][runs_E])
        runs_W, rows_W = runs_E[words], rows_E[words]
        pairs = np.flatnonzero(rows_W[1:] == rows_W[:-1])
        rows_P = rows_W[pairs]
        weights_P = self._weigh_pairs(seen.last_N[runs_W[pairs]], seen.first_N[runs_W[pairs + 1]])
        sums_NK[:, PAIRS] += np.bincount(rows_P, weights_P, len(texts))
        counts_NK[:, PAIRS] += np.bincount(rows_P, minlength=len(texts))

        # --- letters spaced out over several runs, which make words that no run has ----------
        lone_E = np.append(seen.lone_N[runs_E], [0, 0])
        some_E = lone_E > 0
        spaced_E = some_E[:-2] & some_E[1:-1] & (lone_E[:-2] + lone_E[1:-1] + lone_E[2:] >= 3)
        if spaced_E.any():
            rows = np.unique(rows_E[spaced_E])
            alone = self._read([texts[int(row)] for row in rows])
            sums_NK[rows], counts_NK[rows] = alone.sums_NK, alone.counts_NK
        return sums_NK, counts_NK

    def _looked_up(self, runs: Sequence[bytes]) -> tuple[np.ndarray, Readings]:
        """The place of each of the runs, and the readings that lie there."""
        if len(self._places) > _MOST_RUNS or self._characters > _MOST_CHARACTERS:
            self._forget()
        try:
            runs_E = np.fromiter(map(self._places.__getitem__, runs), np.intp, len(runs))
            if new := self._places.new:
                readings = self._read([run.decode() for run in new])
                self._seen = self._seen.put(len(self._places) - len(new), readings)
                self._characters += sum(map(len, new))
                self._places.new = []
        except BaseException:  # Interrupted: places without readings are of no use.
            self._forget()
            raise
        return runs_E, self._seen

    def _forget(self) -> None:
        self._places, self._characters = _Places(), 0
        self._seen = self._read([""])
        self._places[letters.PARTS] = _PARTS
