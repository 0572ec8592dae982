"""Compiles a program for TPUs that are not here: what it needs of their memory, and its text."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax

from detox_jax.planning import hlo
from detox_jax.planning.programs import Program, shard_bytes

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# The two ways in which libtpu says how much a program needs, and of how much.
_NEEDED = (
    re.compile(r"required for HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM "
               r"\(([\d.]+)([KMGT]?)\)"),
    re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a device's memory.

    Attributes:
      argument: parameters, optimizer state, batch.
      code: the program itself.
      peak: the most that is in use at a time: arguments, and the results and temporaries that are
        alive then.
      limit: what a program may use of the device's memory.
      fits: whether the compiler accepts the program.
    """

    argument: int
    code: int
    peak: int
    limit: int
    fits: bool

    @property
    def temporary(self) -> int:
        """What is alive at the peak beside the arguments."""
        return self.peak - self.argument


def compile_program(
    program: Program, device_hbm: int, effort: float
) -> tuple[Memory, hlo.Module | None]:
    """Compiles; where the memory does not suffice there is no program, but what it would need.

    The sizes are those of XLA's schedule. `temp_size_in_bytes` of its statistics is not used: for
    TPU it counts the gaps between temporaries twice.

    Args:
      program: what is compiled.
      device_hbm: bytes.
      effort: `exec_time_optimization_effort` of XLA, from -1 (least) to 1; 0 is its default.
    """
    options: Any = {"exec_time_optimization_effort": effort} if effort else None
    try:
        compiled = program.traced.lower().compile(options)
    except jax.errors.JaxRuntimeError as error:
        sizes = _needed(str(error))
        if sizes is None:
            raise
        return Memory(shard_bytes(program.arguments), 0, *sizes, fits=False), None
    stats: Any = compiled.memory_analysis()
    code = stats.generated_code_size_in_bytes
    peak = stats.peak_memory_in_bytes + code
    memory = Memory(stats.argument_size_in_bytes, code, peak, device_hbm, fits=True)
    return memory, hlo.parse(compiled.as_text() or "")


def _needed(message: str) -> tuple[int, int] | None:
    """Bytes that a program needs and may use, by the compiler's refusal; None of other errors."""
    for pattern in _NEEDED:
        if match := pattern.search(message):
            needed, limit = (round(float(match[i]) * _UNITS[match[i + 1]]) for i in (1, 3))
            return needed, limit
    return None
