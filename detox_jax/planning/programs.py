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
from flax.linen import partitioning
from jax.sharding import Mesh, NamedSharding

from detox_jax.checkpoints import params as params_lib
from detox_jax.generation import slots
from detox_jax.generation.sampling import Sampling
from detox_jax.generation.schedule import Schedule
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
    """A traced function and the shapes and shardings of its arguments.

    Attributes:
      traced: the function.
      arguments: their shapes.
      around: bytes a device that are needed between two calls, whatever a call needs.
    """

    traced: jax.stages.Traced
    arguments: Any
    around: int = 0


def shard_bytes(tree: Any) -> int:
    """Bytes a device of a tree of shapes with shardings."""
    return sum(map(_shard_bytes, jax.tree.leaves(tree)))


def _shard_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    sharding: Any = leaf.sharding
    return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


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
    they are one program, which holds the same. What a smaller batch needs as it takes the place of
    this one is counted beside it.

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

    def empty(params: Any, held: Any) -> slots.Slots:
        return slots.empty(
            program, params, rows, steered_lib.steerings(steered, model, params, held)
        )

    def decode(params: Any, insertion: slots.Insertion, held: Any) -> jax.Array:
        steerings = steered_lib.steerings(steered, model, params, held)
        state = slots.empty(program, params, rows, steerings)
        state = slots.insert(program, params, state, insertion, jnp.uint32(_SEED), steerings)
        return slots.advance(program, params, state, jnp.int32(rows), steerings).tokens_RT

    params = params_lib.combine(trained, frozen) if frozen else trained
    arguments = (params, insertion, steered_lib.held(steered, mesh))
    with meshes.sharding_scope(mesh):
        state = _placed(jax.eval_shape(empty, params, arguments[2]), mesh)
        around = shard_bytes((params, arguments[2])) + _selecting_bytes(program, state, params)
        return Program(jax.jit(decode).trace(*arguments), arguments, around)


def _placed(state: slots.Slots, mesh: Mesh) -> slots.Slots:
    """The shapes of rows, with their shardings."""

    def placed(layout: slots.Layout, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec = partitioning.logical_to_mesh_axes(layout.names)
        assert spec is not None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(placed, slots.layouts_of(state), state)


def _selecting_bytes(program: slots.Program, state: slots.Slots, params: Any) -> int:
    """Bytes a device of rows, and of those that stay in a smaller batch of the largest array.

    One array after the other is selected, see `slots.select`.
    """
    num_params, rows = params_lib.count(params), state.done_R.shape[0]
    stay = smaller_batch(rows, program.max_new_tokens, program.shards, program.bucket, num_params)
    largest = max(map(_shard_bytes, jax.tree.leaves(state)))
    return shard_bytes(state) + (largest * stay // rows if stay < rows else 0)


def smaller_batch(rows: int, limit: int, shards: int, bucket: int, num_params: int) -> int:
    """The rows of the largest batch that may take the place of one, see `Schedule.may_become`."""
    schedule = Schedule(
        rows, 1, most_rows=rows, limit=limit, shards=shards, bucket=bucket, num_params=num_params
    )
    return schedule.may_become
