"""Writes the table "Last counts" of docs/RELIABILITY.md from what `make chaos` counted.

python -m tests.chaos.table
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.chaos.counts import Counts, is_full

DOCUMENT = Path(__file__).parents[2] / "docs" / "RELIABILITY.md"
BEGIN, END = "<!-- counts -->", "<!-- end of the counts -->"


def lines(counts: dict[str, Any]) -> list[str]:
    """The table: a line for each class that was tried."""
    table = ["| class | tried | whole | a full round tries |", "|---|---|---|---|"]
    for name, entry in sorted(counts.items()):
        tried = f"{entry['tried']:,} {entry['unit']}"
        cells = [_with_growth(name, entry), tried, f"{entry['whole']:,}", _full(entry)]
        table.append("| " + " | ".join(cells) + " |")
    return table


def _with_growth(name: str, entry: dict[str, Any]) -> str:
    if "growth" not in entry:
        return name
    grown, bound = entry["growth"], entry["bound"]
    said = "; ".join(f"{key} {grown[key]:+g} (bound {bound[key]:g})" for key in sorted(grown))
    return f"{name}, {entry['size']}: {said}"


def _full(entry: dict[str, Any]) -> str:
    if seconds := entry.get("seconds"):
        full = f"{entry['full_seconds']} s for each of {entry['readers']} readers"
        ran = f"this one {min(seconds.values())} s for each of {len(seconds)}"
    elif "share" in entry:
        full = "the whole size"
        ran = f"this one {entry['share']} %"
    else:
        full = f"{entry['full']:,}"
        ran = "this round was shorter"
        if before := entry.get("before"):
            ran += f", and one of older code had {before['whole']:,} of {before['tried']:,} whole"
    return full if is_full(entry) else f"{full}: **{ran}**"


def main() -> None:
    """Puts the table into the document."""
    table = "\n".join(lines(Counts().read()))
    text = DOCUMENT.read_text()
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    assert pattern.search(text), f"{DOCUMENT} has no {BEGIN}"
    DOCUMENT.write_text(pattern.sub(lambda _: f"{BEGIN}\n{table}\n{END}", text))


if __name__ == "__main__":
    main()
