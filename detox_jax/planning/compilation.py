"""Compiles a program for TPUs that are not here: what it needs of their memory, and its text."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from detox_jax.errors import UserError, in_one_line
from detox_jax.planning import hlo
from detox_jax.planning.programs import Program, shard_bytes

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# The two ways in which libtpu says how much a program needs, and of how much.
_NEEDED = (
    re.compile(r"required for HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM "
               r"\(([\d.]+)([KMGT]?)\)"),
    re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
)  # fmt: skip


class CompilerError(UserError):
    """The compiler fails at a program for another reason than memory; no rerun helps."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a device's memory.

    Attributes:
      argument: parameters, optimizer state, batch.
      code: the program itself.
      peak: the most that is in use at a time: arguments, and the results and temporaries that are
        alive then; or what is needed around the program, where that is more.
      limit: what a program may use of the device's memory.
      fits: whether the compiler accepts the program, and there is room around it.
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
    program: Program, device_hbm: int, effort: float, what: str
) -> tuple[Memory, hlo.Module | None]:
    """Compiles; where the memory does not suffice there is no program, but what it would need.

    The sizes are those of XLA's schedule. `temp_size_in_bytes` of its statistics is not used: for
    TPU it counts the gaps between temporaries twice.

    Args:
      program: what is compiled.
      device_hbm: bytes.
      effort: `exec_time_optimization_effort` of XLA, from -1 (least) to 1; 0 is its default.
      what: names the program in errors.

    Raises:
      CompilerError: if the compiler fails, or does not say what it made.
    """
    options: Any = {"exec_time_optimization_effort": effort} if effort else None
    try:
        with _named(what, "compile it"):
            compiled = program.traced.lower().compile(options)
    except CompilerError as error:
        sizes = _needed(str(error.__cause__))
        if sizes is None:
            raise
        return Memory(shard_bytes(program.arguments), 0, *sizes, fits=False), None
    with _named(what, "say what it needs"):
        stats: Any = compiled.memory_analysis()
        code = stats.generated_code_size_in_bytes
        peak = max(stats.peak_memory_in_bytes, program.around) + code
        fits = program.around + code <= device_hbm
        memory = Memory(stats.argument_size_in_bytes, code, peak, device_hbm, fits)
    if not fits:
        return memory, None
    with _named(what, "write it as text"):
        text = compiled.as_text()
        if not text:
            raise ValueError("no text")
    return memory, hlo.parse(text)


@contextlib.contextmanager
def _named(what: str, asked: str) -> Iterator[None]:
    """Turns the compiler's errors, whose classes it does not document, into one line."""
    try:
        yield
    except Exception as error:
        raise CompilerError(
            f"{what}: the compiler was asked to {asked}, and fails: {in_one_line(error)}; give "
            "another mesh (--mesh, or --gin.GENERATION_MESH_SHAPE for what generates), none of "
            "both for those that plan chooses, or another --gin.COMPILER_EFFORT, such as -1"
        ) from error


def _needed(message: str) -> tuple[int, int] | None:
    """Bytes that a program needs and may use, by the compiler's refusal; None of other errors."""
    for pattern in _NEEDED:
        if match := pattern.search(message):
            needed, limit = (round(float(match[i]) * _UNITS[match[i + 1]]) for i in (1, 3))
            return needed, limit
    return None
