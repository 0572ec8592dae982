"""What a compiled program reads from and writes to HBM, from its text."""

from __future__ import annotations

import re
from collections.abc import Mapping

from detox_jax.planning.hlo import HBM, Instruction, Module

# What only names or regroups memory, and what is counted inside of what it calls.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "copy-done", "slice-done", "async-done", "async-update", "partition-id", "after-all",
    "all-gather-done", "all-reduce-done", "collective-permute-done", "opt-barrier",
}  # fmt: skip

# What changes a part of its first operand in place, and which operand holds the part.
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}


def hbm_bytes(
    module: Module, executions: Mapping[str, int] | None = None, *, all_spaces: bool = False
) -> int:
    """Bytes a device and a run: outputs written and operands read, as often as loops run them.

    Of an operand that is only sliced, or updated in place, the slice alone counts.

    Args:
      module: the program.
      executions: from `Module.executions`; of the whole program where None.
      all_spaces: also what moves within the chip, as XLA's own count does.
    """
    counts = module.executions() if executions is None else executions
    return sum(
        times * _instruction_bytes(module, module.computations[name], instruction, all_spaces)
        for name, times in counts.items()
        for instruction in module.computations[name].values()
        if instruction.opcode not in _FREE
    )


def _instruction_bytes(
    module: Module, siblings: dict[str, Instruction], instruction: Instruction, all_spaces: bool
) -> int:
    def size(name_or_instruction: str | Instruction) -> int:
        operand = name_or_instruction
        operand = siblings[operand] if isinstance(operand, str) else operand
        return sum(a.bytes for a in operand.outputs if all_spaces or a.space == HBM)

    operands = instruction.operands
    if instruction.opcode.endswith("-start"):
        # A pair of what is moved and what it becomes; a copy's the other way round.
        result = instruction.outputs[0 if instruction.opcode == "copy-start" else 1]
        written = result.bytes if all_spaces or result.space == HBM else 0
        reads = sum(size(name) for name in operands)
        return written + (min(reads, result.bytes) if "slice" in instruction.opcode else reads)
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return size(instruction) + min(size(operands[0]), instruction.outputs[0].bytes)
    if instruction.opcode in _UPDATES:
        return 2 * size(operands[_UPDATES[instruction.opcode]])
    if instruction.opcode != "fusion":
        return size(instruction) + sum(size(name) for name in operands)
    fused = module.computations[instruction.called("calls") or ""]
    aliased_outputs, aliased_operands = _aliases(instruction.attributes)
    total = 0
    for i, name in enumerate(operands):
        if i not in aliased_operands:
            total += min(size(name), _read_of_parameter(module, fused, i))
    for i, array in enumerate(instruction.outputs):
        if i not in aliased_outputs and (all_spaces or array.space == HBM):
            total += _written(fused, array.bytes, len(instruction.outputs))
    return total


def _aliases(attributes: str) -> tuple[set[int], set[int]]:
    """Outputs and operands of a fusion that are the same memory, passed through."""
    text = re.search(r"output_to_operand_aliasing=\{(.*?\}\))\}", attributes)
    pairs = re.findall(r"\{(\d*)\}: \((\d+)", text[1] if text else "")
    return {int(output or 0) for output, _ in pairs}, {int(operand) for _, operand in pairs}


def _read_of_parameter(module: Module, fused: dict[str, Instruction], index: int) -> int:
    """Bytes that a fusion reads of its operand `index`."""
    names = {
        instruction.name
        for instruction in fused.values()
        if instruction.opcode == "parameter" and instruction.attributes.startswith(f"{index})")
    }
    whole, sliced = 0, 0
    for instruction in fused.values():
        used = names.intersection(instruction.operands)
        if instruction.name in names:
            whole = instruction.outputs[0].bytes
        elif used and instruction.opcode == "bitcast":
            names.add(instruction.name)
        elif used and instruction.opcode in ("dynamic-slice", "gather", "slice"):
            sliced += instruction.outputs[0].bytes
        elif used and instruction.opcode == "fusion":  # A fusion may hold others.
            inner = module.computations[instruction.called("calls") or ""]
            sliced += sum(
                _read_of_parameter(module, inner, i)
                for i, name in enumerate(instruction.operands)
                if name in used
            )
        elif used and not _is_updated(instruction, used):
            return whole
    return sliced


def _is_updated(instruction: Instruction, used: set[str]) -> bool:
    return instruction.opcode in _UPDATES and instruction.operands[0] in used


def _written(fused: dict[str, Instruction], size: int, outputs: int) -> int:
    """Bytes that a fusion writes of an output: of one that it updates in place, the update."""
    root = next(instruction for instruction in fused.values() if instruction.is_root)
    while root.opcode in ("bitcast", "convert") and root.operands:
        root = fused[root.operands[0]]
    if outputs == 1 and root.opcode in _UPDATES:
        return min(size, fused[root.operands[_UPDATES[root.opcode]]].outputs[0].bytes)
    return size
