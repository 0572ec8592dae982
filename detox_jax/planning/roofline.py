"""How fast a program can be at most: the slowest of computing, memory and links, as if each ran
at its peak and all at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from detox_jax.kinds import Count, Positive
from detox_jax.planning.chips import Slice
from detox_jax.planning.collectives import Collective


@dataclasses.dataclass(frozen=True)
class Work:
    """What one run of a program does.

    Attributes:
      flops: the operations of the model, all devices together.
      computed_flops: with what rematerialisation computes again.
      hbm_bytes: read and written by a device.
      collectives: of a device.
    """

    flops: float
    computed_flops: float
    hbm_bytes: float
    collectives: Sequence[Collective]


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that each part needs at its peak.

    Attributes:
      compute: operations over the peak of all devices.
      hbm: bytes over the memory's bandwidth.
      ici: bytes over the links that each collective's group can use.
      mfu: model FLOPs utilisation that the slowest part allows.
    """

    compute: float
    hbm: float
    ici: float
    mfu: float

    @property
    def seconds(self) -> float:
        """The slowest part's."""
        return max(self.compute, self.hbm, self.ici)

    @property
    def bound(self) -> str:
        """Which part that is."""
        parts = {"compute": self.compute, "hbm": self.hbm, "ici": self.ici}
        return max(parts, key=lambda name: parts[name])


def roofline(work: Work, tpus: Slice, coordinates: Callable[[int], Sequence[int]]) -> Roofline:
    """The bound for a program on a slice.

    Args:
      work: what it does.
      tpus: where.
      coordinates: of the chip at a position of the mesh.
    """
    peak = tpus.chip.peak_flops * tpus.num_chips
    compute = work.computed_flops / peak
    hbm = work.hbm_bytes / (tpus.chip.hbm_bandwidth / tpus.chip.devices)
    ici = sum(
        item.count * item.sent / tpus.bandwidth([coordinates(i) for i in item.group])
        for item in work.collectives
        if len(item.group) > 1
    )
    slowest = max(compute, hbm, ici)
    return Roofline(compute, hbm, ici, work.flops / peak / slowest if slowest else 0.0)


@dataclasses.dataclass(frozen=True)
class Run:
    """How much is generated, trained on and evaluated; the defaults are the paper's run.

    Attributes:
      documents: generated, one sample each.
      kept_tokens: of the documents that the filter keeps, once (the paper: 78 updates of 512 rows
        of 2048 tokens are 3 epochs of 27.3M).
      epochs: passes over them.
      prompts: of RealToxicityPrompts.
      evaluated_models: whose continuations are measured: base and result.
    """

    documents: Count = 100_000
    kept_tokens: Count = 27_300_000
    epochs: Positive = 3
    prompts: Count = 100_000
    evaluated_models: Count = 2

    def train_steps(self, tokens_per_batch: int) -> int:
        """Updates, at least one."""
        return max(1, round(self.epochs * self.kept_tokens / tokens_per_batch))


def batches(items: int, rows: int) -> int:
    """Batches that hold so many items."""
    return -(-items // rows)


def chip_hours(seconds: float, tpus: Slice) -> float:
    """What is paid for."""
    return seconds * tpus.num_chips / 3600
