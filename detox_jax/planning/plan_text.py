"""A plan as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from detox_jax.planning.chips import GIB


def render(plan: Mapping[str, Any]) -> str:
    """The lines of `plan.json`'s content."""
    return "\n".join(_lines(plan))


def _lines(plan: Mapping[str, Any]) -> Iterator[str]:
    counts = plan["parameters"]
    yield (
        f"{counts['base'] / 1e9:.3f}B parameters, {counts['trained'] / 1e9:.3f}B trained, on "
        f"{plan['topology']}: {plan['chips']} chips of {plan['chip_hbm_bytes'] / GIB:.0f} GiB"
    )
    yield ""
    yield "memory, GiB a device:"
    yield f"  {'program':14}{'mesh':28}{_columns('argument', 'temporary', 'peak', 'of')}"
    for program in plan["programs"]:
        yield _memory_line(program)
    yield ""
    yield from map(_batch_line, plan["programs"])
    yield from map(_branch_line, plan.get("steering", []))
    for program in plan["programs"]:
        for phase, values in program["phases"].items():
            yield ""
            yield from _phase_lines(f"{program['name']}, {phase}", values)
    yield ""
    if plan["paper_run"]:
        hours = plan["paper_run"]["chip_hours"]
        parts = ", ".join(f"{name} {hours[name]:,.1f}" for name in hours if name != "total")
        yield f"the paper's run at the roofline: {hours['total']:,.1f} chip-hours ({parts})"
    yield "fits" if plan["fits"] else "does not fit"
    yield from plan["advice"]


def _memory_line(program: Mapping[str, Any]) -> str:
    memory = program["memory"]
    mesh = ",".join(f"{axis}={size}" for axis, size in program["mesh"].items())
    columns = [memory[name] for name in ("argument", "temporary", "peak", "limit")]
    sizes = [f"{value / GIB:.2f}" for value in columns]
    return f"  {program['name']:14}{mesh:28}{_columns(*sizes)}"


def _batch_line(program: Mapping[str, Any]) -> str:
    if program["name"] != "train":
        return f"{program['name']}: {program['rows']} prompts at once"
    parts = "" if program["parts"] == 1 else f" in {program['parts']} parts"
    return f"train: {program['rows']} rows an update{parts}; {program['attention']}"


def _branch_line(branch: Mapping[str, Any]) -> str:
    """One branch of what steers the continuations; its program holds it already."""
    each = (
        f"{branch['candidates']} candidates a row, read ahead"
        if branch["candidates"]
        else f"{branch['rows']} rows for each row"
    )
    behind = f" behind about {branch['prefix']} tokens" if branch["prefix"] else ""
    sizes = f"{branch['parameter_bytes'] / GIB:.2f} GiB of parameters of its own"
    caches = f"{branch['cache_bytes'] / GIB:.2f} GiB of caches, all devices together"
    planned = "; no checkpoint is there yet, planned as what is trained"
    return (
        f"continuations, {branch['name']}: {each}{behind}, {sizes}, {caches}"
        + planned * branch["is_planned"]
    )


def _columns(*cells: str) -> str:
    return "".join(f"{cell:>10}" for cell in cells)


def _phase_lines(title: str, phase: Mapping[str, Any]) -> Iterator[str]:
    bound = phase["roofline"]
    yield (
        f"{title}: at least {_seconds(bound['seconds'])} ({bound['bound']}-bound: compute "
        f"{_seconds(bound['compute'])}, HBM {_seconds(bound['hbm'])}, ICI "
        f"{_seconds(bound['ici'])}), at most {bound['mfu']:.0%} MFU and "
        f"{phase['tokens_per_second']:,.0f} tokens/s"
    )
    yield (
        f"  {phase['flops']:.3g} FLOPs of the model, {phase['computed_flops']:.3g} computed; "
        f"{phase['hbm_bytes'] / GIB:.2f} GiB of HBM traffic a device"
    )
    for kind, totals in phase["collectives"].items():
        yield (
            f"  {kind}: {totals['count']} times, {totals['payload_bytes'] / GIB:.3f} GiB, of which "
            f"a device sends {totals['sent_bytes'] / GIB:.3f}"
        )


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"
