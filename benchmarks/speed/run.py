"""Measures rows of docs/PERFORMANCE.md: sides take turns, each in a process of its own.

    pip install 'detox-jax[train,hf]' alt-profanity-check pandas
    python -m benchmarks.speed.run [ROW ...] [--rounds=3] [--output=benchmarks/speed/results.json]

A row is a file beside this one; those named gpu_... need a GPU and those named t5x_... T5X
(docs/T5X.md), and are measured where they are named. A row that is measured again takes the place
of what the output holds of it. Printed for each: units a second, and by how much ours is faster, as
the median over rounds with the least and the most.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.sides import Row

HERE = Path(__file__).parent
NO_ROWS = {"__init__", "run", "sides", "table", "gpt2", "gpu", "t5x", "comments", "processes"}
# What a row's name begins with that is measured only where it is named.
APART = ("gpu_", "t5x_")
PACKAGES = ("jax", "jaxlib", "torch", "transformers", "numpy", "scipy", "pandas")


def row_names() -> list[str]:
    """The rows that there are."""
    return sorted(file.stem for file in HERE.glob("*.py") if file.stem not in NO_ROWS)


def usual_rows() -> list[str]:
    """Those that are measured where none is named."""
    return [name for name in row_names() if not name.startswith(APART)]


def measure(name: str, row: Row, rounds: int) -> dict[str, Any]:
    """All sides of a row in every round, each round in the opposite order of the one before."""
    sides: dict[str, list[dict[str, float]]] = {side: [] for side in row.sides}
    for turn in range(rounds):
        for side in list(row.sides)[:: -1 if turn % 2 else 1]:
            command = [sys.executable, "-m", f"benchmarks.speed.{name}", side]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            sides[side].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"  {side}: {sides[side][-1]['seconds']:.2f} s", flush=True)
    return {"what": row.what, "unit": row.unit, "sides": sides}


def ours_beside(sides: Iterable[str], side: str) -> str:
    """The side of ours that another one is compared with: its like, else the first.

    >>> ours_beside(["ours", "transformers", "ours, float32"], "transformers, float32")
    'ours, float32'
    """
    names = list(sides)
    whose, comma, how = side.partition(", ")
    like = f"ours{comma}{how}"
    return like if comma and whose != "ours" and like in names else names[0]


def ratios(
    sides: dict[str, list[dict[str, float]]], side: str, seconds: str = "seconds"
) -> np.ndarray:
    """Ours over the side's, units a second, by round; which of ours, `ours_beside` says.

    Args:
      sides: what was measured, the first ours.
      side: the other.
      seconds: by which clock: `seconds`, or `processor_seconds`, which other programs disturb less.
    """
    rates = [
        np.array([turn["work"] / turn[seconds] for turn in sides[name]])
        for name in (ours_beside(sides, side), side)
    ]
    return rates[0] / rates[1]


def environment() -> dict[str, Any]:
    """The machine and the versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        **_accelerator(),
        "processor": model or platform.processor(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _accelerator() -> dict[str, str]:
    """The GPU, where there is one; asked without JAX, which would hold its memory."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return {}
    return {"accelerator": done.stdout.strip()}


def commit() -> str:
    """The commit that is measured, marked where files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=True,
    )
    return described.stdout.strip()


def main() -> None:
    """Measures the rows that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", default=usual_rows(), metavar="ROW")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    flags = parser.parse_args()
    if unknown := set(flags.rows) - set(row_names()):
        parser.error(f"no row {', '.join(sorted(unknown))}; one of: {', '.join(row_names())}")
    results = json.loads(flags.output.read_text()) if flags.output.exists() else {}
    for name in flags.rows:
        row: Row = importlib.import_module(f"benchmarks.speed.{name}").ROW
        print(f"{name}: {row.what}", flush=True)
        measured = measure(name, row, flags.rounds)
        for side in list(measured["sides"])[1:]:
            values = ratios(measured["sides"], side)
            spread = f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"
            ours = ours_beside(measured["sides"], side)
            print(f"  {side}: {ours} is {spread} times as fast", flush=True)
        results[name] = {**measured, "commit": commit(), **environment()}
        flags.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
