"""Row: the verb `evaluate` of one method beside an earlier commit of ours, whole processes.

python -m benchmarks.speed.evaluate write FILE [PROMPTS] writes the scored continuations alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.speed import comments, processes
from benchmarks.speed.sides import Row, Side, Work, main

PROMPTS, SAMPLES, WORDS = 100_000, 25, 15


def write(file: Path, prompts: int) -> None:
    """Scored continuations in the layout of `score`: pieces of labelled texts, random scores."""
    rng = np.random.default_rng(0)
    words = [word for text in comments.texts(100_000) for word in text.split(" ")]
    with file.open("w") as lines:
        for number in range(prompts):
            starts = rng.integers(len(words) - WORDS - 1, size=SAMPLES + 1).tolist()
            prompt, *texts = (" ".join(words[start : start + WORDS]) for start in starts)
            own, *toxicity = rng.beta(0.4, 2.0, SAMPLES + 1).tolist()
            generations = [
                {"text": " " + text, "toxicity": score, "num_tokens": 20, "finish": "length"}
                for text, score in zip(texts, toxicity, strict=True)
            ]
            record = {
                "id": f"prompt-{number:06d}",
                "prompt": {"text": prompt, "toxicity": own},
                "generations": generations,
            }
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")


def _file() -> Path:
    file = Path(tempfile.mkdtemp()) / "scored.jsonl"
    write(file, PROMPTS)
    return file


def _work(package: Path) -> Work:
    """`evaluate` as the package in a directory has it."""
    file = _file()

    def work() -> float:
        with tempfile.TemporaryDirectory() as output:
            flags = [f"--gin.METHODS={{'base': '{file}'}}", f"--gin.OUTPUT_DIR={output}/out"]
            processes.of_package(package, "evaluate", *flags)
        return float(PROMPTS)

    return work


ROW = Row(
    f"`evaluate` of {PROMPTS:,} prompts x {SAMPLES}, one method, whole process",
    "prompts",
    {
        "ours": Side(lambda: _work(processes.ours()), warm_up=False, notes=processes.memory),
        processes.EARLIER: Side(
            lambda: _work(processes.earlier()), warm_up=False, notes=processes.memory
        ),
    },
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write(Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else PROMPTS)
    else:
        main(ROW)
