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

from detox_jax import outputs
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.classifiers import encoder_card, encoder_export
from detox_jax.classifiers.classifier import ClassifierScorer
from detox_jax.classifiers.encoder_start import EncoderStart, Started
from detox_jax.classifiers.labelled_batches import (
    LabelledBatches,
    LabelledTask,
    LabelLoss,
    text_of,
)
from detox_jax.errors import UserError
from detox_jax.models.encoder import Encoder
from detox_jax.parallel import mesh as meshes
from detox_jax.toxicity.scorer import prepare
from detox_jax.training import loop as loops
from detox_jax.training import step as steps_lib
from detox_jax.training.optimizer import AdamW

TRAINING_DIR = "training"
_VOCABULARY_TEXTS = 50_000


@dataclasses.dataclass(frozen=True)
class EncoderRecipe:
    """An encoder with one independent output for each label.

    Attributes:
      task: of seqio, with examples of text, labels and weight and a validation split; see
        `tasks.classification`.
      labels: names of the labels, as the task orders them; the first is the one of the card.
      start: pretrained or new.
      train_steps: updates; or give `epochs`.
      epochs: passes over the training texts, instead of `train_steps`.
      length: tokens at which texts are cut.
      batch_size: texts an update, over all hosts.
      optimizer: its settings.
      loss: of the labels.
      random_seed: of a new head or encoder, data order and dropout.
      mesh_shape: size of the mesh axes; all devices on `data` where None.
      checkpoint_period: steps between checkpoints; the last step is always saved.
      eval_period: steps between validation losses; never where 0.
      eval_steps: batches of a validation loss.
      log_period: steps between metrics.
      quality_texts: held-out texts on which the quality is measured, at most.
    """

    task: Any
    labels: tuple[str, ...] = ("toxicity",)
    start: EncoderStart = EncoderStart()
    train_steps: int | None = None
    epochs: float | None = None
    length: int = 128
    batch_size: int = 32
    optimizer: AdamW = AdamW()
    loss: LabelLoss = LabelLoss()
    random_seed: int = 0
    mesh_shape: Mapping[str, int] | None = None
    checkpoint_period: int = 1000
    eval_period: int = 1000
    eval_steps: int = 20
    log_period: int = 10
    quality_texts: int = 20_000

    def train(self, output_dir: str) -> None:
        """Trains, or goes on from the last checkpoint; exports; measures on held-out text.

        Raises:
          UserError: for settings that do not fit each other, the data or the encoder.
        """
        from detox_jax.training import data  # tensorflow: not for importing this module

        if jax.process_count() > 1:
            raise UserError("train_scorer trains an encoder in one process: run it on one host")
        mesh = meshes.create_mesh(self.mesh_shape)
        self._check(mesh)
        task = data.get_task(self.task)
        described = {split: data.describe_source(task, split) for split in ("train", "validation")}
        identity = self.start.check(len(self.labels), self.length)
        steps = loops.total_steps(
            self.train_steps,
            self.epochs,
            lambda: sum(1 for _ in data.examples(task, "train")) / self.batch_size,
        )
        settings = {**self._settings(described), "encoder": identity}
        output = outputs.OutputDirectory(output_dir, "train_scorer", settings)
        if output.complete:
            return
        texts = (prepare(text_of(e)) for e in data.examples(task, "train", self.random_seed))
        started = self.start.open(
            output.path, itertools.islice(texts, _VOCABULARY_TEXTS), len(self.labels), self.length
        )
        source = LabelledTask(
            task, self.labels, started.tokenizer.encode, self.length, self.batch_size
        )
        batches = LabelledBatches(
            source, self.random_seed, {"source": described["train"], "encoder": identity}
        )
        params = self._run(output.path / TRAINING_DIR, mesh, started, source, batches, steps)
        encoder_export.write(output.path, params, started.config, started.fields, self.labels)
        held_out = list(itertools.islice(self._held_out(source), self.quality_texts))
        scorer = ClassifierScorer(
            output_dir, label=self.labels[0], max_length=self.length, mesh_shape=self.mesh_shape
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
        shards = meshes.num_batch_shards(mesh)
        if self.batch_size < 1 or self.batch_size % shards:
            raise UserError(
                f"BATCH_SIZE {self.batch_size} is no multiple of the mesh's {shards} batch shards"
            )

    def _settings(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the classifier."""
        names = ("labels", "train_steps", "epochs", "length", "batch_size", "random_seed")
        parts = {name: getattr(self, name) for name in names}
        strategies = {
            name: dataclasses.asdict(getattr(self, name)) for name in ("start", "optimizer", "loss")
        }
        return {**parts, **strategies, "data": described, "quality_texts": self.quality_texts}

    def _run(
        self,
        directory: epath.Path,
        mesh: Mesh,
        started: Started,
        source: LabelledTask,
        batches: LabelledBatches,
        steps: int,
    ) -> dict[str, np.ndarray]:
        """Trains up to `steps`; the parameters by path, on the host."""
        directory.mkdir(parents=True, exist_ok=True)
        transformation = self.optimizer.transformation(steps)
        params = started.parameters(mesh, self.random_seed)
        state = steps_lib.create_state(params, mesh, transformation)
        if saved := checkpoints.saved_steps(directory):
            state, data_state = loops.restore(directory, saved[-1], state)
            batches.restore(data_state)
        model = Encoder(started.config)
        validation = None
        if self.eval_period:
            validation = lambda: source.validation_batches(self.eval_steps)  # noqa: E731
        loop = loops.Loop(
            model_dir=directory,
            total_steps=steps,
            periods=loops.Periods(self.checkpoint_period, self.eval_period, self.log_period),
            mesh=mesh,
            step_fn=steps_lib.jit_train_step(model, transformation, self.random_seed, self.loss),
            eval_fn=steps_lib.jit_eval_step(model, self.loss),
            learning_rate=self.optimizer.learning_rate_at(steps),
            validation=validation,
        )
        state = loop.run(state, {}, batches)
        flat = traverse_util.flatten_dict(state.params, sep="/")
        return {path: np.asarray(jax.device_get(value)) for path, value in flat.items()}

    def _held_out(self, source: LabelledTask) -> Iterator[encoder_card.HeldOut]:
        from detox_jax.training import data

        for example in data.examples(source.task, "validation", seed=0):
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
