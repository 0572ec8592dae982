"""What is planned, wherever it shall run: the programs of training and generation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from detox_jax.checkpoints import params as params_lib
from detox_jax.generation import decoding, slots
from detox_jax.generation.sampling import Sampling, TopPSampling
from detox_jax.kinds import Count
from detox_jax.models import adaptation as adaptations
from detox_jax.models import kernels
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel.computation import MeshShape
from detox_jax.planning import programs, steered
from detox_jax.planning.models import Model
from detox_jax.planning.programs import Program
from detox_jax.planning.roofline import Run, batches
from detox_jax.planning.steered import Branch, Steered
from detox_jax.training.optimizer import AdamW

# The most samples at once that a plan chooses, a power of two: the paper's run is a few dozen such
# batches, and the last of them is not full.
LARGEST_BATCH = 8192


@dataclasses.dataclass(frozen=True)
class DecodingProgram:
    """A program that `generate` runs: of which model, and for what sizes it is compiled.

    Attributes:
      model: the model that generates.
      prompt_length: the length of a prompt in tokens, padding included.
      num_samples: the number of continuations of each prompt.
      max_new_tokens: the limit of new tokens for each continuation.
      batch_size: about how many continuations are decoded at once.
      steered: the methods of STEERING.
      is_chosen: whether nobody gave `batch_size`, and the plan chooses it.
    """

    model: Model
    prompt_length: int
    num_samples: int
    max_new_tokens: int
    batch_size: int
    steered: tuple[Steered, ...] = ()
    is_chosen: bool = False

    @property
    def branches(self) -> list[Branch]:
        """What all methods run beside the model."""
        return [branch for method in self.steered for branch in method.branches]

    @property
    def context(self) -> int:
        """Positions of the cache."""
        return self.prompt_length + self.max_new_tokens

    def steps(self) -> dict[int, int]:
        """The steps of a batch, by how many positions of the cache they read."""
        return slots.steps_by_room(self.prompt_length, self.max_new_tokens)

    def rows(self, mesh: Mesh) -> int:
        """Prompts a batch on a mesh."""
        return decoding.rows_per_batch(
            self.batch_size, self.num_samples, meshes.num_batch_shards(mesh)
        )


@dataclasses.dataclass(frozen=True)
class Generations:
    """What `generate` is asked for: documents before training, continuations of prompts after it.

    Attributes:
      sampling: how tokens are drawn.
      document_max_new_tokens: the limit for a document.
      prompt_length: of the prompts, padded, in tokens.
      num_samples: continuations of each.
      max_new_tokens: the limit for a continuation.
      batch_size: samples decoded at once; where None the plan chooses, of each program, what costs
        the least.
      mesh_shape: as of `Computation`, for generation; that of training where None.
      steering: methods that change the distribution of the continuations, see `Decoding`.
    """

    sampling: Sampling = TopPSampling(0.9)
    document_max_new_tokens: Count = 1000
    prompt_length: Count = 16
    num_samples: Count = 25
    max_new_tokens: Count = 20
    batch_size: Count | None = None
    mesh_shape: MeshShape = None
    steering: Sequence[Any] = ()

    def programs(self, trained: Model) -> dict[str, DecodingProgram]:
        """What `generate` runs, by name: of the base, and of the model that was trained."""
        chosen = self.batch_size is None
        batch_size = LARGEST_BATCH if self.batch_size is None else self.batch_size
        return {
            "documents": DecodingProgram(
                trained.base,
                prompt_length=1,
                num_samples=1,
                max_new_tokens=self.document_max_new_tokens,
                batch_size=batch_size,
                is_chosen=chosen,
            ),
            "continuations": DecodingProgram(
                trained,
                self.prompt_length,
                self.num_samples,
                self.max_new_tokens,
                batch_size,
                steered.of_methods(self.steering, trained),
                chosen,
            ),
        }


@dataclasses.dataclass(frozen=True)
class Job:
    """A model, how it is trained, and what it generates before and after.

    Attributes:
      model: with the adaptation that is trained.
      optimizer: its settings.
      batch_size: packed rows an update.
      accumulation_steps: parts of a batch that are computed one after the other.
      length: tokens of a row.
      sampling: how tokens are drawn.
      generations: by name.
      run: how much of everything.
    """

    model: Model
    optimizer: AdamW
    batch_size: int
    accumulation_steps: int
    length: int
    sampling: Sampling
    generations: dict[str, DecodingProgram]
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
            accumulation_steps=self.accumulation_steps,
        )

    def attention(self, mesh: Mesh) -> tuple[kernels.Kernel | None, str]:
        """The kernel of training on a mesh, None for plain attention, and the reason."""
        rows = self.batch_size // self.accumulation_steps
        with meshes.sharding_scope(mesh):
            return kernels.choose(self.model.config, rows, self.length)

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
            steered=use.steered,
        )

    @property
    def parameters(self) -> dict[str, int]:
        """How many are in the base, and how many are trained."""
        return _parameters(self.model)

    @property
    def update_bytes(self) -> int:
        """Of moments and gradients, for each parameter that is trained.

        Gradients are clipped by their common norm, so that all are there at once; they are computed
        in the dtype of activations, and the sums over parts are float32.
        """
        config = self.model.config
        first_moment = jnp.dtype(self.optimizer.mu_dtype or config.param_dtype).itemsize
        moments = first_moment + config.parameter_dtype.itemsize
        sums = 4 if self.accumulation_steps > 1 else 0
        return moments + config.activation_dtype.itemsize + sums

    def least_train_bytes(self, shape: Mapping[str, int]) -> int:
        """What a device of a mesh holds at the least while training.

        Parameters, moments and gradients, split as far as they can be, and the inputs of all
        layers, which even rematerialisation keeps, of a part of the batch.
        """
        config, trained = self.model.config, self.parameters["trained"]
        stored, activation = config.parameter_dtype.itemsize, config.activation_dtype.itemsize
        total = trained * (stored + self.update_bytes)
        if self.model.adaptation is not None:
            total += self.parameters["base"] * jnp.dtype(self.model.checkpoint_dtype).itemsize
        inputs = config.num_layers * self._part_tokens(shape) * config.emb_dim * activation
        return total // (shape["fsdp"] * shape["model"]) + inputs

    def likely_train_bytes(self, shape: Mapping[str, int]) -> int:
        """`least_train_bytes`, what rematerialisation keeps besides, and one layer at work.

        That holds its weights, gathered, those of the next one, its gradients where they are
        wanted, and the hidden units of its MLP, forward and backward.
        """
        config, tokens = self.model.config, self._part_tokens(shape)
        copies = 2 if self.model.adaptation is not None else 3
        weights = self.parameters["base"] // config.num_layers * copies
        hidden = config.mlp_dim * len(config.mlp_activations)
        at_work = (weights + 4 * tokens * hidden) // shape["model"]
        for_backward = tokens * config.num_layers * self._kept_a_token(shape["model"])
        return self.least_train_bytes(shape) + config.activation_dtype.itemsize * (
            at_work + for_backward
        )

    def _kept_a_token(self, model: int) -> int:
        """Numbers that the backward pass has of a layer beside its input, heads being split."""
        config = self.model.config
        heads = config.num_heads * config.head_size
        if config.remat in ("full", "attention"):
            return heads // model if config.remat == "attention" else 0
        hidden = config.mlp_dim * len(config.mlp_activations)
        split = 2 * heads + 2 * config.kv_heads * config.head_size + hidden
        products = 2 * config.emb_dim + split // model
        return 3 * products if config.remat == "none" else products

    def sent_train_bytes(self, shape: Mapping[str, int]) -> float:
        """About what a device of a mesh sends in an update.

        Weights are gathered for each part of a batch, forward and backward; gradients are summed;
        and where heads are split, so are the outputs of attention and MLP. Of arrays that are split
        into parts of less than a register's width, the compiler makes sums in place of gathers.
        """
        config, fsdp, model = self.model.config, shape["fsdp"], shape["model"]
        narrow = config.emb_dim // fsdp % kernels.LANES != 0
        weights = self.parameters["base"] * config.activation_dtype.itemsize / model
        gathered = 2 * self.accumulation_steps * weights * (1 - 1 / fsdp) * (1 + narrow)
        summed = 2 * 4 * self.parameters["trained"] / model
        tokens = self._part_tokens(shape) * self.accumulation_steps
        outputs = tokens * config.emb_dim * config.activation_dtype.itemsize * config.num_layers
        return gathered + summed + 4 * outputs * 2 * (1 - 1 / model)

    def _part_tokens(self, shape: Mapping[str, int]) -> int:
        """Tokens of a part of the batch that a device of a mesh has."""
        parts = shape["data"] * shape["fsdp"] * self.accumulation_steps
        return self.batch_size * self.length // parts

    def least_decode_bytes(self, name: str, shape: Mapping[str, int]) -> int:
        """What a device of a mesh holds at the least while generating: parameters and cache."""
        use = self.generations[name]
        shards = shape["data"] * shape["fsdp"]
        rows = decoding.rows_per_batch(use.batch_size, use.num_samples, shards)
        stored = jnp.dtype(use.model.config.param_dtype).itemsize
        if use.model.adaptation is not None:
            stored = jnp.dtype(use.model.checkpoint_dtype).itemsize
        params = self.parameters["base"] * stored + sum(b.num_bytes() for b in use.branches)
        params //= shape["fsdp"] * shape["model"]
        return params + self.cache_bytes(name, rows) // (shards * shape["model"])

    def selecting_decode_bytes(self, name: str, shape: Mapping[str, int]) -> int:
        """`least_decode_bytes`, and half the cache of the rows that stay as a batch gets smaller.

        Keys are selected before values, see `generation.slots.select`.
        """
        use = self.generations[name]
        shards = shape["data"] * shape["fsdp"]
        prompts = decoding.rows_per_batch(use.batch_size, use.num_samples, shards)
        rows = prompts * use.num_samples
        stay = programs.smaller_batch(
            rows, use.max_new_tokens, shards, use.prompt_length, self.parameters["base"]
        )
        cache = self.cache_bytes(name, prompts) // (shards * shape["model"])
        more = cache * stay // (2 * rows) if stay < rows else 0
        return self.least_decode_bytes(name, shape) + more

    def batches(self, name: str, rows: int) -> int:
        """Batches of so many prompts in which one model does a generation of the run."""
        return batches(self.run.documents if name == "documents" else self.run.prompts, rows)

    def cache_bytes(self, name: str, rows: int) -> int:
        """Keys and values of a batch of so many prompts, all devices together, in whole tiles; with
        those of the branches that steer.
        """
        use = self.generations[name]
        samples = rows * use.num_samples
        branches = (b.cache_bytes(samples, use.context, kernels.LANES) for b in use.branches)
        return self.model.cache_bytes(samples * use.context, kernels.LANES) + sum(branches)


@functools.cache  # A search asks for many jobs of one model.
def _parameters(model: Model) -> dict[str, int]:
    base, _ = meshes.abstract_params(TransformerLM(model.config))
    shapes, _ = meshes.abstract_params(model.module)
    trained, _ = params_lib.partition(shapes, adaptations.trainable_pattern(model.adaptation))
    return {"base": params_lib.count(base), "trained": params_lib.count(trained)}
