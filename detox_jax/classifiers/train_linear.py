"""Verb `train_linear`: a map of the final hidden state, trained on clean and on toxic text."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from detox_jax import output_settings, outputs, preview
from detox_jax.checkpoints import array_file, identity
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.classifiers import labelled_fit
from detox_jax.classifiers.labelled_batches import Labels
from detox_jax.classifiers.labelled_fit import fit_labels
from detox_jax.errors import UserError
from detox_jax.kinds import Count, Positive, Range, Seed
from detox_jax.models.linear_edit import FILE, SWITCHES, LinearEdit
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

TRAINING_DIR = "training"
# See `output_settings`.
FREE = ("output_dir", "computation", "periods", "strict", "check_only")
_PARAMS = "linear_edit"  # beside the base's own
# The published learning rate, without the decay of SGEAT's training. Gradients carry SCALE, 1e-3,
# and are some 1e-7: beside SGEAT's eps of 1e-5 updates would be a few percent of the rate.
_OPTIMIZER = AdamW(learning_rate=1e-2, weight_decay=0.0, eps=1e-8)


@dataclasses.dataclass(frozen=True)
class LinearLoss:
    """Next-token loss under the edit: a `step.Loss` of labelled batches.

    The clean switch is at 1 in clean text and at -1 in toxic text, the domain's at 1 in both.

    Attributes:
      threshold: from which toxicity on a text is toxic.
      scale: the published epsilon.
    """

    threshold: float
    scale: float

    def __call__(
        self, model: Any, params: params_lib.Params, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """See `step.Loss`: summed loss in nats, and number of target tokens, by their weights."""
        del dropout_key  # The base is read as it decodes.
        base = {name: tree for name, tree in params.items() if name != _PARAMS}
        clean_B = jnp.where(batch["labels"][:, 0] >= self.threshold, -1.0, 1.0)
        switch_B1S = jnp.stack([clean_B, jnp.ones_like(clean_B)], axis=-1)[:, None]
        edit = LinearEdit.of(_scaled(params[_PARAMS], self.scale), switch_B1S)
        tokens_BL = batch["tokens"]
        weights_BL = (tokens_BL[:, 1:] != PAD_ID) * batch["weights"][:, None]
        return losses.next_token_loss(
            model,
            base,
            tokens_BL[:, :-1],
            tokens_BL[:, 1:],
            weights_BL,
            chunk=model.config.logits_chunk,
            enable_dropout=False,
            edits=(edit,),
        )


def train_linear(
    checkpoint_path: str,
    output_dir: str,
    task: Any,
    budget: Budget,
    rank: Count = 1000,
    scale: Positive = 1e-3,
    spread: Positive = 1e-2,
    threshold: Annotated[float, Range(0.0, 1.0, open=True)] = 0.5,
    length: Annotated[int, Range(2)] = 256,
    optimizer: AdamW | None = None,
    batch_size: Count = 32,
    random_seed: Seed = 0,
    computation: Computation | None = None,
    periods: Periods | None = None,
    strict: bool = False,
    check_only: bool = False,
) -> list[Step] | None:
    """Trains what `linear.LinearSteering` steers by; the model itself stays as it is.

    Args:
      checkpoint_path: the model that will be steered.
      output_dir: where the map and the manifest go, and in `training/` the checkpoints to go on
        from and metrics.
      task: of labelled texts, see `tasks.classification`; its one label is the toxicity.
      budget: for how long: updates, or passes over the texts.
      rank: of the map.
      scale: by which it is multiplied, the published epsilon.
      spread: standard deviation of the matrices at first.
      threshold: from which toxicity on a text is toxic.
      length: at which texts are cut, in tokens, the one that starts a document included.
      optimizer: its settings; the published ones where None.
      batch_size: texts of an update.
      random_seed: of the first matrices and of the order.
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

    def settings(fingerprint: Any) -> dict[str, Any]:
        """What decides the result; by the fingerprint of the model that it starts from."""
        return output_settings.of_verb(
            train_linear,
            arguments,
            free=FREE,
            instead={
                "checkpoint_path": {"checkpoint": identity.described(checkpoint_path, fingerprint)},
                "task": {"data": labelled_fit.described(task)},
                "budget": output_settings.of_struct(budget),
                "optimizer": {"optimizer": output_settings.of_struct(optimizer)},
            },
        )

    def known() -> dict[str, Any]:
        """The settings before the model is loaded."""
        return settings(identity.fingerprint_ahead(checkpoint_path))

    if check_only:
        preview.checked_output(output_dir)
        if outputs.check(output_dir, "train_linear", known):
            return [Step("train_linear", output_dir)]
        spec = checkpoints.read_spec(checkpoints.resolve(checkpoint_path)[0])
        _check_length(length, spec)
        return [_preview(output_dir, spec, rank, budget, seqio_tasks.count_documents(task))]
    if outputs.is_finished(output_dir, "train_linear", known):
        return None
    loaded = checkpoints.load_model(checkpoint_path, mesh, strict=strict)
    _check_length(length, loaded.spec)
    decided = settings(loaded.fingerprint)
    labelled_fit.require_two_kinds(task, threshold)
    decides = {"source": decided["data"]["train"], "vocabulary": loaded.vocabulary.fingerprint}
    encode = functools.partial(_encode, loaded.vocabulary, length)
    size = loaded.spec.config.vocab_size
    objective = Labels(("toxicity",), encode, size, LinearLoss(threshold, scale), decides)

    output = outputs.OutputDirectory(output_dir, "train_linear", decided)
    if output.complete:
        return None
    steps = budget.steps(
        lambda: objective.batches_per_epoch(task, batch_size=batch_size, length=length)
    )

    # --- training ------------------------------------------------------------------------------
    directory = output.path / TRAINING_DIR
    directory.mkdir(parents=True, exist_ok=True)
    first = _first(rank, loaded.module.config.emb_dim, spread, random_seed)
    state = fit_labels(
        TransformerLM(computation.configure(loaded.module.config), loaded.module.adaptation),
        meshes.to_mesh({_PARAMS: first}, meshes.replicated(mesh)),
        loaded.params,
        objective,
        task,
        steps=steps,
        optimizer=optimizer,
        batch_size=batch_size,
        length=length,
        computation=computation,
        periods=periods,
        seed=random_seed,
        directory=directory,
        strict=strict,
    )
    array_file.write(output, FILE, meshes.to_host(_scaled(state.params[_PARAMS], scale)))
    output.finish(steps=steps, parameters=params_lib.count(state.params))
    print(f"{output_dir}: {steps} steps, {params_lib.count(state.params):,} parameters")
    return None


