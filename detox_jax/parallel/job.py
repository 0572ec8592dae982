"""What is planned, wherever it shall run: the programs of training and generation."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from detox_jax.generation import decoding
from detox_jax.generation.sampling import Sampling
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel import programs
from detox_jax.parallel.programs import Model, Program, shard_bytes
from detox_jax.parallel.roofline import Run
from detox_jax.training import params as params_lib
from detox_jax.training import step as steps
from detox_jax.training.optimizer import AdamW


@dataclasses.dataclass(frozen=True)
class Generation:
    """One use of `generate`.

    Attributes:
      model: that generates.
      prompt_length: tokens of the prompts, padded.
      num_samples: continuations of each.
      max_new_tokens: of a continuation.
      batch_size: continuations at once, about.
    """

    model: Model
    prompt_length: int
    num_samples: int
    max_new_tokens: int
    batch_size: int

    @property
    def context(self) -> int:
        """Positions of the cache."""
        return self.prompt_length + self.max_new_tokens

    def rows(self, mesh: Mesh) -> int:
        """Prompts a batch on a mesh."""
        return decoding.rows_per_batch(
            self.batch_size, self.num_samples, meshes.num_batch_shards(mesh)
        )


@dataclasses.dataclass(frozen=True)
class Job:
    """A model, how it is trained, and what it generates before and after.

    Attributes:
      model: with the adaptation that is trained.
      optimizer: its settings.
      batch_size: packed rows an update.
      length: tokens of a row.
      sampling: how tokens are drawn.
      generations: by name.
      run: how much of everything.
    """

    model: Model
    optimizer: AdamW
    batch_size: int
    length: int
    sampling: Sampling
    generations: dict[str, Generation]
    run: Run

    @property
    def total_steps(self) -> int:
        """Updates of the run."""
        return self.run.train_steps(self.batch_size * self.length)

    def train_step(self, mesh: Mesh) -> Program:
        """What `train` jits."""
        return programs.train_step(
            self.model,
            self.optimizer,
            mesh,
            batch_size=self.batch_size,
            length=self.length,
            total_steps=self.total_steps,
        )

    def decode(self, name: str, mesh: Mesh) -> Program:
        """What `generate` jits."""
        use = self.generations[name]
        return programs.decode(
            use.model,
            self.sampling,
            mesh,
            num_rows=use.rows(mesh),
            prompt_length=use.prompt_length,
            num_samples=use.num_samples,
            max_new_tokens=use.max_new_tokens,
        )

    def least_train_bytes(self, mesh: Mesh) -> int:
        """What a device holds at the least while training: parameters, moments, gradients.

        Gradients are clipped by their common norm, so that all of them are there at once; with
        rematerialisation so is the input of every layer.
        """
        trained, frozen = self.model.params(mesh)
        transformation = self.optimizer.transformation(self.total_steps)
        state = steps.abstract_state(trained, mesh, transformation)
        activation = self.model.config.activation_dtype.itemsize
        gradients = shard_bytes(trained) // self.model.config.parameter_dtype.itemsize * activation
        rows = self.batch_size // meshes.num_batch_shards(mesh)
        inputs = rows * self.length * self.model.config.emb_dim * activation
        inputs *= self.model.config.num_layers
        return shard_bytes((state, frozen)) + gradients + inputs

    def least_decode_bytes(self, name: str, mesh: Mesh) -> int:
        """What a device holds at the least while generating: parameters and cache."""
        use = self.generations[name]
        cache = self.cache_bytes(name, use.rows(mesh)) // mesh.size
        return shard_bytes(use.model.params(mesh)) + cache

    def cache_bytes(self, name: str, rows: int) -> int:
        """Keys and values of a batch of so many prompts, all devices together."""
        use, config = self.generations[name], self.model.config
        layers = 2 * config.num_layers * config.activation_dtype.itemsize
        heads = config.kv_heads * config.head_size
        return layers * rows * use.num_samples * use.context * heads

    def parameters(self) -> dict[str, int]:
        """How many are in the model, and how many are trained."""
        shapes: Any = meshes.abstract_params(TransformerLM(self.model.config))[0]
        mesh = meshes.create_mesh(devices=jax.devices()[:1])
        trained, _ = self.model.params(mesh)
        return {"base": params_lib.count(shapes), "trained": params_lib.count(trained)}
