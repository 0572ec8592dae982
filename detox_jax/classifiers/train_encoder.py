"""Trains an encoder as a toxicity classifier, by the train step of the language models.

OUTPUT_DIR holds config.json, model.safetensors and the tokenizer's files, which SCORER and
transformers read; README.md and reliability.json, the quality on unseen text; and in `training/`
the checkpoints to go on from and metrics.jsonl.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import traverse_util
from jax.sharding import Mesh

from detox_jax import output_settings, outputs
from detox_jax.checkpoints import params as params_lib
from detox_jax.classifiers import encoder_card, encoder_export
from detox_jax.classifiers.classifier import ClassifierScorer
from detox_jax.classifiers.encoder_start import EncoderStart, Started
from detox_jax.classifiers.labelled_batches import LabelledTask, LabelLoss, Labels, text_of
from detox_jax.classifiers.labelled_fit import fit_labels
from detox_jax.errors import UserError
from detox_jax.kinds import Count
from detox_jax.models.encoder import Encoder
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel import processes
from detox_jax.parallel.computation import Computation, read_mesh_shape
from detox_jax.toxicity.scorer import prepare
from detox_jax.training.fit import Budget
from detox_jax.training.loop import Periods
from detox_jax.training.optimizer import AdamW

TRAINING_DIR = "training"
_VOCABULARY_TEXTS = 50_000


@dataclasses.dataclass(frozen=True)
class EncoderRecipe:
    """An encoder with one independent output for each label.

    Attributes:
      task: of seqio, with examples of text, labels and weight and a validation split; see
        `tasks.classification`.
      budget: for how long: updates, or passes over the training texts.
      labels: names of the labels, as the task orders them; the first is the one of the card.
      start: pretrained or new.
      length: tokens at which texts are cut.
      batch_size: texts an update, over all hosts.
      optimizer: its settings.
      loss: of the labels.
      random_seed: of a new head or encoder, data order and dropout.
      computation: how it is computed: the mesh, of the scorer that is measured too, and the parts
        of a batch; the rest is of language models.
      periods: how often to save, validate and log.
      quality_texts: held-out texts on which the quality is measured, at most.
    """

    task: Any
    budget: Budget
    labels: tuple[str, ...] = ("toxicity",)
    start: EncoderStart = EncoderStart()
    length: Count = 128
    batch_size: Count = 32
    optimizer: AdamW = AdamW()
    loss: LabelLoss = LabelLoss()
    random_seed: int = 0
    computation: Computation = Computation()
    periods: Periods = Periods()
    quality_texts: Count = 20_000

    def check(self, output_dir: str) -> None:
        """Refuses an output of other settings; the text, which takes a while to read, is not read.

        Raises:
          UserError: for settings that do not fit each other; see `outputs.check`.
        """
        self._check(self.computation.create_mesh())

        def settings() -> dict[str, Any]:
            encoder = self.start.check(len(self.labels), self.length)
            return {**self._settings(output_settings.NOT_YET), "encoder": encoder}

        outputs.check(output_dir, "train_scorer", settings)

    def train(self, output_dir: str) -> None:
        """Trains, or goes on from the last checkpoint; exports; measures on held-out text.

        Raises:
          UserError: for settings that do not fit each other, the data or the encoder.
        """
        from detox_jax.training import seqio_tasks  # tensorflow: not for importing this module

        # --- what decides the result ---
        # `several` is False here: this verb runs on process 0 as if it were alone.
        if len(processes.current().hosts) > 1:
            raise UserError("train_scorer trains an encoder in one process: run it on one host")
        mesh = self.computation.create_mesh()
        self._check(mesh)
        task = seqio_tasks.get_task(self.task)
        described = {
            split: seqio_tasks.describe_source(task, split) for split in ("train", "validation")
        }
        identity = self.start.check(len(self.labels), self.length)
        steps = self.budget.steps(
            lambda: sum(1 for _ in seqio_tasks.examples(task, "train")) / self.batch_size
        )
        settings = {**self._settings(described), "encoder": identity}
        output = outputs.OutputDirectory(output_dir, "train_scorer", settings)
        if output.complete:
            return

        # --- training ---
        texts = (prepare(text_of(e)) for e in seqio_tasks.examples(task, "train", self.random_seed))
        started = self.start.open(
            output.path, itertools.islice(texts, _VOCABULARY_TEXTS), len(self.labels), self.length
        )
        decides = {"source": described["train"], "encoder": identity}
        objective = Labels(
            self.labels, started.tokenizer.encode, started.config.vocab_size, self.loss, decides
        )
        params = self._fit(output.path / TRAINING_DIR, mesh, started, objective, task, steps)
        encoder_export.write(output.path, params, started.config, started.fields, self.labels)

        # --- the quality, of what was written ---
        source = objective.source(task, self.batch_size, self.length)
        held_out = list(itertools.islice(self._held_out(source), self.quality_texts))
        scorer = ClassifierScorer(
            output_dir,
            label=self.labels[0],
            max_length=self.length,
            mesh_shape=read_mesh_shape(self.computation.mesh_shape),
        )
        report = encoder_card.measure(scorer, held_out, self.labels)
        encoder_card.write(output.path, self._card(described, started, steps), report, scorer)
        scored_by = {"name": scorer.name, "fingerprint": scorer.fingerprint}
        trained = sum(array.size for array in params.values())
        output.finish(scorer=scored_by, quality=report, steps=steps, parameters=trained)
        print(f"{output_dir}: {steps} steps, {trained:,} parameters, {scorer.fingerprint}")
        print("\n".join(encoder_card.table(report)))

    def _check(self, mesh: Mesh) -> None:
        if not self.labels:
            raise UserError("LABELS is empty; name what to learn, such as ('toxicity',)")
        if self.length < 4:
            raise UserError(f"LENGTH is {self.length}; texts need at least 4 tokens")
        if self.computation.overrides:
            names = ", ".join(name.upper() for name in self.computation.overrides)
            raise UserError(f"{names}: of language models, an encoder has none; leave it None")
        meshes.rows_at_once(mesh, self.batch_size, self.computation.accumulation_steps)

    def _settings(self, described: Any) -> dict[str, Any]:
        """What decides the classifier."""
        strategies = {"start": self.start, "optimizer": self.optimizer, "loss": self.loss}
        described_as = {name: {name: dataclasses.asdict(x)} for name, x in strategies.items()}
        return output_settings.of_struct(
            self,
            free=("periods",),
            instead={
                **described_as,
                "computation": self.computation.decides(self.start.dropout_rate),
                "task": {"data": described},
                "budget": output_settings.of_struct(self.budget),
            },
        )

    def _fit(
        self,
        directory: epath.Path,
        mesh: Mesh,
        started: Started,
        objective: Labels,
        task: Any,
        steps: int,
    ) -> dict[str, np.ndarray]:
        """Trains up to `steps`; the parameters by path, on the host."""
        directory.mkdir(parents=True, exist_ok=True)
        state = fit_labels(
            Encoder(started.config),
            started.parameters(mesh, self.random_seed),
            {},
            objective,
            task,
            steps=steps,
            optimizer=self.optimizer,
            batch_size=self.batch_size,
            length=self.length,
            computation=self.computation,
            periods=self.periods,
            seed=self.random_seed,
            directory=directory,
        )
        flat = traverse_util.flatten_dict(state.params, sep="/")
        return {path: np.asarray(jax.device_get(value)) for path, value in flat.items()}

    def _held_out(self, source: LabelledTask) -> Iterator[encoder_card.HeldOut]:
        from detox_jax.training import seqio_tasks

        for example in seqio_tasks.examples(source.task, "validation", seed=0):
            yield encoder_card.HeldOut(text_of(example), source.labels_of(example))

    def _card(
        self, described: Mapping[str, Any], started: Started, steps: int
    ) -> encoder_card.Facts:
        data = described["train"]
        if isinstance(data, dict):
            data = f"{data['texts']:,} texts, sha256 {data['sha256'][:12]}"
        return encoder_card.Facts(
            base=self.start.path,
            data=str(data),
            recipe=(
                f"{steps} steps of {self.batch_size} texts, cut at {self.length} tokens; "
                f"{self.optimizer}; {self.loss}; seed {self.random_seed}"
            ),
            parameters=params_lib.count(meshes.abstract_params(Encoder(started.config))[0]),
        )
