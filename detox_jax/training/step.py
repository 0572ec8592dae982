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

from detox_jax.checkpoints import params as params_lib
from detox_jax.models import adaptation as adaptations
from detox_jax.models import kernels
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.training import losses

Batch = Mapping[str, Any]
# Of a model, its parameters, a batch and the key of dropout (None where there is none): the summed
# loss and the weight by which it is divided.
Loss = Callable[[Any, params_lib.Params, Batch, jax.Array | None], tuple[jax.Array, jax.Array]]


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
    """Next-token loss of a packed batch: the `Loss` of language models.

    Args:
      model: the network.
      params: all of its parameters.
      batch: arrays `[B, L]`, see `data.BatchIterator`.
      dropout_key: None where there is no dropout.

    Returns:
      The sum of the losses in nats, and the number of target tokens.
    """
    return losses.next_token_loss(
        model,
        params,
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        batch["decoder_loss_weights"],
        chunk=model.config.logits_chunk,
        decoder_segment_ids=batch["decoder_segment_ids"],
        decoder_positions=batch["decoder_positions"],
        enable_dropout=dropout_key is not None,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
    )


def train_step(
    state: TrainState,
    frozen: params_lib.Params,
    batch: Batch,
    *,
    model: Any,
    optimizer: optax.GradientTransformation,
    seed: int,
    loss: Loss = batch_loss,
    accumulation_steps: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update of the trainable parameters; the same for every adaptation and every loss.

    Where the loss or the gradient is not finite, parameters and optimizer stay as they are.

    Args:
      state: before the update.
      frozen: the other parameters; empty where all are trained.
      batch: arrays with the rows on axis 0.
      model: the network; its config has a `dropout_rate`.
      optimizer: of the trainable parameters.
      seed: of dropout, which also depends on the step.
      loss: what is minimised, divided by its weight.
      accumulation_steps: parts of the batch that are computed one after the other.

    Returns:
      The next state, and `loss` (nats a token), `grad_norm`, `tokens` of this batch: of another
      loss what it sums, and its weight.
    """
    dropout_key = None
    if model.config.dropout_rate > 0:
        dropout_key = jax.random.fold_in(jax.random.key(seed), state.step)

    def loss_fn(trainable: params_lib.Params, part: Batch, dropout_key: jax.Array | None):
        return loss(model, params_lib.combine(trainable, frozen), part, dropout_key)

    # Sums, divided by the weight of the whole batch only below, so that its parts add up.
    gradients_of = functools.partial(jax.value_and_grad(loss_fn, has_aux=True), state.params)
    if accumulation_steps == 1:
        (total, weight), gradients = gradients_of(batch, dropout_key)
    else:
        (total, weight), gradients = _accumulate(
            gradients_of, batch, dropout_key, accumulation_steps
        )
    scale = 1 / jnp.maximum(weight, 1.0)
    mean, grad_norm = total * scale, optax.global_norm(gradients) * scale

    def update(params: params_lib.Params, opt_state: optax.OptState) -> Any:
        means = jax.tree.map(lambda x: (x * scale).astype(x.dtype), gradients)
        updates, opt_state = optax.with_extra_args_support(optimizer).update(
            means, opt_state, params, grad_norm=grad_norm
        )
        return optax.apply_updates(params, updates), opt_state

    is_good = jnp.isfinite(grad_norm) & jnp.isfinite(mean)
    params, opt_state = _if_good(is_good, update, state.params, state.opt_state)
    metrics = {"loss": mean, "grad_norm": grad_norm, "tokens": weight}
    return TrainState(state.step + 1, params, opt_state), metrics


def _if_good(is_good: jax.Array, update: Callable[..., Any], *old: Any) -> Any:
    """What `update` makes of the old parameters and optimizer state, or these.

    On a CPU it is a branch, which writes over the old arrays: a choice of each number has both
    moments copied first. A GPU's host waits for a branch, and would not run ahead of the device.
    """
    if kernels.platform_in_use() == "cpu":
        return jax.lax.cond(is_good, update, lambda *old: old, *old)
    return jax.tree.map(lambda new, old: jnp.where(is_good, new, old), update(*old), old)


def _accumulate(
    gradients_of: Callable[..., Any], batch: Batch, dropout_key: jax.Array | None, num_parts: int
) -> Any:
    """Float32 sums of what `gradients_of` gives over the parts of a batch, one after the other."""

    def split(x_BL: jax.Array) -> jax.Array:
        # Every part takes its rows from all devices, so that none has to move.
        return x_BL.reshape(-1, num_parts, *x_BL.shape[1:]).swapaxes(0, 1)

    def add(sums: Any, numbered: Any) -> Any:
        index, part = numbered
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
        new = gradients_of(part, key)
        return jax.tree.map(lambda total, x: total + x.astype(total.dtype), sums, new), None

    parts = jnp.arange(num_parts), jax.tree.map(split, dict(batch))
    first = jax.tree.map(lambda x: x[0], parts[1])
    shapes = jax.eval_shape(gradients_of, first, dropout_key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes)
    sums, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda x, like: x.astype(like.dtype), sums, shapes)


def init_trainable(
    model: TransformerLM, mesh: Mesh, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """A state with freshly initialised trainable parameters, created sharded over the mesh.

    The frozen parameters are not initialised at all: they come from a checkpoint.

    Args:
      model: the network, adaptation included.
      mesh: where the parameters go.
      optimizer: of the trainable parameters.
      seed: of the random numbers; the same parameters come out on every mesh.

    Raises:
      UserError: if the mesh does not divide an axis of a parameter.
    """
    with meshes.sharding_scope(mesh):
        params = jit_init(model, mesh, seed)()
    return create_state(params, mesh, optimizer)


def jit_init(model: TransformerLM, mesh: Mesh, seed: int) -> Any:
    """What creates the trainable parameters: each device makes its own part and no other."""
    pattern = adaptations.trainable_pattern(model.adaptation)
    shardings, _ = params_lib.partition(meshes.param_shardings(model, mesh), pattern)

    def init() -> params_lib.Params:
        tokens = jnp.ones((1, 1), jnp.int32)
        variables: Any = model.init(jax.random.key(seed), tokens, enable_dropout=False)
        return params_lib.partition(variables["params"], pattern)[0]

    return jax.jit(init, out_shardings=shardings)


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
    model: Any,
    optimizer: optax.GradientTransformation,
    seed: int,
    loss: Loss = batch_loss,
    accumulation_steps: int = 1,
) -> Callable[[TrainState, params_lib.Params, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """`train_step`, compiled; the old state's memory is reused, its shardings are kept.

    Args:
      model: the network.
      optimizer: of its trainable parameters.
      seed: of dropout.
      loss: what is minimised.
      accumulation_steps: parts of a batch that are computed one after the other.
    """
    step = functools.partial(
        train_step,
        model=model,
        optimizer=optimizer,
        seed=seed,
        loss=loss,
        accumulation_steps=accumulation_steps,
    )
    return jax.jit(step, donate_argnums=0)


def jit_eval_step(
    model: Any, loss: Loss = batch_loss
) -> Callable[[params_lib.Params, params_lib.Params, Batch], tuple[jax.Array, jax.Array]]:
    """Summed loss and tokens of a batch, without dropout, compiled."""

    def eval_step(trainable: params_lib.Params, frozen: params_lib.Params, batch: Batch):
        return loss(model, params_lib.combine(trainable, frozen), batch, None)

    return jax.jit(eval_step)


def jit_figures(
    model: Any, figures: Callable[[Any, params_lib.Params, Batch], Mapping[str, Any]]
) -> Callable[[params_lib.Params, params_lib.Params, Batch], Mapping[str, Any]]:
    """An objective's `figures` of a batch, all of them in one program, compiled."""

    def of_batch(trainable: params_lib.Params, frozen: params_lib.Params, batch: Batch):
        return figures(model, params_lib.combine(trainable, frozen), batch)

    return jax.jit(of_batch)
