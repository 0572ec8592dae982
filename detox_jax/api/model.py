"""A model that Python holds: it generates, reads, and is trained further."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from detox_jax import chat, records
from detox_jax.api import inputs
from detox_jax.api.calls import Place, call, fitted, in_python, path_of
from detox_jax.api.inputs import Texts
from detox_jax.api.keywords import TrainSettings
from detox_jax.api.texts import Generations
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.evaluation import perplexity
from detox_jax.evaluation.rows import Perplexity
from detox_jax.kinds import Count, Dtype
from detox_jax.models.config import TransformerConfig
from detox_jax.parallel import computation
from detox_jax.parallel import mesh as meshes
from detox_jax.tags import Tags
from detox_jax.vocabulary import Vocabulary

if TYPE_CHECKING:
    from detox_jax.generation.sampling import Sampling
    from detox_jax.generation.steering.steering import Method


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Model:
    """A checkpoint, loaded once for many calls; `load` makes it.

    A path too: where one is wanted, such as `Experts(anti=model)`, the checkpoint's is taken.

    Attributes:
      path: of the checkpoint.
      loaded: module, parameters on the mesh, vocabulary, fingerprint and spec.
      mesh_shape: size of the mesh axes; all devices on `data` where None.
    """

    path: str
    loaded: checkpoints.LoadedModel
    mesh_shape: Mapping[str, int] | None = None

    @property
    def config(self) -> TransformerConfig:
        """Sizes and architecture."""
        return self.loaded.module.config

    @property
    def vocabulary(self) -> Vocabulary:
        """Text to ids and back."""
        return self.loaded.vocabulary

    @property
    def num_parameters(self) -> int:
        """How many numbers the model has, an adaptation's included."""
        return params_lib.count(self.loaded.params)

    def generate(
        self,
        prompts: Texts,
        *,
        k: int = 25,
        max_new_tokens: int = 20,
        seed: int = 0,
        sampling: Sampling | None = None,
        steering: Sequence[Method] = (),
        batch_size: int = 256,
        output_dir: str | os.PathLike[str] | None = None,
        chat_template: chat.Choice = chat.AUTO,
        behind: Tags | None = None,
    ) -> Generations:
        """Continues prompts: the verb `generate`, which writes the same records for the same seed.

        Args:
          prompts: a prompt, a list of them, of records (`{"id", "prompt": {"text"}}`), or the path
            of a file. A prompt's draws are named by its id, made of its text where it has none.
          k: continuations of each prompt.
          max_new_tokens: the limit of each.
          seed: of all draws.
          sampling: how a token is drawn: `Greedy()`, `TemperatureSampling(...)`,
            `TopKSampling(...)`; `TopPSampling(0.9)`, the evaluation protocol's, where None.
          steering: what changes the distribution before a draw, in order: `[BannedWords()]`.
          batch_size: samples at once; changes speed and memory, and the text by rounding alone.
          output_dir: where the records go, to stay; a rerun goes on there.
          chat_template: `"auto"`, the tokenizer's chat template where it has one; False, raw text.
          behind: the tags of a model of conditional training, behind whose good one it is asked.

        Raises:
          UserError: for prompts beyond the context, or a value that does not fit.
        """
        place = Place(output_dir)
        settings: dict[str, Any] = {
            "checkpoint_path": self.path,
            "output_dir": place.output,
            "input": inputs.prompt_file(prompts, place.scratch),
            "num_samples": k,
            "max_new_tokens": max_new_tokens,
            "random_seed": seed,
            "steering": steering,
            "batch_size": batch_size,
            "dtype": self.config.dtype,
            "mesh_shape": self.mesh_shape,
            "chat_template": chat_template,
            "behind": behind,
        }
        if sampling is not None:
            settings["sampling"] = sampling
        said_as = {settings["input"]: "prompts", "num_samples": "k", "random_seed": "seed"}
        call("generate", settings, quiet=place.is_temporary, said_as=said_as, loaded=self.loaded)
        written = tuple(records.read_prompts(place.output))
        under = {"steering": tuple(steering), "behind": behind}
        drawn_under = {name: value for name, value in under.items() if value}
        return Generations(written, place.output, self.path, (place,), drawn_under)

    def perplexity(self, texts: Texts, *, batch_size: int = 32) -> Perplexity:
        """The perplexity of documents, by token (`value`) and by white-space word (`words`).

        Args:
          texts: a document, a list of them, or the path of a file.
          batch_size: windows at once.

        Raises:
          UserError: for texts that cannot be read.
        """
        batch_size = fitted(batch_size, Count, "batch_size")
        place = Place(None)
        file = inputs.text_file(texts, place.scratch)
        try:
            return perplexity.checkpoint_perplexity(
                self.path, file, batch_size, self.mesh_shape, loaded=self.loaded
            )
        except UserError as error:
            raise UserError(in_python(str(error), (), {file: "texts"})) from None

    def train(
        self,
        texts: Texts,
        model_dir: str | os.PathLike[str],
        *,
        validation: Texts | None = None,
        gin_files: Sequence[str] = (),
        **settings: Unpack[TrainSettings],
    ) -> Model:
        """Trains on from this model: the verb `train`, whole or through an adaptation.

        Args:
          texts: documents, or the path of their file.
          model_dir: where checkpoints and the log go; a rerun goes on there.
          validation: documents whose loss is logged.
          gin_files: layers below the settings.
          **settings: macros of the verb in lower case, `task_feature_lengths={"targets": 128},
            train_steps=100, adaptation=LoRAConfig(rank=8)`. On this model's mesh, unless a gin file
            or `mesh_shape` has another.

        Returns:
          The trained model, loaded on the mesh that it was trained on, in this one's dtype.

        Raises:
          UserError: for settings that do not fit each other, the texts or the model.
        """
        place = Place(None)
        known: dict[str, Any] = {
            "model_dir": path_of(model_dir, "model_dir"),
            "initial_checkpoint_path": self.path,
            "input": inputs.text_file(texts, place.scratch),
            "vocabulary_path": checkpoints.vocabulary_dir(self.path),
        }
        if validation is not None:
            known["validation_input"] = inputs.text_file(validation, place.scratch, "validation")
        refuse_given(settings, known, "train")
        said_as = {known["input"]: "texts"}
        answers = call(
            "train",
            {**known, **settings},
            gin_files=gin_files,
            said_as=said_as,
            below={"mesh_shape": self.mesh_shape},
            asked=["mesh_shape"],
        )
        mesh_shape = computation.read_mesh_shape(answers["mesh_shape"])  # `train` takes text too.
        return load(model_dir, dtype=self._own_dtype, mesh_shape=mesh_shape)

    @property
    def _own_dtype(self) -> Dtype | None:
        """What `load` was given; None for the checkpoint's own."""
        dtype = self.config.dtype
        return None if dtype == self.loaded.spec.config.dtype else dtype

    def __fspath__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        config, spec = self.config, self.loaded.spec
        added = f", {type(spec.adaptation).__name__}" if spec.adaptation else ""
        return (
            f"Model({self.path!r}, {self.num_parameters:,} parameters, {config.num_layers} layers, "
            f"context {config.max_length}, vocabulary {config.vocab_size:,}{added})"
        )


