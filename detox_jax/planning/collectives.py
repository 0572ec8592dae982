"""What a compiled program sends between devices: by kind, how often, how many bytes."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from detox_jax.planning.hlo import Instruction, Module

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_OPCODE = re.compile(rf"({'|'.join(KINDS)})(-start)?$")
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH_AXIS = re.compile(r"'([^']+)'=(\d+)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
      kind: of `KINDS`.
      count: how often a run of the program executes it.
      payload: bytes a device that it gathers, reduces or sends, as XLA's shapes say.
      sent: bytes that each device sends in one execution, by a ring.
      group: positions, in the order of the mesh, of the devices that one group joins.
    """

    kind: str
    count: int
    payload: int
    sent: int
    group: tuple[int, ...]


def find(module: Module, executions: Mapping[str, int] | None = None) -> list[Collective]:
    """The collectives of a program, or of what `Module.executions` counted with `fused=True`.

    An asynchronous collective stands in several fusions, from its start to its end, under one
    channel; it is counted once.
    """
    by_channel: dict[tuple[str, str], Collective] = {}
    counts = module.executions(fused=True) if executions is None else executions
    for computation, count in counts.items():
        for instruction in module.computations[computation].values():
            match = _OPCODE.match(instruction.opcode)
            if match is None:
                continue
            channel = re.search(r"channel_id=(\d+)", instruction.attributes)
            key = ("", channel[1]) if channel else (computation, instruction.name)
            collective = _collective(module, computation, instruction, match, count)
            if key not in by_channel or by_channel[key].count < count:
                by_channel[key] = collective
    return list(by_channel.values())


def _collective(
    module: Module, computation: str, instruction: Instruction, match: re.Match[str], count: int
) -> Collective:
    kind = match[1]
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # XLA for TPU writes one as an all-reduce of which it keeps a part.
    inputs = sum(
        array.bytes
        for name in instruction.operands
        for array in module.computations[computation][name].outputs
    )
    group = group_of(instruction.attributes)
    members = max(len(group), 1)
    payload = inputs * members if kind == "all-gather" else inputs
    share = (members - 1) / members
    factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)
    return Collective(kind, count, payload, round(payload * factor), group)


def group_of(attributes: str) -> tuple[int, ...]:
    """The largest group of devices of a collective, from the text behind its operands.

    XLA writes groups as lists, as an iota that is reshaped, transposed and cut into rows, or as
    axes of a mesh.
    """
    if pairs := re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", attributes):
        ids = [tuple(map(int, pair.split(","))) for pair in re.findall(r"\{([\d,]+)\}", pairs[1])]
        return next((pair for pair in ids if pair[0] != pair[1]), ids[0])
    text = re.search(r"replica_groups=(.*?)(?:, (?!device_ids)[a-z_]+=|$)", attributes)
    if text is None:
        return ()
    if text[1].startswith("mesh["):
        return _mesh_group(text[1])
    if iota := _IOTA.match(text[1]):
        shape, sizes, order = (_numbers(part) for part in iota.groups())
        return tuple(_iota(sizes, order).reshape(shape)[0].tolist())
    groups = [_numbers(group) for group in re.findall(r"\{([\d,]+)\}", text[1])]
    return max(groups, key=len, default=())


def _mesh_group(text: str) -> tuple[int, ...]:
    axes = [(name, int(size)) for name, size in _MESH_AXIS.findall(text.partition("]")[0])]
    ids = np.arange(math.prod(size for _, size in axes))
    if order := re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        ids = _iota(_numbers(order[1]), _numbers(order[2]))
    ids = ids.reshape([size for _, size in axes])
    # A part of an axis, 'a':(before)size, cannot be told apart from the text of the whole axis.
    joined = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", text.rpartition("{")[2])
    index: list[int | slice] = [0] * len(axes)
    for name, before, size in joined:
        axis = [axis for axis, _ in axes].index(name)
        step = axes[axis][1] // (int(before) * int(size)) if size else 1
        index[axis] = slice(0, step * int(size) if size else None, step)
    return tuple(np.atleast_1d(ids[tuple(index)]).reshape(-1).tolist())


def _iota(sizes: tuple[int, ...], order: tuple[int, ...]) -> np.ndarray:
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return (ids.transpose(order) if order else ids).reshape(-1)


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(int(number) for number in (text or "").split(",") if number)


def by_kind(collectives: list[Collective]) -> dict[str, dict[str, int]]:
    """Executions, bytes of payload and bytes sent of each kind, a device and a run."""
    totals: dict[str, dict[str, int]] = {}
    for item in collectives:
        total = totals.setdefault(item.kind, {"count": 0, "payload_bytes": 0, "sent_bytes": 0})
        total["count"] += item.count
        total["payload_bytes"] += item.count * item.payload
        total["sent_bytes"] += item.count * item.sent
    return dict(sorted(totals.items()))
