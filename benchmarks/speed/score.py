"""Row: the verb `score` beside a script with alt-profanity-check, whole processes.

The million is the labelled texts about nine times over: from the second time on ours has seen each
of their runs of letters, as of so many texts of people's it would not. It shows what of the time is
the process's start, and that memory does not grow.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.speed import comments, processes
from benchmarks.speed.sides import Row, Side, Work, main

NUMBER, MANY = 100_000, 1_000_000
SCRIPT = """
import json, sys
import profanity_check
documents = [json.loads(line) for line in open(sys.argv[1])]
scores = profanity_check.predict_prob([document["text"] for document in documents])
with open(sys.argv[2], "w") as file:
    for document, score in zip(documents, scores):
        document["toxicity"] = float(score)
        file.write(json.dumps(document) + "\\n")
"""


def _file(number: int) -> Path:
    file = Path(tempfile.mkdtemp()) / "documents.jsonl"
    comments.write(file, number, scored=False)
    return file


def _ours(number: int = NUMBER) -> Work:
    return processes.verb("score", _file(number), number)


def _theirs() -> Work:
    return processes.script(SCRIPT, _file(NUMBER), NUMBER)


ROW = Row(
    f"{NUMBER:,} labelled texts from file to file, whole process",
    "texts",
    {
        "ours": Side(_ours, warm_up=False, notes=processes.memory),
        "alt-profanity-check": Side(_theirs, warm_up=False, notes=processes.memory),
        f"ours, {MANY:,}": Side(lambda: _ours(MANY), warm_up=False, notes=processes.memory),
    },
)

if __name__ == "__main__":
    main(ROW)
