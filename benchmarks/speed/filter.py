"""Row: the verb `filter` beside a script with pandas, whole processes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.speed import comments, processes
from benchmarks.speed.sides import Row, Side, Work, main

NUMBER = 1_000_000
SCRIPT = """
import sys
import pandas
documents = pandas.read_json(sys.argv[1], lines=True)
half = documents.nsmallest(len(documents) // 2, "toxicity").sample(frac=1, random_state=0)
half.to_json(sys.argv[2], orient="records", lines=True)
"""


def _file() -> Path:
    file = Path(tempfile.mkdtemp()) / "documents.jsonl"
    comments.write(file, NUMBER, scored=True)
    return file


def _ours() -> Work:
    return processes.verb("filter", _file(), NUMBER)


def _theirs() -> Work:
    return processes.script(SCRIPT, _file(), NUMBER)


ROW = Row(
    f"the least toxic half of {NUMBER:,} documents, shuffled, whole process",
    "documents",
    {
        "ours": Side(_ours, warm_up=False, notes=processes.memory),
        "pandas": Side(_theirs, warm_up=False, notes=processes.memory),
    },
)

if __name__ == "__main__":
    main(ROW)
