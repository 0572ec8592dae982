"""Compiles a program for TPUs that are not here: what it needs of their memory, and its text."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax

from detox_jax.parallel import hlo
from detox_jax.parallel.programs import Program, shard_bytes

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
      output: results; what reuses an argument's memory is counted in `alias`.
      alias: of the output, in the argument's memory.
      temporary: everything between; None where the compiler gave up before it knew.
      code: the program itself.
      peak: the most that is in use.
      limit: what a program may use: the memory, less what the system keeps.
    """

    argument: int
    output: int
    alias: int
    temporary: int | None
    code: int
    peak: int
    limit: int

    @property
    def fits(self) -> bool:
        """Whether the program can run."""
        return self.peak <= self.limit


def compile_program(program: Program, device_hbm: int) -> tuple[Memory, hlo.Module | None]:
    """Compiles; where the memory does not suffice there is no program, but what it would need."""
    try:
        compiled = program.traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        sizes = _needed(str(error))
        if sizes is None:
            raise
        return Memory(shard_bytes(program.arguments), 0, 0, None, 0, *sizes), None
    stats: Any = compiled.memory_analysis()
    arguments, alias = stats.argument_size_in_bytes, stats.alias_size_in_bytes
    temporary, code = stats.temp_size_in_bytes, stats.generated_code_size_in_bytes
    output = stats.output_size_in_bytes
    peak = arguments + output - alias + temporary + code
    memory = Memory(arguments, output, alias, temporary, code, peak, device_hbm)
    return memory, hlo.parse(compiled.as_text() or "")


def _needed(message: str) -> tuple[int, int] | None:
    """Bytes that a program needs and may use, by the compiler's refusal; None of other errors."""
    for pattern in _NEEDED:
        if match := pattern.search(message):
            needed, limit = (round(float(match[i]) * _UNITS[match[i + 1]]) for i in (1, 3))
            return needed, limit
    return None
