"""The programs that `train` and `generate` run, for a mesh that need not exist, from shapes alone.

The functions are the verbs' own: `training.step.jit_train_step`, and `insert` and `advance` of
`generation.slots`. Only their arguments are shapes here, so that 530B parameters take no memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from detox_jax.checkpoints import params as params_lib
from detox_jax.generation import slots
from detox_jax.generation.sampling import Sampling
from detox_jax.parallel import mesh as meshes
from detox_jax.planning import steered as steered_lib
from detox_jax.planning.models import Model
from detox_jax.planning.steered import Steered
from detox_jax.training import step as steps
from detox_jax.training.optimizer import AdamW

BATCH_FIELDS = (
    "decoder_input_tokens",
    "decoder_target_tokens",
    "decoder_loss_weights",
    "decoder_segment_ids",
    "decoder_positions",
)
# What they are changes no shape.
_SEED, _END_IDS = 0, (1,)


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced function and the shapes and shardings of its arguments."""

    traced: jax.stages.Traced
    arguments: Any


def shard_bytes(tree: Any) -> int:
    """Bytes a device of a tree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def train_step(
    model: Model,
    optimizer: AdamW,
    mesh: Mesh,
    *,
    batch_size: int,
    length: int,
    total_steps: int,
    accumulation_steps: int = 1,
) -> Program:
    """The update that `train` jits, traced for a batch of packed rows.

    Args:
      model: with the adaptation that is trained.
      optimizer: its settings.
      mesh: of devices that need not exist.
      batch_size: packed rows an update.
      length: of a row, in tokens.
      total_steps: of the run, where a schedule ends.
      accumulation_steps: parts of a batch that are computed one after the other.

    Raises:
      UserError: if the mesh does not divide the model.
    """
    transformation = optimizer.transformation(total_steps)
    trained, frozen = model.params(mesh)
    state = steps.abstract_state(trained, mesh, transformation)
    rows = jax.ShapeDtypeStruct(
        (batch_size, length), jnp.int32, sharding=meshes.batch_sharding(mesh)
    )
    step: Any = steps.jit_train_step(
        model.module, transformation, _SEED, accumulation_steps=accumulation_steps
    )
    with meshes.sharding_scope(mesh):
        arguments = (state, frozen, dict.fromkeys(BATCH_FIELDS, rows))
        return Program(step.trace(*arguments), arguments)


def decode(
    model: Model,
    sampling: Sampling,
    mesh: Mesh,
    *,
    num_rows: int,
    prompt_length: int,
    num_samples: int,
    max_new_tokens: int,
    steered: Sequence[Steered] = (),
) -> Program:
    """Prefill and loop of decoding steps that `generate` runs, traced for a batch of prompts.

    It compiles them apart, so that rows can be filled again, and keeps the cache between them; here
    they are one program, which holds the same.

    Args:
      model: that generates.
      sampling: how tokens are drawn.
      mesh: of devices that need not exist.
      num_rows: prompts of a batch.
      prompt_length: of a prompt, padded, in tokens.
      num_samples: continuations of each.
      max_new_tokens: the limit for each.
      steered: the methods of STEERING.

    Raises:
      UserError: if the mesh does not divide the model, or one that steers it.
    """
    generating = model.generating
    trained, frozen = generating.params(mesh)
    sharding = meshes.batch_sharding(mesh)
    rows = num_rows * num_samples

    def array(shape: tuple[int, ...], dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    insertion = slots.Insertion(
        prompts_NP=array((num_rows, prompt_length)),
        lengths_N=array((num_rows,)),
        words_N2=array((num_rows, 2), jnp.uint32),
        source_R=array((rows,)),
        sample_R=array((rows,)),
    )
    program = slots.Program(
        generating.module,
        sampling,
        max_new_tokens,
        _END_IDS,
        prompt_length,
        meshes.num_batch_shards(mesh),
    )

    def decode(params: Any, insertion: slots.Insertion, held: Any) -> jax.Array:
        steerings = steered_lib.steerings(steered, model, params, held)
        state = slots.empty(program, params, rows, steerings)
        state = slots.insert(program, params, state, insertion, jnp.uint32(_SEED), steerings)
        return slots.advance(program, params, state, jnp.int32(rows), steerings).tokens_RT

    params = params_lib.combine(trained, frozen) if frozen else trained
    arguments = (params, insertion, steered_lib.held(steered, mesh))
    with meshes.sharding_scope(mesh):
        return Program(jax.jit(decode).trace(*arguments), arguments)
