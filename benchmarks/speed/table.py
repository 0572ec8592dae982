"""Writes the table and the picture of docs/PERFORMANCE.md from what `run` measured.

python -m benchmarks.speed.table [--results=benchmarks/speed/results.json]
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.speed.run import HERE, ours_beside, ratios

DOCUMENT = HERE.parent.parent / "docs" / "PERFORMANCE.md"
PICTURE = DOCUMENT.parent / "images" / "speed.svg"
BEGIN, END = "<!-- table -->", "<!-- end of the table -->"


def lines(results: dict[str, Any]) -> list[str]:
    """The table, a line for each side that ours is compared with."""
    header = ["row", "work", "ours", "beside", "its speed", "ours is faster by", "processor time"]
    table = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name, row in sorted(results.items()):
        for side in list(row["sides"])[1:]:
            ours = ours_beside(row["sides"], side)
            which = "" if ours == "ours" else f" ({ours.removeprefix('ours, ')})"
            cells = [
                f"`{name}`",
                row["what"],
                f"{_rate(row['sides'][ours]):,.4g} {row['unit']}/s{which}",
                side,
                f"{_rate(row['sides'][side]):,.4g}",
                spread(ratios(row["sides"], side)),
                spread(ratios(row["sides"], side, "processor_seconds")),
            ]
            table.append("| " + " | ".join(cells) + " |")
    return table


def spread(values: np.ndarray) -> str:
    """`2.97 (2.94 to 3.00)`."""
    return f"**{np.median(values):.2f}** ({values.min():.2f} to {values.max():.2f})"


def _rate(turns: list[dict[str, float]]) -> float:
    return float(np.median([turn["work"] / turn["seconds"] for turn in turns]))


def provenance(results: dict[str, Any]) -> list[str]:
    """Machines, versions and commits, a sentence for each combination."""
    seen: dict[str, list[str]] = {}
    for name, row in sorted(results.items()):
        versions = ", ".join(f"{key} {value}" for key, value in row["versions"].items())
        rounds = len(next(iter(row["sides"].values())))
        beside = f" with {row['accelerator']}" if "accelerator" in row else ""
        counted = f"{rounds} round{'s' * (rounds > 1)}, {row['processors']} processors"
        machine = f"{counted} ({row['processor']}){beside}"
        said = f"commit {row['commit']}, {machine}, Python {row['python']}, {versions}"
        seen.setdefault(said, []).append(f"`{name}`")
    return [f"- {', '.join(names)}: {said}." for said, names in seen.items()]


def draw(results: dict[str, Any]) -> None:
    """A bar for each comparison, from 1: to the right where ours is faster."""
    bars = []
    for _, row in sorted(results.items(), reverse=True):
        for side in reversed(list(row["sides"])[1:]):
            ours = ours_beside(row["sides"], side)
            bars.append((f"{row['what']}\n{ours} beside {side}", ratios(row["sides"], side)))
    figure = Figure(figsize=(9, 0.62 * len(bars) + 0.8), layout="constrained")
    axes = figure.subplots()
    for place, (_, values) in enumerate(bars):
        middle = np.median(values)
        colour = "#0072B2" if middle >= 1 else "#D55E00"
        axes.barh(place, middle - 1, left=1, color=colour, height=0.6)
        axes.plot([values.min(), values.max()], [place, place], color="#222222", linewidth=1.5)
        axes.annotate(f" {middle:.2f}", (max(middle, values.max()), place), va="center")
    axes.set_yticks(range(len(bars)), [text for text, _ in bars], fontsize=8)
    axes.axvline(1, color="#222222", linewidth=1)
    axes.set_xscale("log")
    ticks = [0.25, 0.5, 1, 2, 4, 8]
    axes.set_xticks(ticks, [f"{tick:g} x" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("ours is faster by; the line is the spread over rounds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    """Replaces what stands between the marks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    results = json.loads(parser.parse_args().results.read_text())
    block = "\n".join([BEGIN, "", *lines(results), "", *provenance(results), "", END])
    text = DOCUMENT.read_text()
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    DOCUMENT.write_text(pattern.sub(lambda _: block, text))
    draw(results)


if __name__ == "__main__":
    main()
