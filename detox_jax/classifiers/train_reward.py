"""Verb `train_reward`: a causal model that says, while it reads, how toxic a text will be."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, Any

import jax
from etils import epath

from detox_jax import output_settings, outputs, preview
from detox_jax.checkpoints import identity, places
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.classifiers import labelled_fit
from detox_jax.classifiers.labelled_batches import Labels
from detox_jax.classifiers.labelled_fit import fit_labels
from detox_jax.errors import UserError
from detox_jax.kinds import Count, Range, Seed
from detox_jax.models import reward
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel.computation import Computation
from detox_jax.preview import Step
from detox_jax.training import losses
from detox_jax.training.fit import Budget
from detox_jax.training.loop import Periods
from detox_jax.training.optimizer import AdamW
from detox_jax.training.step import Batch
from detox_jax.vocabulary import ID_SHIFT, PAD_ID, Vocabulary

# See `output_settings`.
FREE = ("output_dir", "periods", "strict", "check_only")
# For settings, see `output_settings.LEARNS`: a version before left the token out.
_LEARNS = "texts behind the token that starts a document"
# The published learning rate and clip. A head of an imported model begins at zero, and gradients of
# the rest are of its size: beside SGEAT's eps of 1e-5 these would hardly move.
_OPTIMIZER = AdamW(learning_rate=2e-5, eps=1e-8, max_grad_norm=2.0)


def reward_loss(
    model: Any, params: params_lib.Params, batch: Batch, dropout_key: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """A `step.Loss` of labelled batches, see `losses.growing_squared_error`."""
    hidden_BLD = model.apply(
        {"params": params},
        batch["tokens"],
        with_logits=False,
        enable_dropout=dropout_key is not None,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    values_BL = reward.toxicity(hidden_BLD, reward.head(model.config, params))
    is_text_BL = batch["tokens"] != PAD_ID
    return losses.growing_squared_error(
        values_BL, batch["labels"][:, 0], is_text_BL, batch["weights"]
    )


def train_reward(
    checkpoint_path: str,
    output_dir: str,
    task: Any,
    budget: Budget,
    length: Annotated[int, Range(2)] = 128,
    optimizer: AdamW | None = None,
    batch_size: Count = 100,
    random_seed: Seed = 0,
    computation: Computation | None = None,
    periods: Periods | None = None,
    strict: bool = False,
    check_only: bool = False,
) -> list[Step] | None:
    """Trains what `reward.RewardAugmented` steers by.

    Args:
      checkpoint_path: the causal model that it starts from, of the vocabulary of what is steered.
      output_dir: where checkpoints and metrics go; a rerun goes on from the last checkpoint.
      task: of labelled texts, see `tasks.classification`; its one label is the toxicity.
      budget: for how long: updates, or passes over the texts.
      length: at which texts are cut, in tokens, the one that starts a document included.
      optimizer: its settings; the published rate and clip where None.
      batch_size: texts of an update.
      random_seed: of the order.
      computation: mesh, and parts of a batch.
      periods: how often to save, validate and log.
      strict: refuse a damaged newest step, in place of going on from the one before and saying so.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: for settings that do not fit each other, the data or the checkpoint.
    """
    arguments = locals()
    from detox_jax.training import seqio_tasks  # tensorflow: not for importing this module

    optimizer, periods = optimizer or _OPTIMIZER, periods or Periods()
    computation = computation or Computation()

    # --- model and data ----------------------------------------------------------------------
    mesh = computation.create_mesh()
    task = seqio_tasks.get_task(task)
    meshes.rows_at_once(mesh, batch_size, computation.accumulation_steps)

    def settings(fingerprint: Any, spec: checkpoints.ModelSpec) -> dict[str, Any]:
        """What decides the result; by the fingerprint of the model that it starts from."""
        decided = output_settings.of_verb(
            train_reward,
            arguments,
            free=FREE,
            instead={
                "checkpoint_path": {"checkpoint": identity.described(checkpoint_path, fingerprint)},
                "task": {"data": labelled_fit.described(task)},
                "budget": output_settings.of_struct(budget),
                "optimizer": {"optimizer": output_settings.of_struct(optimizer)},
                "computation": computation.decides(spec.config.dropout_rate),
            },
        )
        return {**decided, output_settings.LEARNS: _LEARNS}

    def read_spec() -> checkpoints.ModelSpec:
        return checkpoints.read_spec(checkpoints.resolve(checkpoint_path)[0])

    def has_results() -> bool:
        return bool(checkpoints.saved_steps(epath.Path(output_dir)))

    def known() -> dict[str, Any]:
        """The settings before the model is loaded."""
        return settings(identity.fingerprint_ahead(checkpoint_path), read_spec())

    if check_only:
        preview.checked_output(output_dir)
        if outputs.check(output_dir, "train_reward", known, has_results):
            return [Step("train_reward", output_dir)]
        spec = read_spec()
        _check_start(checkpoint_path, spec, length)
        return [_preview(output_dir, spec, budget, seqio_tasks.count_documents(task))]
    if outputs.is_finished(output_dir, "train_reward", known):
        return None
    loaded = checkpoints.load_model(checkpoint_path, mesh, strict=strict)
    spec, vocabulary = loaded.spec, loaded.vocabulary
    _check_start(checkpoint_path, spec, length)
    config = dataclasses.replace(computation.configure(spec.config), param_dtype="float32")
    decided = settings(loaded.fingerprint, spec)
    labelled_fit.require_two_kinds(task)
    decides = {"source": decided["data"]["train"], "vocabulary": vocabulary.fingerprint}
    encode = functools.partial(_encode, vocabulary, length)
    objective = Labels(("toxicity",), encode, config.vocab_size, reward_loss, decides)

    output = outputs.OutputDirectory(
        output_dir, "train_reward", decided, has_results, made=places.MADE
    )
    if output.complete:
        return None
    steps = budget.steps(
        lambda: objective.batches_per_epoch(task, batch_size=batch_size, length=length)
    )

    # --- training ----------------------------------------------------------------------------
    params = params_lib.cast(loaded.params, config.parameter_dtype)
    del loaded  # In fewer bits it would lie beside what is trained.
    trained_spec = dataclasses.replace(spec, config=config)
    checkpoints.write_spec(output.path, trained_spec, vocabulary)
    state = fit_labels(
        TransformerLM(config),
        params,
        {},
        objective,
        task,
        steps=steps,
        optimizer=optimizer,
        batch_size=batch_size,
        length=length,
        computation=computation,
        periods=periods,
        seed=random_seed,
        directory=output.path,
        strict=strict,
    )
    output.finish(steps=steps, parameters=params_lib.count(state.params))
    print(f"{output_dir}: {steps} steps, {params_lib.count(state.params):,} parameters")
    return None


def _check_start(path: str, spec: checkpoints.ModelSpec, length: int) -> None:
    """Refuses a checkpoint from which no reward of texts of this length is trained."""
    if spec.adaptation is not None:
        raise UserError(f"CHECKPOINT_PATH={path}: is an adaptation; start from a whole model")
    if not 2 <= length <= spec.config.max_length:
        raise UserError(
            f"LENGTH is {length}; must be from 2 to the model's max_length {spec.config.max_length}"
        )


def _preview(
    output_dir: str, spec: checkpoints.ModelSpec, budget: Budget, texts: int | None
) -> Step:
    """What there is to train."""
    shapes, _ = meshes.abstract_params(TransformerLM(spec.config))
    copies = 2 * 3  # parameters and two moments; two steps are kept
    return labelled_fit.step(
        "train_reward", output_dir, params_lib.count(shapes), copies, budget, texts
    )


def _encode(vocabulary: Vocabulary, length: int, texts: Sequence[str]) -> list[list[int]]:
    """Ids as labelled batches want them, from which they are shifted.

    In front is the token that starts a document, as `generate` puts it before every prompt.
    """
    bos = vocabulary.bos_id
    return [[i - ID_SHIFT for i in [bos, *ids][:length]] for ids in vocabulary.encode_batch(texts)]
