"""Row: `train` of one step of a small model beside an earlier commit of ours, whole processes.

Every side has run once before, so that files are in the page cache and Python's modules compiled.
What the first run of ours kept of compiled programs is then removed, as in the first run on a
machine, or left. The earlier commit kept none.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.speed import again, processes
from benchmarks.speed.sides import Row, Side, Work, main

ROWS, LENGTH = 4, again.SIZES["max_length"]
DOCUMENTS = 256
TEXT = "The bus was late again this morning, and the next one did not come at all."


def _flags(package: Path, directory: Path) -> list[str]:
    """Writes a vocabulary and documents; returns what both commits understand of them."""
    from detox_jax.vocabulary import Vocabulary

    vocabulary = Vocabulary.train([TEXT], 300)
    path = str(directory / "vocabulary")
    vocabulary.save(path)
    documents = directory / "documents.jsonl"
    with documents.open("w") as lines:
        for number in range(DOCUMENTS):
            lines.write(json.dumps({"id": str(number), "text": f"{number}. {TEXT}"}) + "\n")
    sizes = [f"--gin.config.TransformerConfig.{name}={size}" for name, size in again.SIZES.items()]
    return [
        f"--gin_file={package}/gin_configs/models/tiny.gin",
        f"--gin.VOCAB_SIZE={vocabulary.vocab_size}",
        *sizes,
        f"--gin.VOCABULARY_PATH={path}",
        f"--gin.INPUT={documents}",
        f"--gin.TASK_FEATURE_LENGTHS={{'targets': {LENGTH}}}",
        f"--gin.BATCH_SIZE={ROWS}",
        "--gin.TRAIN_STEPS=1",
    ]


def _work(package: Path, *, forget: bool = False) -> Work:
    """`train` as the package in a directory has it, after a first run.

    Args:
      package: the directory.
      forget: remove the programs that the first run compiled.
    """
    directory = Path(tempfile.mkdtemp())
    flags, cache = _flags(package, directory), directory / "cache"
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

    def train(output: str) -> None:
        where = f"--gin.MODEL_DIR={directory / output}"
        processes.of_package(package, "train", *flags, where, XDG_CACHE_HOME=str(cache))

    train("first")
    if forget:  # Other libraries' files stay, such as matplotlib's list of fonts.
        shutil.rmtree(cache / "detox-jax")

    def work() -> float:
        train("timed")
        return 1.0

    return work


ROW = Row(
    f"`train` of one step of {ROWS} x {LENGTH} tokens, small model, whole process, "
    "nothing compiled before",
    "steps",
    {
        "ours": Side(lambda: _work(processes.ours(), forget=True), warm_up=False),
        processes.EARLIER: Side(lambda: _work(processes.earlier()), warm_up=False),
        "ours, compiled before": Side(lambda: _work(processes.ours()), warm_up=False),
    },
)

if __name__ == "__main__":
    main(ROW)
