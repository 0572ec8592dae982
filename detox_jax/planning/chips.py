"""TPU chips, the slices that one can ask for, and their devices, without any of them here."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from detox_jax.errors import UserError

GIB = 2**30
_CUBES = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16",
    "16x16x16",
)  # fmt: skip
_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a vendor's page says of a chip.

    Attributes:
      name: as in `v5p:8x8x8`.
      hbm_bytes: capacity.
      hbm_bandwidth: bytes a second.
      peak_flops: bfloat16 products and sums a second.
      link_bandwidth: bytes a second, one way, over one of the links to neighbouring chips.
      devices: JAX devices a chip.
      ring_from: chips along an axis of a slice from which the axis closes to a ring.
      topologies: shapes of slices, from small to large.
      options: what the compiler must be told beside the name.
      usable_hbm: bytes of a device that the compiler lets a program use; all where None.
    """

    name: str
    hbm_bytes: int
    hbm_bandwidth: float
    peak_flops: float
    link_bandwidth: float
    topologies: tuple[str, ...]
    devices: int = 1
    ring_from: int = 4
    options: tuple[tuple[str, Any], ...] = ()
    usable_hbm: int | None = None


# Capacity, bandwidth of the memory and peak: Google's pages, https://cloud.google.com/tpu/docs/v4,
# /v5e, /v5p, /v6e, /tpu7x. What some of them call GB of capacity is GiB. Bandwidth of one link, one
# way, of TPU7x's memory, and where an axis closes to a ring (a multiple of 4; on v5e and v6e a full
# 16): the tables and notes of https://jax-ml.github.io/scaling-book/tpus. What a program may use is
# in the refusals of libtpu 0.0.42.1.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 32 * GIB, 1.2e12, 275e12, 4.5e10, _CUBES,
             options=(("chip_config_name", "megacore"),), usable_hbm=round(30.75 * GIB)),
        Chip("v5e", 16 * GIB, 0.819e12, 197e12, 4.5e10, _SQUARES, ring_from=16,
             usable_hbm=round(15.75 * GIB)),
        Chip("v5p", 95 * GIB, 2.765e12, 459e12, 9e10, (*_CUBES, "16x16x24"),
             usable_hbm=round(95.74 * GIB)),
        Chip("v6e", 32 * GIB, 1.638e12, 918e12, 9e10, _SQUARES, ring_from=16,
             usable_hbm=round(31.25 * GIB)),
        Chip("tpu7x", 192 * GIB, 7.4e12, 2307e12, 9e10, _CUBES, devices=2,
             usable_hbm=round(94.75 * GIB)),
    )
}  # fmt: skip

# What libtpu would otherwise ask Google's servers for, or warn about; and no lock on it, which
# only those need who run on a TPU.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A chip and the shape in which so many are joined."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As `parse` reads it."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def num_chips(self) -> int:
        """Chips of the slice."""
        return math.prod(self.shape)

    @property
    def num_devices(self) -> int:
        """JAX devices of the slice."""
        return self.num_chips * self.chip.devices

    @property
    def device_hbm(self) -> int:
        """Bytes of memory a JAX device that a program may use."""
        return self.chip.usable_hbm or self.chip.hbm_bytes // self.chip.devices

    def bandwidth(self, coordinates: Sequence[Sequence[int]]) -> float:
        """Bytes a second that each device of a group sends to the others over the links.

        Each axis of the slice along which the group extends is a ring with two links a chip where
        the group spans an axis that closes, and a line with one way at a time where not.

        Args:
          coordinates: of the group's chips.
        """
        links = 0
        for axis, size in enumerate(self.shape):
            extent = len({chip[axis] for chip in coordinates})
            closes = extent == size and size >= self.chip.ring_from
            links += (1 + closes) if extent > 1 else 0
        # The devices of one chip: no page says how fast, so that a link's speed is assumed.
        return (links / self.chip.devices or 1) * self.chip.link_bandwidth


def parse(text: str) -> Slice:
    """Reads `v5p:8x8x8`.

    Raises:
      UserError: if there is no such chip or slice.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", str(text).strip().lower())
    if match is None:
        raise UserError(f"--topology={text}: expected CHIP:SHAPE, such as v5p:8x8x8")
    chip = find_chip(match[1])
    if match[2] not in chip.topologies:
        raise UserError(
            f"--topology={text}: no such slice; of {chip.name} there are "
            f"{', '.join(chip.topologies)}"
        )
    return Slice(chip, tuple(map(int, match[2].split("x"))))


def find_chip(name: str) -> Chip:
    """A chip by name.

    Raises:
      UserError: if it is not known.
    """
    if name.lower() not in CHIPS:
        raise UserError(f"--topology={name}: no such chip; one of {', '.join(CHIPS)}")
    return CHIPS[name.lower()]


def slices(chip: Chip) -> list[Slice]:
    """All slices of a chip, from small to large."""
    return [parse(f"{chip.name}:{shape}") for shape in chip.topologies]


def devices_of(wanted: Slice) -> Any:
    """The devices of a slice, to compile for.

    Raises:
      UserError: if the compiler for TPU is not installed, or does not know the chip.
    """
    for name, value in _NO_TPU.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options = dict(wanted.chip.options)
    if wanted.num_chips == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        return topologies.get_topology_desc(wanted.name, platform="tpu", **options).devices
    except Exception as error:
        message = str(error).splitlines()[0]
        if not _has_libtpu():
            raise UserError(
                "plan compiles with libtpu, which is not installed: pip install 'detox-jax[tpu]'"
            ) from None
        raise UserError(f"--topology={wanted.name}: the compiler refuses: {message}") from None


def coordinates(device: Any) -> tuple[int, ...]:
    """Where a device's chip is in its slice."""
    return tuple(device.coords)


def _has_libtpu() -> bool:
    return importlib.util.find_spec("libtpu") is not None or "TPU_LIBRARY_PATH" in os.environ