def _check_length(length: int, spec: checkpoints.ModelSpec) -> None:
    # The last token is predicted and not read.
    if not 2 <= length <= spec.config.max_length + 1:
        raise UserError(
            f"LENGTH is {length}; must be from 2 to {spec.config.max_length + 1}, one more than "
            "the model's max_length"
        )


def _preview(
    output_dir: str, spec: checkpoints.ModelSpec, rank: int, budget: Budget, texts: int | None
) -> Step:
    """What there is to train."""
    parameters = 2 * len(SWITCHES) * spec.config.emb_dim * rank
    # Two steps of parameters and two moments, and the map.
    copies = 2 * 3 + 1
    return labelled_fit.step("train_linear", output_dir, parameters, copies, budget, texts)


def _first(rank: int, width: int, spread: float, seed: int) -> dict[str, np.ndarray]:
    """Both matrices of every switch before training."""
    noise = np.random.default_rng(seed)
    shape = (len(SWITCHES), width, rank)
    return {n: (spread * noise.normal(size=shape)).astype(np.float32) for n in ("down", "up")}


def _scaled(arrays: Any, scale: float) -> dict[str, Any]:
    """The arrays of a `LinearEdit` of what is trained."""
    return {"down": arrays["down"], "up": scale * arrays["up"]}


def _encode(vocabulary: Vocabulary, length: int, texts: Sequence[str]) -> list[list[int]]:
    """Ids of whole documents as labelled batches want them, from which they are shifted."""
    bos, eos = vocabulary.bos_id, vocabulary.eos_id
    return [
        [i - ID_SHIFT for i in [bos, *ids, eos][:length]] for ids in vocabulary.encode_batch(texts)
    ]
