"""The table of docs/PLAN.md: every model, whole and by adapter, on every chip.

    python benchmarks/plan_table.py [--models=530b,126m] [--chips=v5p] [--minutes=60]

Each cell is `detox-jax plan --search --topology=CHIP` with SETTINGS, kept under runs/plans: what is
there is read, so that a run that was interrupted goes on, and `--minutes` ends one between two
cells. A cell that is not made stays as the document has it, which says that it is of older code.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detox_jax import cli
from detox_jax.planning import plan
from detox_jax.planning.chips import CHIPS, GIB

MODELS = ("530b", "8.3b", "1.3b", "357m", "126m")
ADAPTATIONS = ("adapter", "whole")
ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "PLAN.md"
MARKS = ("<!-- table -->", "<!-- end of table -->")
# Parameters of the base and the first moment in two bytes: what the largest model needs. The least
# effort of the compiler, which takes minutes for a cell otherwise.
SETTINGS = (
    "--gin.CHECKPOINT_DTYPE=bfloat16",
    "--gin.MU_DTYPE=bfloat16",
    "--gin.COMPILER_EFFORT=-1",
)
HEADER = (
    "| model | trained | slice | mesh of training | rows at once | peak, GiB a device "
    "| step at least | bound by | MFU at most | mesh of generation | samples at once: peak "
    "| chip-hours at least |"
)


def command(model: str, adaptation: str, chip: str) -> list[str]:
    """The command of a cell, without `detox-jax`."""
    return [
        "plan",
        f"--gin_file=gin_configs/models/{model}.gin",
        f"--gin_file=gin_configs/adaptation/{adaptation}.gin",
        "--search",
        f"--topology={chip}",
        *SETTINGS,
    ]


def cells(models: list[str], chips: list[str]) -> Iterator[tuple[str, str, str]]:
    """Model, adaptation, chip; what one looks for first comes first."""
    for model in models:
        for chip in chips:
            for adaptation in ADAPTATIONS:
                yield model, adaptation, chip


def run(model: str, adaptation: str, chip: str) -> dict[str, Any] | str:
    """A cell's plan, or what the verb says against it."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(command(model, adaptation, chip))
    if status not in (0, 3):
        return err.getvalue().removeprefix("detox-jax: error: ").strip()
    path = re.findall(r"^written to (.*)$", out.getvalue(), re.MULTILINE)[-1]
    return json.loads(Path(path).read_text())


def row(model: str, adaptation: str, plan: dict[str, Any] | str) -> str:
    """One line of the table."""
    if isinstance(plan, str):
        largest = re.search(r"up to (\S+),", plan)
        found = f"none, up to {largest[1]}" if largest else plan
        return f"| {model} | {adaptation} | {found} |" + " |" * 9
    train, *generation = plan["programs"]
    if not plan["fits"]:
        worst = max(plan["programs"], key=lambda program: program["memory"]["peak"])
        return (
            f"| {model} | {adaptation} | {plan['topology']}: does not fit | {mesh(train)} | "
            f"{at_once(train)} | {peak(train)} | | | | | {worst['name']}: {peak(worst)} | |"
        )
    bound = train["phases"]["step"]["roofline"]
    samples = (program["phases"]["step"]["tokens"] for program in generation)
    peaks = ", ".join(f"{n}: {peak(each)}" for n, each in zip(samples, generation, strict=True))
    return (
        f"| {model} | {adaptation} | {plan['topology']} | {mesh(train)} | {at_once(train)} | "
        f"{peak(train)} | {bound['seconds']:.2f} s | {bound['bound']} | {bound['mfu']:.0%} | "
        f"{mesh(generation[0])} | {peaks} | {plan['paper_run']['chip_hours']['total']:,.1f} |"
    )


def mesh(program: dict[str, Any]) -> str:
    """Sizes above 1."""
    sizes = [f"{axis} {size}" for axis, size in program["mesh"].items() if size > 1]
    return ", ".join(sizes) or "one device"


def at_once(program: dict[str, Any]) -> int:
    """Rows of a part of a batch."""
    return program["rows"] // program["parts"]


def peak(program: dict[str, Any]) -> str:
    """Peak and capacity."""
    memory = program["memory"]
    return f"{memory['peak'] / GIB:.1f} of {memory['limit'] / GIB:.1f}"


def main() -> None:
    """Plans the cells that are missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--chips", default=",".join(CHIPS))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_args()
    started, made = time.monotonic(), {}
    for cell in cells(arguments.models.split(","), arguments.chips.split(",")):
        if time.monotonic() - started > 60 * arguments.minutes:
            break
        made[cell] = row(*cell[:2], run(*cell))
        print(made[cell], flush=True)
        DOCUMENT.write_text(written(DOCUMENT.read_text(), made, plan._code(plan._COMPILED)))


def written(document: str, made: dict[tuple[str, str, str], str], code: str) -> str:
    """The document with cells in the place of those that it has.

    Args:
      document: its text, with the table between the marks.
      made: lines by model, adaptation and chip.
      code: what they come from, with versions.
    """
    before, _, rest = document.partition(MARKS[0])
    old, _, after = rest.partition(MARKS[1])
    there = dict(filter(None, map(_cell, old.splitlines())))
    same = f"`{code}`" in old
    named = re.search(r"of older code: (.*)\.$", old, re.MULTILINE)
    older = set(named[1].split("; ") if named else []) if same else set(map(" ".join, there))
    older -= set(map(" ".join, made))
    every = there | made
    listed = [cell for cell in cells(list(MODELS), list(CHIPS)) if cell in every]
    notes = [f"\nMade by the code `{code}`."]
    if names := [" ".join(cell) for cell in listed if " ".join(cell) in older]:
        notes.append(f"These are of older code: {'; '.join(names)}.")
    if missing := [
        " ".join(cell) for cell in cells(list(MODELS), list(CHIPS)) if cell not in every
    ]:
        notes.append(f"Not computed yet: {'; '.join(missing)}.")
    lines = [HEADER, "|---" * 12 + "|", *(every[cell] for cell in listed)]
    return before + "\n".join([MARKS[0], *lines, *notes, MARKS[1]]) + after


def _cell(line: str) -> tuple[tuple[str, str, str], str] | None:
    """Which cell a line of the table is, and the line."""
    found = re.match(r"\| (\S+) \| (\w+) \| (?:none, up to )?(\w+):", line)
    return found and ((found[1], found[2], found[3]), line)


if __name__ == "__main__":
    main()
