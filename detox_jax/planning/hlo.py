"""Compiled programs as text, taken apart: instructions, and how often each one is executed.

XLA's own cost analysis counts the body of a loop once, and with scanned layers nearly everything
happens in loops; here each computation is counted as often as its loops run it.

Why it exists: `plan` says what a program sends and reads on a slice that nobody has rented, so all
that it has is what the compiler wrote, and of that JAX hands over the text. Five things must be
known to read it. It is the program of one device: shapes are those of its part, not of the whole
array. It is what is left after all passes: the inside of a fusion touches no memory, and libtpu
writes one asynchronous collective into several fusions, told to be one by its `channel_id`. Where
an array lies is in its layout (`S(1)` is VMEM), and only HBM costs. How often a loop runs is noted
by XLA's CPU compiler (`known_trip_count`) and not by libtpu, where the condition's constant tells
it. And no version of XLA promises this text to the next: `tests/planning/hlo_test.py` compares its
sums with XLA's own count of the same program without loops, and holds a text as libtpu writes it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_SPACE = re.compile(r"S\((\d+)\)")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
HBM = 0  # XLA's default memory space; 1 is VMEM, others are registers and semaphores.


@dataclasses.dataclass(frozen=True)
class Array:
    """Shape of an array: dtype by XLA's name, dimensions, memory space."""

    dtype: str
    dimensions: tuple[int, ...]
    space: int = HBM

    @property
    def bytes(self) -> int:
        """Its size without padding."""
        digits = re.sub(r"\D.*", "", self.dtype.lstrip("abcdefghijklmnopqrstuvwxyz")) or "8"
        return math.prod(self.dimensions) * _BITS.get(self.dtype, int(digits)) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in its computation.
      opcode: such as `all-gather` or `fusion`.
      outputs: one array, or those of a tuple in order.
      operands: names of instructions of the same computation.
      attributes: the rest of the line.
      is_root: whether it is the computation's result.
    """

    name: str
    opcode: str
    outputs: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    def called(self, attribute: str) -> str | None:
        """The computation that an attribute names, such as `body` or `calls`."""
        match = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return match and match[1]

    @property
    def op_name(self) -> str:
        """Where in the Python program it comes from."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: instructions by computation and name, in order.
      entry: the computation that runs.
      trips: how often loops run, by name, where the text does not tell.
    """

    computations: dict[str, dict[str, Instruction]]
    entry: str
    trips: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def executions(self, root: str | None = None, fused: bool = False) -> dict[str, int]:
        """How often one run of `root` (the entry where None) runs each computation.

        Args:
          root: where to start.
          fused: also the insides of fusions; without them only what touches memory is left.
        """
        counts: dict[str, int] = defaultdict(int)
        queue = [(root or self.entry, 1)]
        while queue:
            name, times = queue.pop()
            counts[name] += times
            for instruction in self.computations[name].values():
                for called, factor in self._calls(instruction, fused):
                    queue.append((called, times * factor))
        return dict(counts)

    def _calls(self, instruction: Instruction, fused: bool) -> Iterator[tuple[str, int]]:
        if instruction.opcode == "while":
            trips = self.trip_count(instruction)
            for attribute in ("condition", "body"):
                if called := instruction.called(attribute):
                    yield called, trips
        elif instruction.opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
            names = _NAME.findall(branches[1]) if branches else []
            names += [instruction.called(f"{branch}_computation") for branch in ("true", "false")]
            yield from ((name, 1) for name in names if name)
        elif instruction.opcode in ("call", "async-start") or (
            fused and instruction.opcode == "fusion"
        ):
            called = instruction.called("calls") or instruction.called("to_apply")
            if called:
                yield called, 1

    def trip_count(self, loop: Instruction) -> int:
        """How often a loop runs; at most, for one that may end early, and 1 where nothing tells.

        Nothing does of the draws of a nucleus, two or three.

        JAX's loops count from 0 to the one integer constant that their condition compares with.
        """
        if loop.name in self.trips:
            return self.trips[loop.name]
        if known := _KNOWN_TRIPS.search(loop.attributes):
            return int(known[1])
        limits = list(self._integer_constants(loop.called("condition")))
        return max(limits, default=1)

    def _integer_constants(self, computation: str | None) -> Iterator[int]:
        for instruction in self.computations.get(computation or "", {}).values():
            if instruction.opcode == "constant" and instruction.outputs[0].dtype in ("s32", "s64"):
                value = re.match(r"\d+", instruction.attributes)
                if value:
                    yield int(value[0])
            if instruction.opcode == "fusion":
                yield from self._integer_constants(instruction.called("calls"))

    def loops(self, op_name: str) -> list[Instruction]:
        """The loops that come from a place of the Python program, such as `jit(decode)/while`."""
        return [
            instruction
            for instructions in self.computations.values()
            for instruction in instructions.values()
            if instruction.opcode == "while" and instruction.op_name == op_name
        ]


def parse(text: str) -> Module:
    """Reads what `jax.stages.Compiled.as_text` wrote."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = computations.setdefault(match[2], {})
            entry = match[2] if match[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            current[match[2]] = _instruction(match[2], match[3], match[1] is not None)
    return Module(computations, entry)


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    opcode, _, rest = text[end:].strip().partition("(")
    end_of_operands = _closing("(" + rest, 0) - 1
    operands, attributes = rest[: end_of_operands - 1], rest[end_of_operands:]
    if opcode in ("constant", "parameter"):  # A value, or which argument it is: "7)".
        attributes = f"{operands}){attributes}"
    return Instruction(
        name, opcode, _arrays(text[:end]), tuple(_NAME.findall(operands)), attributes, is_root
    )


def _closing(text: str, start: int) -> int:
    """The index behind the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    return len(text)


@functools.cache
def _arrays(text: str) -> tuple[Array, ...]:
    return tuple(
        Array(
            dtype,
            tuple(int(size) for size in dimensions.split(",") if size),
            int(space[1]) if (space := _SPACE.search(layout)) else HBM,
        )
        for dtype, dimensions, layout in _ARRAY.findall(text)
    )
