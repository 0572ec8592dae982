"""TransformerLM under T5X's own train.py, eval.py and infer.py; the only importer of t5x.

gin files in `gin_configs/t5x/` bind these names to T5X's. Nothing else of the package needs T5X:
its checkpoints are read and written in `interop.t5x_checkpoints`, without it.
"""

# Where T5X is not installed, pyright takes `t5x` for this file.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from clu.data import dataset_iterator
from etils import epath
from flax import core

from detox_jax import atomic_files
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.interop import t5x_axes, t5x_lengths, t5x_restore
from detox_jax.models import adaptation as adaptations
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.training import cached_tasks, data, seqio_tasks
from detox_jax.training.optimizer import AdamW, require_masters

try:
    from t5x import decoding, models, optimizers, utils
except ImportError as error:
    raise ImportError(
        f"T5X is not installed ({error}); pip install 'detox-jax[t5x]', or see docs/T5X.md"
    ) from error


class LanguageModel(models.DecoderOnlyModel):
    """What T5X's scripts take for a model: network, vocabulary, optimizer, decoding.

    The loss is nats a token, as in `detox-jax train`, not T5X's sum over the batch, and every
    document starts with the vocabulary's own token, not with padding.
    """

    def __init__(
        self,
        config: TransformerConfig,
        vocabulary: Any,
        adaptation: adaptations.Adaptation | None = None,
        optimizer: AdamW | None = None,
        train_steps: int = 0,
        decode_fn: Callable[..., Any] = decoding.temperature_sample,
        max_new_tokens: int | None = None,
        task_feature_lengths: Mapping[str, int] | None = None,
    ):
        """Builds the model.

        Args:
          config: sizes and architecture.
          vocabulary: the task's, a `tasks.vocabularies.SeqioBPEVocabulary`.
          adaptation: what is added to the base and trained alone; None trains everything.
          optimizer: its settings; None where nothing is trained.
          train_steps: updates of the whole run, where a schedule ends.
          decode_fn: T5X's, with its settings bound.
          max_new_tokens: of a continuation; until the row is full where None.
          task_feature_lengths: of the rows that it is to read; unchecked where None.

        Raises:
          UserError: if the vocabulary has another size than the embedding, parameters would be
            trained in fewer bits than float32, or rows do not fit the model or what is decoded.
        """
        t5x_restore.end_in_one_line()
        t5x_lengths.check(task_feature_lengths, config.max_length, max_new_tokens)
        if optimizer is not None:
            require_masters(config.param_dtype)
        if config.vocab_size < vocabulary.vocab_size:
            raise UserError(
                f"the model has vocab_size {config.vocab_size}, but the vocabulary has "
                f"{vocabulary.vocab_size} ids; set VOCAB_SIZE={vocabulary.vocab_size}"
            )
        if max_new_tokens is not None:
            # T5X counts steps behind the tokens of a row that are not 0, and our first one is not.
            decode_fn = functools.partial(decode_fn, max_decode_steps=max_new_tokens - 1)
        super().__init__(
            module=TransformerLM(config, adaptation),
            vocabulary=vocabulary,
            optimizer_def=optimizer and optimizer_def(optimizer, train_steps, adaptation),
            decode_fn=decode_fn,
            feature_converter_cls=functools.partial(
                self.FEATURE_CONVERTER_CLS, bos_id=vocabulary.bos_id
            ),
            loss_normalizing_factor="NUM_REAL_TARGET_TOKENS",
        )

    def get_initial_variables(
        self, rng: jax.Array, input_shapes: Mapping[str, Any], input_types: Any = None
    ) -> Any:
        """T5X's; its eval.py names no types and would then make tokens of floats."""
        del input_types
        variables = super().get_initial_variables(
            rng, input_shapes, dict.fromkeys(input_shapes, np.int32)
        )
        return t5x_axes.known_to_t5x(variables)


# --- optimizer --------------------------------------------------------------------------------


def optimizer_def(
    optimizer: AdamW, train_steps: int, adaptation: adaptations.Adaptation | None = None
) -> optimizers.OptimizerDef:
    """Our optimizer for T5X; under an adaptation it knows the trained parameters alone."""
    transformation = optimizer.transformation(train_steps)
    if adaptation is None:
        return optimizers.OptaxWrapper(transformation)
    return TrainedOnly(transformation, adaptations.trainable_pattern(adaptation))


def learning_rate(optimizer: AdamW, train_steps: int) -> optax.Schedule:
    """The learning rate by step, which T5X's trainer only logs."""
    return optimizer.learning_rate_at(train_steps)


