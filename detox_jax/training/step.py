"""One training step for every adaptation: TrainState, `train_step`, and how a state is created."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from detox_jax.models import adaptation as adaptations
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.training import losses
from detox_jax.training import params as params_lib

Batch = Mapping[str, Any]


@struct.dataclass
class TrainState:
    """What a step changes. The frozen parameters are not part of it.

    Attributes:
      step: steps taken, int32 scalar.
      params: the trainable parameters alone.
      opt_state: the optimizer's state for them.
    """

    step: jax.Array
    params: params_lib.Params
    opt_state: optax.OptState


def batch_loss(
    model: TransformerLM, params: params_lib.Params, batch: Batch, dropout_key: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Summed loss in nats and number of target tokens of a packed batch `[B, L]`."""
    logits_BLV: Any = model.apply(
        {"params": params},
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        decoder_segment_ids=batch["decoder_segment_ids"],
        decoder_positions=batch["decoder_positions"],
        enable_dropout=dropout_key is not None,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    return losses.cross_entropy(
        logits_BLV, batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    )


def train_step(
    state: TrainState,
    frozen: params_lib.Params,
    batch: Batch,
    *,
    model: TransformerLM,
    optimizer: optax.GradientTransformation,
    seed: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update of the trainable parameters; the same for every adaptation.

    Returns:
      The next state, and `loss` (nats a token), `grad_norm`, `tokens` of this batch.
    """
    dropout_key = None
    if model.config.dropout_rate > 0:
        dropout_key = jax.random.fold_in(jax.random.key(seed), state.step)

    def loss_fn(trainable: params_lib.Params) -> tuple[jax.Array, jax.Array]:
        params = params_lib.combine(trainable, frozen)
        total, tokens = batch_loss(model, params, batch, dropout_key)
        return total / jnp.maximum(tokens, 1.0), tokens

    (loss, tokens), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    metrics = {"loss": loss, "grad_norm": optax.global_norm(gradients), "tokens": tokens}
    return TrainState(state.step + 1, params, opt_state), metrics


def init_trainable(
    model: TransformerLM, mesh: Mesh, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """A state with freshly initialised trainable parameters, created sharded over the mesh.

    The frozen parameters are not initialised at all: they come from a checkpoint.
    """
    pattern = adaptations.trainable_pattern(model.adaptation)
    shardings, _ = params_lib.partition(meshes.param_shardings(model, mesh), pattern)

    def init() -> params_lib.Params:
        tokens = jnp.ones((1, 1), jnp.int32)
        variables: Any = model.init(jax.random.key(seed), tokens, enable_dropout=False)
        return params_lib.partition(variables["params"], pattern)[0]

    with meshes.sharding_scope(mesh):
        params = jax.jit(init, out_shardings=shardings)()
    return create_state(params, mesh, optimizer)


def create_state(
    params: params_lib.Params, mesh: Mesh, optimizer: optax.GradientTransformation
) -> TrainState:
    """Step 0 for given trainable parameters; the optimizer's moments are sharded like them."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(params, mesh, optimizer))
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    step = jax.device_put(jnp.zeros((), jnp.int32), shardings.step)
    return TrainState(step, params, opt_state)


def abstract_state(
    params: params_lib.Params, mesh: Mesh, optimizer: optax.GradientTransformation
) -> TrainState:
    """Shapes, dtypes and shardings of step 0 for trainable parameters, or for their shapes."""

    def struct(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    opt_state = optax.tree.map_params(
        optimizer,
        lambda x, param: struct(x, param.sharding),
        jax.eval_shape(optimizer.init, params),
        params,
        transform_non_params=lambda x: struct(x, meshes.replicated(mesh)),
    )
    step: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=meshes.replicated(mesh))
    return TrainState(step, jax.tree.map(lambda x: struct(x, x.sharding), params), opt_state)


def jit_train_step(
    model: TransformerLM, optimizer: optax.GradientTransformation, seed: int
) -> Callable[[TrainState, params_lib.Params, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """`train_step`, compiled; the old state's memory is reused, its shardings are kept."""
    step = functools.partial(train_step, model=model, optimizer=optimizer, seed=seed)
    return jax.jit(step, donate_argnums=0)


def jit_eval_step(
    model: TransformerLM,
) -> Callable[[params_lib.Params, params_lib.Params, Batch], tuple[jax.Array, jax.Array]]:
    """Summed loss and tokens of a batch, without dropout, compiled."""

    def eval_step(trainable: params_lib.Params, frozen: params_lib.Params, batch: Batch):
        return batch_loss(model, params_lib.combine(trainable, frozen), batch, None)

    return jax.jit(eval_step)
