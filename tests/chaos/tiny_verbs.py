"""Command lines of every verb on inputs that a test can repeat hundreds of times."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

from detox_jax.toxicity import filter as filters
from tests.chaos.forks import Forks
from tests.conftest import SENTENCES

VERBS = (
    "score",
    "filter",
    "train_vocabulary",
    "generate",
    "evaluate",
    "report",
    "convert",
    "choices",
)
# `convert` writes beside its target, and renames what is whole.
LOCKING = ("train", *(verb for verb in VERBS if verb != "convert"))
_SMALLER = 10  # records a shard of filter's


def before() -> None:
    """In a child: shards of `filter` small enough for several."""
    filters._SHARD_SIZE = _SMALLER


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """A run that nothing disturbed.

    Attributes:
      output: its directory, the only thing in its own.
      operations: how many operations it took on them.
      seconds: how long it took.
    """

    output: Path
    operations: int
    seconds: float


@dataclasses.dataclass
class Verbs:
    """Runs verbs, each on what the undisturbed ones before it left."""

    forks: Forks
    data: Path
    train_flags: list[str]
    root: Path
    _runs: dict[str, Undisturbed] = dataclasses.field(default_factory=dict)

    def flags(self, verb: str, output: Path) -> list[str]:
        """The command line that writes to `output`."""
        made = self._flags(verb)
        if verb == "convert":
            return ["convert", *made, f"--to_hf={output}"]
        return [verb, *made, f"--gin.OUTPUT_DIR={output}"]

    def undisturbed(self, verb: str) -> Undisturbed:
        """The undisturbed run, once."""
        if verb not in self._runs:
            output = self.root / verb / "output"
            output.parent.mkdir()
            flags = self.flags(verb, output)
            start = time.monotonic()
            ended = self.forks.run(flags, before=before, watched=output.parent)
            assert ended.status == 0, ended.errors
            self._runs[verb] = Undisturbed(output, ended.operations, time.monotonic() - start)
        return self._runs[verb]

    def base(self) -> Path:
        """A trained model."""
        model = self.root / "base"
        if not model.exists():
            flags = [*self.train_flags, "--gin.TRAIN_STEPS=4", f"--gin.MODEL_DIR={model}"]
            ended = self.forks.run(flags)
            assert ended.status == 0, ended.errors
        return model

    def _flags(self, verb: str) -> list[str]:
        documents = f"--gin.INPUT={self.data / 'documents.jsonl'}"
        if verb == "score":
            return [f"--gin.INPUT={self._documents()}"]
        if verb == "train_vocabulary":
            return [documents, "--gin.VOCAB_SIZE=350"]
        if verb == "filter":
            return [f"--gin.INPUT={self.undisturbed('score').output}"]
        if verb == "generate":
            return [
                f"--gin.INPUT={self._prompts()}",
                f"--gin.CHECKPOINT_PATH={self.base()}",
                "--gin.NUM_SAMPLES=2",
                "--gin.MAX_NEW_TOKENS=6",
                "--gin.BATCH_SIZE=16",
                "--gin.generate.generate.shard_size=6",
            ]
        if verb == "evaluate":
            return [
                f"--gin.METHODS={self._scored_continuations()}",
                f"--gin.REFERENCE={self.base()}",
                "--gin.BOOTSTRAP_DRAWS=200",
            ]
        if verb == "report":
            return [f"--gin.RESULTS={self.undisturbed('evaluate').output}"]
        if verb == "convert":
            return [f"--from={self.base()}"]
        return [
            f"--gin.CHECKPOINT_PATH={self.base()}",
            "--gin.TASKS=('lambada',)",
            f"--gin.TASKS_DIR={self._questions()}",
        ]

    def _documents(self) -> Path:
        """Documents in eight shards."""
        directory = self.root / "documents"
        if not directory.exists():
            directory.mkdir()
            lines = (self.data / "documents.jsonl").read_text().splitlines(keepends=True)
            for index in range(8):
                file = directory / f"documents-{index:05d}-of-00008.jsonl"
                file.write_text("".join(lines[15 * index : 15 * (index + 1)]))
        return directory

    def _prompts(self) -> Path:
        file = self.root / "prompts.jsonl"
        rows = [
            {"id": str(i), "prompt": {"text": SENTENCES[i % 6][: 8 + i % 9], "toxicity": 0.1}}
            for i in range(48)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    def _questions(self) -> Path:
        directory = self.root / "questions"
        directory.mkdir(exist_ok=True)
        lines = [json.dumps({"text": sentence}) + "\n" for sentence in SENTENCES]
        (directory / "lambada.jsonl").write_text("".join(lines))
        return directory

    def _scored_continuations(self) -> dict[str, str]:
        scored = self.root / "scored-continuations"
        if not scored.exists():
            source = self.undisturbed("generate").output
            ended = self.forks.run(["score", f"--gin.INPUT={source}", f"--gin.OUTPUT_DIR={scored}"])
            assert ended.status == 0, ended.errors
        return {"base": str(scored), "mine": str(scored)}