class TrainedOnly(optimizers.OptaxWrapper):
    """An optax optimizer of the parameters whose path matches a pattern.

    The others have no state, and their arrays are handed on untouched (adding zero would already
    turn a -0.0 into 0.0, and a base is recognised by its bits).
    """

    def __init__(self, transformation: optax.GradientTransformation, pattern: str):
        super().__init__(transformation)
        self._pattern = pattern

    def _split(self, tree: Any) -> tuple[Any, Any]:
        return params_lib.partition(core.unfreeze(tree), self._pattern)

    def init_state(self, params: Any) -> Any:
        """State for the trained parameters."""
        return super().init_state(self._split(params)[0])

    def apply_gradient(self, hyper_params: Any, params: Any, state: Any, grads: Any) -> Any:
        """Updates the trained parameters.

        Args:
          hyper_params: T5X's.
          params: all parameters, frozen ones included.
          state: the optimizer's, of the trained parameters alone.
          grads: of all parameters.

        Returns:
          All parameters, the frozen ones as they were, and the new state.
        """
        trained, frozen = self._split(params)
        updated, state = super().apply_gradient(hyper_params, trained, state, self._split(grads)[0])
        combined = params_lib.combine(updated, frozen)
        is_frozen_dict = isinstance(params, core.FrozenDict)
        return core.freeze(combined) if is_frozen_dict else combined, state

    def derive_logical_axes(self, optimizer: Any, param_logical_axes: Any) -> Any:
        """The axes of parameters and state, for T5X's partitioner."""
        trained_axes, _ = self._split(param_logical_axes)
        trained = optimizer.replace(target=self._split(optimizer.target)[0])
        return super().derive_logical_axes(trained, trained_axes).replace(target=param_logical_axes)


# --- data -------------------------------------------------------------------------------------


class Batches(dataset_iterator.DatasetIterator):
    """`training.data`'s batches for T5X; with T5X's `save_dataset`, resumed where they stood.

    T5X restores a position also from what a run starts from; only that of this run's own
    checkpoints, in `model_dir`, is gone to.

    Attributes:
      element_spec: shape and dtype of every array of a batch.
    """

    def __init__(
        self, make: Callable[[], data.BatchIterator], shape: tuple[int, int], model_dir: str
    ):
        self._make = make
        self._model_dir = checkpoints.absolute(epath.Path(model_dir))
        self._iterator = make()
        names = ("input_tokens", "target_tokens", "loss_weights", "segment_ids", "positions")
        spec = dataset_iterator.ArraySpec(np.int32, shape)
        self._spec = {f"decoder_{name}": spec for name in names}

    @property
    def element_spec(self) -> Mapping[str, dataset_iterator.ArraySpec]:
        """Shape and dtype of every array of a batch."""
        return self._spec

    def __next__(self) -> Mapping[str, np.ndarray]:
        return next(self._iterator)

    def reset(self) -> None:
        """Goes back to the first batch."""
        self._iterator = self._make()

    def save(self, filename: epath.Path) -> None:
        """Writes the position in the data."""
        # T5X has looked at the first batch when it saves the checkpoint before the first step.
        is_start = re.search(r"/checkpoint_0[./]", os.fspath(filename))
        state = self._make().state() if is_start else self._iterator.state()
        atomic_files.write_json(epath.Path(filename), state)

    def restore(self, filename: epath.Path) -> None:
        """Goes to a position that `save` wrote."""
        path = checkpoints.absolute(epath.Path(filename))
        if path.is_relative_to(self._model_dir):
            self._iterator.restore(json.loads(path.read_text()))


def get_dataset(
    cfg: Any,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Callable[..., Any],
    num_epochs: int | None = None,
    continue_from_last_checkpoint: bool = False,
    *,
    model_dir: str,
) -> Batches:
    """T5X's `get_dataset_fn`: the batches that `detox-jax train` sees, in the same order.

    T5X's own repeats the data before shuffling, which mixes the epochs of a small corpus.

    Args:
      cfg: T5X's DatasetConfig; `pack` and `shuffle` are always on.
      shard_id: which rows are this host's.
      num_shards: of how many.
      feature_converter_cls: unused; the batches are converted already.
      num_epochs: unused; endless.
      continue_from_last_checkpoint: unused; T5X restores the position by itself.
      model_dir: where this run's checkpoints are.

    Raises:
      UserError: if the task, a length or the seed is missing, or T5X could not save.
    """
    del feature_converter_cls, num_epochs, continue_from_last_checkpoint
    if str(checkpoints.absolute(epath.Path(model_dir))) != str(epath.Path(model_dir)):
        # T5X would say so only at the first checkpoint.
        raise UserError(
            f"MODEL_DIR {model_dir}: T5X saves to absolute paths alone; put $PWD before it"
        )
    task = seqio_tasks.get_task(cfg.mixture_or_task_name)
    length = cfg.task_feature_lengths.get("targets")
    if not length or cfg.seed is None:
        raise UserError(
            f"TASK_FEATURE_LENGTHS is {dict(cfg.task_feature_lengths)} and RANDOM_SEED {cfg.seed}; "
            "set {'targets': length} and a number"
        )
    size = cfg.batch_size // num_shards
    make = functools.partial(
        data.BatchIterator,
        task,
        batch_size=cfg.batch_size,
        length=length,
        seed=cfg.seed,
        split=cfg.split,
        rows=range(shard_id * size, (shard_id + 1) * size),
        use_cached=cfg.use_cached,
    )
    return Batches(make, (size, length), model_dir)


def get_training_eval_datasets(cfg: Any, *arguments: Any, **options: Any) -> Mapping[str, Any]:
    """T5X's `train_eval_get_dataset_fn`; a split that is not cached is read from its source.

    Args:
      cfg: T5X's DatasetConfig.
      *arguments: T5X's own.
      **options: T5X's own.
    """
    task = seqio_tasks.get_task(cfg.mixture_or_task_name)
    if cfg.use_cached and not cached_tasks.is_cached(task, cfg.split):
        cfg = dataclasses.replace(cfg, use_cached=False)
    return utils.get_training_eval_datasets(cfg, *arguments, **options)