def load(
    path: str | os.PathLike[str],
    *,
    dtype: Dtype | None = None,
    mesh_shape: Mapping[str, int] | None = None,
) -> Model:
    """Loads a checkpoint that detox_jax trained or imported.

    Args:
      path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.
      dtype: of activations; the checkpoint's own where None.
      mesh_shape: size of the mesh axes, `{"fsdp": 4, "model": 2}`; all devices on `data` where
        None.

    Raises:
      UserError: if it is missing or damaged; for a Hugging Face model with the command that
        imports it.
    """
    checkpoint = path_of(path, "path")
    dtype = fitted(dtype, Dtype | None, "dtype")
    mesh_shape = fitted(mesh_shape, Mapping[str, int] | None, "mesh_shape")
    try:
        mesh = meshes.create_mesh(mesh_shape)
        return Model(checkpoint, checkpoints.load_model(checkpoint, mesh, dtype), mesh_shape)
    except UserError as error:
        raise UserError(in_python(str(error), {"mesh_shape": mesh_shape})) from None


def refuse_given(settings: Mapping[str, Any], known: Mapping[str, Any], verb: str) -> None:
    """Refuses a setting that the call itself makes of its other arguments.

    Raises:
      UserError: naming it.
    """
    if twice := sorted(settings.keys() & known.keys()):
        raise UserError(f"{verb}: {', '.join(twice)} is given by the call's own arguments")
