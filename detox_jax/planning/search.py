"""Slices and meshes to try, the smallest and most promising first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

from detox_jax.errors import UserError
from detox_jax.models.config import TransformerConfig
from detox_jax.planning import chips
from detox_jax.planning.chips import Slice
from detox_jax.planning.job import Job

# Of a device's memory that what surely is there may take where more comes on top.
_ROOM = 0.9

# A job, with what it does at once, and a mesh's shape.
Candidate = tuple[Job, dict[str, int]]


def slices(topology: str | None) -> list[Slice]:
    """The slices of a chip, `v5p`, or of all chips, by number of chips.

    Raises:
      UserError: if there is no such chip.
    """
    if topology is not None and ":" in topology:
        raise UserError(
            f"--search looks for a slice, --topology={topology} names one; give the chip alone, "
            f"--topology={topology.split(':')[0]}, or leave out one of the two"
        )
    known = [chips.find_chip(topology)] if topology else list(chips.CHIPS.values())
    all_slices = [tpus for chip in known for tpus in chips.slices(chip)]
    return sorted(all_slices, key=lambda tpus: tpus.num_chips)


def shapes(
    config: TransformerConfig, devices: int, *, batch_size: int = 0
) -> Iterator[dict[str, int]]:
    """Meshes of so many devices that divide the model.

    Args:
      config: whose axes must be divided.
      devices: of the slice.
      batch_size: that `data` times `fsdp` must divide; any where 0.
    """
    sizes = (config.num_heads, config.kv_heads, config.mlp_dim, config.padded_vocab_size)
    for model in _divisors(devices):
        rest = devices // model
        if any(size % model for size in sizes) or (batch_size and batch_size % rest):
            continue
        for fsdp in _divisors(math.gcd(rest, config.emb_dim)):
            yield {"data": rest // fsdp, "fsdp": fsdp, "model": model}


def _divisors(number: int) -> list[int]:
    return [i for i in range(1, number + 1) if number % i == 0]


def train_candidates(job: Job, tpus: Slice) -> list[Candidate]:
    """Accumulation and meshes with which training may fit.

    First those that are likely to, the ones before that send the least, each in the fewest parts of
    a batch, not less than `job.accumulation_steps`, and then in the next number of parts. Where
    none is, what needs the least memory; what surely does not fit is left out.
    """
    likely, possible = [], []
    for shape, splits in _splits(job, tpus):
        may = [split for split in splits if split.least_train_bytes(shape) <= tpus.device_hbm]
        will = [split for split in may if split.likely_train_bytes(shape) <= tpus.device_hbm]
        if will:
            likely.append([(split, shape) for split in will[:2]])
        possible += [(split, shape) for split in may]
    likely.sort(key=lambda parts: parts[0][0].sent_train_bytes(parts[0][1]))
    possible.sort(key=lambda candidate: candidate[0].likely_train_bytes(candidate[1]))
    return [candidate for parts in likely[:2] for candidate in parts] or possible[:1]


def least(job: Job, tpus: Slice) -> list[Candidate]:
    """How training needs the least memory, whether or not there is room; nothing where none is."""
    ways = [(split, shape) for shape, splits in _splits(job, tpus) for split in splits]
    return sorted(ways, key=lambda way: way[0].likely_train_bytes(way[1]))[:1]


def _splits(job: Job, tpus: Slice) -> Iterator[tuple[dict[str, int], list[Job]]]:
    """Meshes that divide model and batch, with the job in each number of parts from its own on."""
    for shape in shapes(job.model.config, tpus.num_devices, batch_size=job.batch_size):
        rows = job.batch_size // (shape["data"] * shape["fsdp"])
        yield (
            shape,
            [
                dataclasses.replace(job, accumulation_steps=parts)
                for parts in _divisors(rows)
                if parts >= job.accumulation_steps
            ],
        )


def generation_candidates(job: Job, tpus: Slice) -> Iterator[Candidate]:
    """Batches and meshes on which generation may fit: by heads first, so that weights stay.

    What heads do not use copies the model (`data`), or else splits it further (`fsdp`). A batch has
    the size that the job says, or half of it, and so on, until there is room for it.
    """
    every = sorted(
        shapes(job.model.config, tpus.num_devices),
        key=lambda shape: (-shape["model"], shape["fsdp"]),
    )
    for shape in every:
        smaller = with_room(job, tpus, shape)
        if max(smaller.selecting_decode_bytes(name, shape) for name in job.generations) <= (
            tpus.device_hbm
        ):
            yield smaller, shape


def with_room(job: Job, tpus: Slice, shape: Mapping[str, int], *, chosen: bool = False) -> Job:
    """The job with the largest batches of generation that leave some room on a device.

    Args:
      job: whose batches are the largest that may be.
      tpus: the slice.
      shape: of the mesh.
      chosen: change those alone that nobody gave.
    """
    for name, use in job.generations.items():
        if chosen and not use.is_chosen:
            continue
        while (
            job.least_decode_bytes(name, shape) > _ROOM * tpus.device_hbm
            or job.selecting_decode_bytes(name, shape) > tpus.device_hbm
        ):
            smaller = halved(job, name)
            if smaller is None:
                break
            job = smaller
    return job


def halved(job: Job, name: str) -> Job | None:
    """The job with half the samples at once in one generation; None where that is one."""
    use = job.generations[name]
    if use.batch_size == 1:
        return None
    use = dataclasses.replace(use, batch_size=use.batch_size // 2)
    return dataclasses.replace(job, generations={**job.generations, name: use})
