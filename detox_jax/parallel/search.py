"""Slices and meshes to try, the smallest and most promising first."""

from __future__ import annotations

import math
from collections.abc import Iterator

from detox_jax.errors import UserError
from detox_jax.models.config import TransformerConfig
from detox_jax.parallel import chips
from detox_jax.parallel.chips import Slice
from detox_jax.parallel.job import Job


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
    found = [each for chip in known for each in chips.slices(chip)]
    return sorted(found, key=lambda each: each.num_chips)


def shapes(config: TransformerConfig, devices: int, *, batch_size: int = 0) -> list[dict[str, int]]:
    """Meshes of so many devices that divide the model, from least to most tensor parallelism.

    Args:
      config: whose axes must be divided.
      devices: of the slice.
      batch_size: that `data` times `fsdp` must divide; any where 0.
    """
    sizes = (config.num_heads, config.kv_heads, config.mlp_dim, config.padded_vocab_size)
    found = []
    for model in _divisors(devices):
        rest = devices // model
        # What the width cannot be split into is left to copies.
        fsdp = math.gcd(rest, config.emb_dim)
        if all(size % model == 0 for size in sizes) and not (batch_size and batch_size % rest):
            found.append({"data": rest // fsdp, "fsdp": fsdp, "model": model})
    return found


def _divisors(number: int) -> list[int]:
    return [i for i in range(1, number + 1) if number % i == 0]


def train_meshes(job: Job, tpus: Slice) -> Iterator[dict[str, int]]:
    """Meshes on which training may fit: parameters split over all devices, then by heads.

    What surely does not fit is left out, without compiling.
    """
    for shape in shapes(job.model.config, tpus.num_devices, batch_size=job.batch_size):
        if job.least_train_bytes(shape) <= tpus.device_hbm:
            yield shape


def generation_meshes(job: Job, tpus: Slice) -> Iterator[dict[str, int]]:
    """Meshes on which generation may fit: by heads first, so that weights stay where they are."""
    for shape in reversed(shapes(job.model.config, tpus.num_devices)):
        if max(job.least_decode_bytes(name, shape) for name in job.generations) <= tpus.device_hbm:
            yield shape
