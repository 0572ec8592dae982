"""Command lines of every verb on inputs that a test can repeat hundreds of times."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path

from etils import epath

from detox_jax.human import key as keys
from detox_jax.toxicity import filter as filters
from tests.chaos import harness_stand_in
from tests.chaos.forks import Forks
from tests.classifiers import labelled_made
from tests.conftest import SENTENCES
from tests.human import human_made
from tests.toxicity import sources_made
from tests.zero_shot import lm_eval_test

VERBS = (
    "score",
    "filter",
    "train_vocabulary",
    "generate",
    "evaluate",
    "report",
    "convert",
    "choices",
    "pair",
    "steer",
    "fit_subspace",
    "combine",
    "panel",
    "compare",
    "human_sheets",
    "human_results",
    "train_linear",
    "train_reward",
    "train_scorer",
    "lm_eval",
)
# `convert` writes beside its target, and renames what is whole.
LOCKING = ("train", *(verb for verb in VERBS if verb != "convert"))
_SMALLER = 10  # records a shard of filter's


def before() -> None:
    """In a child: shards of `filter` small enough for several, and a harness for `lm_eval`."""
    filters._SHARD_SIZE = _SMALLER
    harness_stand_in.install()


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
        if verb == "human_sheets":
            made.append(f"--gin.SHEETS_DIR={output}-sheets")
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
        self._once(model, [*self.train_flags, "--gin.TRAIN_STEPS=4"], "MODEL_DIR")
        return model

    def adapted(self) -> Path:
        """A model trained further from that one."""
        model = self.root / "adapted"
        start = f"--gin.INITIAL_CHECKPOINT_PATH={self.base()}"
        self._once(model, [*self.train_flags, start, "--gin.TRAIN_STEPS=2"], "MODEL_DIR")
        return model

    def _flags(self, verb: str) -> list[str]:
        """What the verb reads and how, without its output."""
        return getattr(self, f"_{verb}_flags")()

    def _score_flags(self) -> list[str]:
        return [f"--gin.INPUT={self._documents()}"]

    def _train_vocabulary_flags(self) -> list[str]:
        return [f"--gin.INPUT={self.data / 'documents.jsonl'}", "--gin.VOCAB_SIZE=350"]

    def _filter_flags(self) -> list[str]:
        return [f"--gin.INPUT={self.undisturbed('score').output}"]

    def _generate_flags(self) -> list[str]:
        return [
            f"--gin.INPUT={self._prompts()}",
            f"--gin.CHECKPOINT_PATH={self.base()}",
            "--gin.NUM_SAMPLES=2",
            "--gin.MAX_NEW_TOKENS=6",
            "--gin.BATCH_SIZE=16",
            "--gin.generate.generate.shard_size=6",
        ]

    def _evaluate_flags(self) -> list[str]:
        return [
            f"--gin.METHODS={self._scored_continuations()}",
            f"--gin.REFERENCE={self.base()}",
            "--gin.BOOTSTRAP_DRAWS=200",
        ]

    def _report_flags(self) -> list[str]:
        return [f"--gin.RESULTS={self.undisturbed('evaluate').output}"]

    def _convert_flags(self) -> list[str]:
        return [f"--from={self.base()}"]

    def _choices_flags(self) -> list[str]:
        return [
            f"--gin.CHECKPOINT_PATH={self.base()}",
            "--gin.TASKS=('lambada',)",
            f"--gin.TASKS_DIR={self._questions()}",
        ]

    def _pair_flags(self) -> list[str]:
        return [f"--gin.INPUT={self._labelled_continuations()}", *self._of_base()]

    def _steer_flags(self) -> list[str]:
        return self._pair_flags()

    def _fit_subspace_flags(self) -> list[str]:
        return [f"--gin.INPUT={self._labelled()}", *self._of_base()]

    def _combine_flags(self) -> list[str]:
        terms = {str(self.adapted()): -0.5}
        return [f"--gin.BASE={self.base()}", f"--gin.TERMS={terms}"]

    def _panel_flags(self) -> list[str]:
        methods = {"base": str(self.base()), "mine": str(self.adapted())}
        groups = {"plain": str(self.data / "documents.jsonl"), "named": str(self._labelled())}
        return [
            f"--gin.METHODS={methods}",
            f"--gin.GROUPS={groups}",
            "--gin.BOOTSTRAP_DRAWS=200",
        ]

    def _compare_flags(self) -> list[str]:
        lexicon = self.root / "scored-by-lexicon"
        self._once(
            lexicon, ["score", *self._score_flags(), "--gin.SCORER=@lexicon.LexiconScorer()"]
        )
        scores = {"ngram": str(self.undisturbed("score").output), "lexicon": str(lexicon)}
        return [f"--gin.SCORES={scores}", "--gin.BOOTSTRAP_DRAWS=200"]

    def _human_sheets_flags(self) -> list[str]:
        place = self.root / "continuations-to-rate"
        place.mkdir(exist_ok=True)
        return [f"--gin.METHODS={human_made.write_methods(place)}", "--gin.NUM_PROMPTS=12"]

    def _human_results_flags(self) -> list[str]:
        key, filled = self.root / "key.json", self.root / "filled"
        if not key.exists():
            made = human_made.key(prompts=6)
            keys.write(epath.Path(key), made)
            human_made.write_filled(filled, made, less_toxic=human_made.prefers("mine"))
        return [f"--gin.KEY={key}", f"--gin.SHEETS={filled}", "--gin.BOOTSTRAP_DRAWS=200"]

    def _train_linear_flags(self) -> list[str]:
        return [*self._train_reward_flags(), "--gin.RANK=4"]

    def _train_reward_flags(self) -> list[str]:
        return [
            f"--gin.INPUT={self._labelled()}",
            *self._of_base(),
            "--gin.TRAIN_STEPS=6",
            "--gin.CHECKPOINT_PERIOD=2",
            "--gin.EVAL_PERIOD=3",
            "--gin.LENGTH=16",
            "--gin.BATCH_SIZE=8",
        ]

    def _train_scorer_flags(self) -> list[str]:
        directory = self.root / "labelled-sources"
        if not directory.exists():
            sources_made.write_sources(directory)
        return [f"--gin.DATA_DIR={directory}", "--gin.ITERATIONS=20"]

    def _lm_eval_flags(self) -> list[str]:
        tasks = self.root / "tasks"
        if not tasks.exists():
            lm_eval_test.write_tasks(tasks)
        return [
            *self._of_base(),
            f"--gin.INCLUDE_PATH={tasks}",
            "--gin.TASKS=('quiz', 'words')",
            "--gin.BATCH_SIZE=8",
            "--gin.LOG_SAMPLES=True",
        ]

    def _of_base(self) -> list[str]:
        return [f"--gin.CHECKPOINT_PATH={self.base()}"]

    def _once(self, output: Path, flags: list[str], setting: str = "OUTPUT_DIR") -> None:
        """Runs a command that nothing disturbs, where its output is not there."""
        if not output.exists():
            ended = self.forks.run([*flags, f"--gin.{setting}={output}"])
            assert ended.status == 0, ended.errors

    def _labelled(self) -> Path:
        """Documents with a toxicity, half of them toxic."""
        file = self.root / "labelled.jsonl"
        labelled_made.write(file)
        return file

    def _labelled_continuations(self) -> Path:
        """Continuations of which one is toxic and one is not."""
        file = self.root / "labelled-continuations.jsonl"
        rude, kind = labelled_made.TEXTS
        rows = [
            {
                "id": str(i),
                "prompt": {"text": f"On day {i} he said", "toxicity": 0.1},
                "generations": [
                    {"text": f" {kind} {i}.", "toxicity": 0.1},
                    {"text": f" {rude} {i}.", "toxicity": 0.9},
                ],
            }
            for i in range(24)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

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
        self._once(scored, ["score", f"--gin.INPUT={self.undisturbed('generate').output}"])
        again = self.root / "scored-continuations-again"
        if not again.exists():
            shutil.copytree(scored, again)
        return {"base": str(scored), "mine": str(again)}
