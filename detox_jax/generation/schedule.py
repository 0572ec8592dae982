"""Which sample stands in which row, and when the loop over tokens is left: no row waits for long.

All of it follows from the samples' order and from which have ended, so that all processes of a run
decide alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

# Sizes of a batch are multiples of this part of the largest, so that few are compiled.
_PARTS = 16
# The rows that may be done before others take their places, as a part of all. Where prompts are
# prefilled more of them wait for each other.
_WAITING, _WAITING_FOR_PREFILL = 16, 8
# What another size of a program must save to be worth its compilation, which takes some seconds:
# steps of rows, and operations, of which steps of a small model have few.
_WORTH_STEPS, _WORTH_OPERATIONS = 512, 10**11


@dataclasses.dataclass(frozen=True)
class Filling:
    """Samples that come into free rows.

    Attributes:
      prompts: indices of the prompts of each shard.
      room: the prompts a shard for which the program is compiled.
      source_R: place of a row's prompt among its shard's; -1 where the row stays as it is.
      sample_R: index of the sample.
    """

    prompts: Sequence[Sequence[int]]
    room: int
    source_R: np.ndarray
    sample_R: np.ndarray


class Schedule:
    """The rows of a batch, and the samples that wait for one.

    Attributes:
      num_rows: of the batch as it is now.
      row_steps: how often a row took a step, whether it had a sample or not.
    """

    def __init__(
        self,
        num_prompts: int,
        num_samples: int,
        *,
        most_rows: int,
        limit: int,
        shards: int,
        bucket: int,
        num_params: int,
    ):
        """Schedules all samples of all prompts, in order.

        Args:
          num_prompts: how many there are.
          num_samples: of each.
          most_rows: the largest batch, a multiple of `shards`.
          limit: tokens of a sample.
          shards: equal parts of the batch, which are filled apart.
          bucket: to which prompts are padded; of one token nothing is prefilled.
          num_params: of the network, each two operations of a row's step.
        """
        self._num_prompts, self._num_samples = num_prompts, num_samples
        self._limit, self._shards = limit, shards
        self._most_rows = most_rows
        self._has_prefill = bucket > 1
        self._worth = max(_WORTH_STEPS, _WORTH_OPERATIONS // (2 * num_params))
        # Insertions of few prompts save about so many of the largest, each a batch of its prompts.
        saved = _WAITING_FOR_PREFILL * num_prompts * bucket
        self._inserts_few = self._has_prefill and saved >= self._worth
        self._next = 0
        self.row_steps = 0
        # Continuations run to their limit, mostly: 400 of them take two turns of 200 rows, and not
        # one of 250 and one of 150 in the same 250.
        turns = -(-self._waiting // most_rows) if self._has_prefill else 1
        self.num_rows = self._size(min(most_rows, -(-self._waiting // max(1, turns))))
        self._steps = np.zeros(self.num_rows, int)
        self._sample: list[int | None] = [None] * self.num_rows

    def _size(self, rows: int) -> int:
        """The smallest batch with room for so many rows."""
        part = -(-self._most_rows // (_PARTS * self._shards)) * self._shards
        return min(max(-(-rows // part), 1) * part, self._most_rows)

    @property
    def _waiting(self) -> int:
        return self._num_prompts * self._num_samples - self._next

    @property
    def _live(self) -> int:
        return sum(sample is not None for sample in self._sample)

    @property
    def finished(self) -> bool:
        """Whether no sample is left."""
        return not self._waiting and not self._live

    @property
    def enough(self) -> int:
        """The rows without a sample that is still going on, at which to leave the loop.

        More than there are now, so that every turn of the loop takes a step.
        """
        free = self.num_rows - self._live
        if self._waiting:
            return free + self._patience
        if self._half < self.num_rows and self._saves(self._half):
            # A shard may have too many of those that go on to be made smaller.
            return max(self.num_rows - self._half, free + 1)
        return self.num_rows

    @property
    def _half(self) -> int:
        """The size at which a smaller batch takes the place of this one."""
        return self._size(self.num_rows // 2)

    @property
    def may_become(self) -> int:
        """The rows of the largest batch that may take the place of this one; its own if none."""
        is_worth = (self.num_rows - self._half) * self._limit >= self._worth
        return self._half if is_worth else self.num_rows

    @property
    def _patience(self) -> int:
        return max(1, self.num_rows // (_WAITING_FOR_PREFILL if self._has_prefill else _WAITING))

    def _saves(self, rows: int) -> bool:
        """Whether so many rows in place of those of now may be worth a compilation."""
        steps = [
            self._limit - step
            for step, sample in zip(self._steps, self._sample, strict=True)
            if sample is not None
        ]
        return (self.num_rows - rows) * max(steps, default=0) >= self._worth

    def fill(self) -> Filling | None:
        """Puts waiting samples into free rows, as many as one insertion takes; None if there are
        none.
        """
        rows = self.num_rows // self._shards
        free = [
            [row for row in range(shard * rows, (shard + 1) * rows) if self._sample[row] is None]
            for shard in range(self._shards)
        ]
        if not self._waiting or not any(free):
            return None
        # The last samples are spread, so that all shards may become smaller.
        share = -(-self._waiting // self._shards)
        room = self._room(max(min(len(part), share) for part in free))
        source_R, sample_R = np.full(self.num_rows, -1, np.int32), np.zeros(self.num_rows, np.int32)
        prompts: list[list[int]] = []
        for part in free:
            members: list[int] = []
            for row in part[:share]:
                prompt, sample = divmod(self._next, self._num_samples)
                if not self._waiting or (prompt not in members and len(members) == room):
                    break
                if prompt not in members:
                    members.append(prompt)
                source_R[row], sample_R[row] = members.index(prompt), sample
                self._sample[row], self._steps[row] = self._next, 0
                self._next += 1
            prompts.append(members)
        return Filling(prompts, room, source_R, sample_R)

    def _room(self, rows: int) -> int:
        """The prompts a shard of an insertion into so many of its rows: at most two numbers."""
        most = -(-self.num_rows // (self._shards * self._num_samples))
        few = -(-self._patience // self._num_samples) + (self._num_samples > 1)
        fits = self._inserts_few and -(-rows // self._num_samples) <= few
        return min(few, most) if fits else most

    def advance(self, step_R: np.ndarray, done_R: np.ndarray) -> list[tuple[int, int, int]]:
        """Takes what the loop has left.

        Args:
          step_R: tokens of each row.
          done_R: whether it has ended.

        Returns:
          The row, prompt and index of each sample that has ended; their rows are free.
        """
        self.row_steps += self.num_rows * int((step_R - self._steps).max())
        self._steps = np.array(step_R)
        ended = []
        for row in np.flatnonzero(done_R):
            sample = self._sample[row]
            if sample is not None:
                ended.append((int(row), *divmod(sample, self._num_samples)))
                self._sample[row] = None
        return ended

    def shrink(self) -> np.ndarray | None:
        """Leaves free rows out where that is worth it: the rows that stay, within their shards."""
        if self._waiting or not self._live:
            return None
        rows = self.num_rows // self._shards
        live = [
            [row for row in range(rows) if self._sample[shard * rows + row] is not None]
            for shard in range(self._shards)
        ]
        smaller = self._size(max(map(len, live)) * self._shards)
        if smaller > self._half or not self._saves(smaller):
            return None
        stay = smaller // self._shards
        # The rows that are live, and others to make up the number.
        chosen = [
            sorted(range(rows), key=lambda row, part=part: row not in part)[:stay] for part in live
        ]
        places = [shard * rows + row for shard, part in enumerate(chosen) for row in part]
        self.num_rows = smaller
        self._sample = [self._sample[place] for place in places]
        self._steps = self._steps[places]
        return np.concatenate(chosen).astype(np.int32)
