"""Verb `train`: from scratch or from a checkpoint, the whole model or an adaptation."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from jax.sharding import Mesh

from detox_jax import chat, output_settings, outputs, preview
from detox_jax.checkpoints import identity, places
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.errors import UserError
from detox_jax.kinds import Count, Seed
from detox_jax.models import adaptation as adaptations
from detox_jax.models import blocks, kernels
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.output_settings import NOT_YET, NotYet
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel.computation import Computation
from detox_jax.preview import Step
from detox_jax.tags import Tags
from detox_jax.training import base_model, wandb_writer
from detox_jax.training.fit import Budget, fit
from detox_jax.training.frontier import Frontier, Probe, Rule, Watch
from detox_jax.training.loop import Periods
from detox_jax.training.objective import LanguageModeling, Objective
from detox_jax.training.optimizer import AdamW, require_masters
from detox_jax.vocabulary import Vocabulary

FREE = (
    "model_dir",
    "periods",
    "strict",
    "starts_from",
    "check_only",
    "coming",
)  # see `output_settings`

_FEW = 8  # documents of a packed row: as few as this may be no batch, which a check counts
_NO_MODEL = "random weights"  # in the place of a fingerprint
# Of a probe behind tags; for settings, see `output_settings.LEARNS`: a version before read step 0
# behind them too.
_FROM_STEP_0 = "from step 0 without tags"
_NO_BASE = (
    "ADAPTATION needs a model to adapt: set INITIAL_CHECKPOINT_PATH, or ADAPTATION=None to train "
    "from scratch"
)


@dataclasses.dataclass(frozen=True)
class Base:
    """What training starts from."""

    path: str
    params: params_lib.Params
    spec: checkpoints.ModelSpec
    fingerprint: str


def train(
    model: TransformerConfig | None,
    model_dir: str,
    mixture_or_task_name: Any,
    task_feature_lengths: Mapping[str, Count],
    budget: Budget,
    initial_checkpoint_path: str | None = None,
    adaptation: adaptations.Adaptation | None = None,
    optimizer: AdamW | None = None,
    batch_size: Count = 512,
    random_seed: Seed = 0,
    computation: Computation | None = None,
    periods: Periods | None = None,
    cache_dir: str | None = None,
    strict: bool = False,
    objective: Objective | None = None,
    probe: Probe | None = None,
    starts_from: str | None = "INITIAL_CHECKPOINT_PATH",
    check_only: bool = False,
    coming: Sequence[str] = (),
) -> list[Step] | None:
    """Trains a model and leaves it in `model_dir`.

    Args:
      model: sizes; None takes those of the initial checkpoint. What is trained is float32; what is
        frozen stays in the checkpoint's dtype.
      model_dir: where checkpoints and metrics go; a rerun resumes from the last checkpoint.
      mixture_or_task_name: a seqio task or mixture, or its name.
      task_feature_lengths: `{"targets": length}`, the packed length in tokens.
      budget: for how long: updates, or passes over the packed data; see `Budget`.
      initial_checkpoint_path: what to start from; random weights where None.
      adaptation: what to add and train; None trains the whole model.
      optimizer: its settings; SGEAT's where None.
      batch_size: packed rows an update, over all hosts.
      random_seed: of initialisation, data order and dropout.
      computation: how it is computed, see `Computation`; on all devices, as the model says, where
        None.
      periods: how often to save, validate (tasks with a validation split) and log, see `Periods`.
      cache_dir: where `seqio_cache_tasks` wrote the task; encoded on the way where None.
      strict: refuse a damaged newest step, in place of going on from the one before and saying so.
      objective: what is minimised; the loss of every token where None. One that reads the base, as
        a KL does, takes its logits from the same parameters without the adaptation; of a model that
        is trained whole a frozen copy of the base is held beside it.
      probe: measures toxicity and perplexity every so many steps, and with a budget of perplexity
        ends the training; `model_dir` then holds the least toxic step within it (`probe`).
      starts_from: the macro by which another run starts from a step of this one, which a run that
        diverges names; None where there is none.
      check_only: check what can be checked without work, and return the steps (`preview`).
      coming: where `check_only`, directories that an earlier step of the same run writes.

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: for settings that do not fit each other, the data or the checkpoint.
    """
    arguments = locals()
    # tensorflow: not for `import detox_jax.training.train`
    from detox_jax.training import cached_tasks, data, mixtures, seqio_tasks

    wandb_writer.check()
    optimizer, periods = optimizer or AdamW(), periods or Periods()
    computation = computation or Computation()
    objective = _with_cache(objective or LanguageModeling(), cache_dir)

    # --- model and data ---
    mesh = computation.create_mesh()
    arguments["objective"] = objective
    if check_only and isinstance(mixture_or_task_name, preview.Coming):
        tags = getattr(mixture_or_task_name, "tags", NOT_YET)
        return [_preview(arguments, mesh, computation, None, None, None, tags)]
    task = seqio_tasks.get_task(mixture_or_task_name)
    if cache_dir is not None:
        cached_tasks.add_cache_dir(cache_dir)
    vocabulary = data.vocabulary_of(task)
    if check_only:
        documents = seqio_tasks.count_documents(task)
        step = _preview(
            arguments, mesh, computation, task, vocabulary, documents, seqio_tasks.tags_of(task)
        )
        if step.counts:  # There is something to do, and the lengths are known.
            ahead = _fingerprints_ahead(initial_checkpoint_path)
            length = task_feature_lengths["targets"]
            objective.check(task, length=length, base=ahead)
            passes = budget.epochs or math.inf
            if documents is not None and documents * passes <= _FEW * batch_size:
                budget.steps(
                    lambda: objective.batches_per_epoch(task, batch_size=batch_size, length=length)
                )
        return [step]
    known = functools.partial(_settings_ahead, arguments, computation, task, mesh)
    if outputs.is_finished(model_dir, "train", known):  # No model is loaded for that.
        if initial_checkpoint_path is not None:
            checkpoints.renew_base(epath.Path(model_dir), initial_checkpoint_path)
        return None
    base = _load_initial(initial_checkpoint_path, mesh, adaptation, vocabulary.fingerprint, strict)
    config = computation.configure(_resolve_config(model, base, vocabulary))
    length = _check_lengths(task_feature_lengths, config)
    rows_at_once = meshes.rows_at_once(mesh, batch_size, computation.accumulation_steps)
    with meshes.sharding_scope(mesh):
        kernel, why = kernels.choose(config, rows_at_once, length)
        by_blocks = kernel is None and blocks.trains_in_blocks(config, rows_at_once, length)
    objective.check(task, length=length, base=(base.fingerprint if base else _NO_MODEL,))
    if objective.reads_base() and base is None:
        raise UserError("KL_TO_BASE needs a base to stay near to: set INITIAL_CHECKPOINT_PATH")
    if probe is not None:
        fits = {"vocabulary": vocabulary, "max_length": config.max_length}
        tags = seqio_tasks.tags_of(task)
        probe.check(**fits, **_known_tags(tags, initial_checkpoint_path))
    rows = meshes.local_rows(mesh, batch_size)
    batches = objective.batches(
        task, batch_size=batch_size, length=length, seed=random_seed, rows=rows
    )

    of_step_0 = _probe_of_step_0(probe, initial_checkpoint_path)

    # --- what decides the result ---
    settings = _settings(
        arguments,
        config.numerics(),
        batches.identity,
        base and base.fingerprint,
        None if probe is None else _probe_settings(probe, config, vocabulary, of_step_0),
    )
    output = outputs.OutputDirectory(
        model_dir, "train", settings, lambda: _has_steps(model_dir), made=places.MADE
    )
    if output.complete:
        if base is not None:  # What is taken over is of another place, with another way to it.
            checkpoints.renew_base(output.path, base.path, always=output.is_taken_over)
        return None
    steps = budget.steps(
        lambda: objective.batches_per_epoch(task, batch_size=batch_size, length=length)
    )

    # --- what a checkpoint means: model.json, vocabulary ---
    spec = _model_spec(config, adaptation, base, vocabulary, output.path)
    checkpoints.write_spec(output.path, spec, vocabulary)
    if base is not None and adaptation is None:
        checkpoints.keep_origin(base.path, output.path)
    if (about := chat.said(vocabulary, seqio_tasks.is_of_answers(task))) is not None:
        print(f"{model_dir}: {about}")
    if kernel is None:
        why = f"{'attention in blocks' if by_blocks else 'plain attention'}, since {why}"
    print(f"{model_dir}: {why}")
    about = adaptations.advice(adaptation, config.emb_dim, optimizer.learning_rate, steps)
    if about is not None:
        print(f"{model_dir}: {about}")

    # --- training ---
    params, frozen, held = None, {}, {}
    if base is not None and objective.reads_base():
        held = base_model.held(base.params, adaptations.trainable_pattern(adaptation))
        if held:
            print(f"{model_dir}: a frozen copy of the base, {params_lib.count(held):,} parameters")
    if base is not None and adaptation is None:
        # A checkpoint may be stored in fewer bits than training needs.
        params = params_lib.cast(base.params, config.parameter_dtype)
    elif base is not None:
        frozen = base.params
    base = None  # Its memory is needed, or is that of what is trained.
    validation = None
    if periods.eval and seqio_tasks.has_split(task, "validation"):
        if unread := mixtures.without_split(task, "validation"):
            print(f"{model_dir}: no split 'validation', so not in its loss: {', '.join(unread)}")
        mixtures.check_parts(task, "validation", but=unread)
        validation = functools.partial(
            objective.validation_batches,
            task,
            batch_size=batch_size,
            length=length,
            max_batches=periods.eval_steps,
            rows=rows,
        )
    watch, frontier = None, Frontier(Rule(None) if probe is None else probe.rule)
    if probe is not None:
        at_first = None if of_step_0 is None else of_step_0.open(spec, vocabulary, mesh)
        watch = Watch(probe.open(spec, vocabulary, mesh), probe.period, probe.rule, at_first)
        if probe.rule.budget is not None:
            print(f"{model_dir}: {_said_of_budget(probe.rule.budget, initial_checkpoint_path)}")
    state = fit(
        TransformerLM(config, adaptation),
        params,
        {**frozen, **held},
        objective,
        batches,
        validation,
        steps=steps,
        optimizer=optimizer,
        computation=computation,
        periods=periods,
        seed=random_seed,
        directory=output.path,
        strict=strict,
        starts_from=starts_from if adaptation is None else None,
        watch=watch,
        frontier=frontier,
    )
    planned, steps = steps, int(state.step)  # Fewer, where a probe took an earlier one.
    trained, untouched = params_lib.count(state.params), params_lib.count(frozen)
    output.finish(
        steps=steps,
        parameters={"trained": trained, "frozen": untouched},
        **({} if watch is None else {"frontier": frontier.summary(planned)}),
    )
    print(f"{model_dir}: {steps} steps, {trained:,} parameters trained, {untouched:,} frozen")
    return None


def _with_cache(objective: Objective, cache_dir: str | None) -> Objective:
    """The objective, reading the cache where there is one."""
    if cache_dir is None:
        return objective
    if not isinstance(objective, LanguageModeling):
        raise UserError("CACHE_DIR is for OBJECTIVE=@objective.LanguageModeling(); leave it None")
    return dataclasses.replace(objective, use_cached=True)


def _settings(
    arguments: Mapping[str, Any], config: Any, data: Any, fingerprint: Any, probe: Any
) -> dict[str, Any]:
    """What decides the result.

    Args:
      arguments: of `train`.
      config: what decides of the network's sizes.
      data: the identity of the batches.
      fingerprint: of the initial checkpoint.
      probe: its settings.
    """
    return output_settings.of_verb(
        train,
        arguments,
        free=FREE,
        instead={
            "model": {"config": config},
            "mixture_or_task_name": {"data": data},
            "task_feature_lengths": {},  # in the data's identity, as are the next two
            "batch_size": {},
            "cache_dir": {},
            "objective": _objective_settings(arguments["objective"]),
            "budget": output_settings.of_struct(arguments["budget"]),
            "initial_checkpoint_path": {"initial_checkpoint": fingerprint},
            "adaptation": {"adaptation": adaptations.to_json(arguments["adaptation"])},
            "optimizer": {
                "optimizer": output_settings.of_struct(arguments["optimizer"] or AdamW())
            },
            "computation": _parts(arguments["computation"] or Computation(), config),
            "probe": {} if probe is None else {"probe": probe},
        },
    )


def _probe_settings(
    probe: Probe,
    config: TransformerConfig,
    vocabulary: Vocabulary,
    of_step_0: Probe | None = None,
) -> dict[str, Any]:
    """A probe's settings, with what they say of the text that it writes and reads."""
    rules = getattr(probe, "text_rules", None)  # One of the user's own has none.
    mark = {} if of_step_0 is None else {output_settings.LEARNS: _FROM_STEP_0}
    return {**probe.settings(), **(rules(config, vocabulary) if rules else {}), **mark}


def _probe_of_step_0(probe: Probe | None, path: str | None) -> Probe | None:
    """What measures step 0 in place of a probe behind tags: the same behind none.

    None where the probe itself does, as of a model that was trained behind the same tags.

    Args:
      probe: of the training.
      path: of the model that it starts from; random weights where None.
    """
    behind = getattr(probe, "behind", None)  # One of the user's own has none.
    if probe is None or behind is None:
        return None
    seen = (None if path is None else identity.trained_behind(path)) or {}
    if {name: seen.get(name) for name in behind.named} == behind.named:
        return None
    return probe.without_tags()


def _known_tags(tags: Tags | NotYet | None, path: str | None) -> dict[str, Any]:
    """What a probe is told of the tags of the training; nothing where they are not known.

    Args:
      tags: as the task's source has them.
      path: of the model that it starts from: behind the tags that this one was trained behind, it
        may be asked whatever it is trained on now.
    """
    if isinstance(tags, NotYet):
        return {}
    if tags is None and path is not None:
        is_there = not isinstance(path, preview.Coming | preview.StandIn)
        if is_there and identity.trained_behind(path) is not None:
            return {}
    return {"tags": tags}


def _said_of_budget(budget: float, path: str | None) -> str:
    """Above what perplexity may rise, as a line for the user."""
    start = "random weights" if path is None else path
    return f"the budget of perplexity, {budget:+.1%}, is above that of step 0, which is {start}"


def _parts(computation: Computation, config: Any) -> dict[str, Any]:
    """What of the computation decides: see `Computation.decides`."""
    if config is NOT_YET:
        return {"accumulation_steps": NOT_YET}
    return computation.decides(config["dropout_rate"])


def _settings_ahead(
    arguments: Mapping[str, Any], computation: Computation, task: Any, mesh: Mesh
) -> dict[str, Any]:
    """The same before a parameter is read, as far as it is known.

    Args:
      arguments: of `train`.
      computation: how it is computed.
      task: of seqio; None where an earlier step is to write its text.
      mesh: of `computation`.
    """
    path, model, probe = (arguments[n] for n in ("initial_checkpoint_path", "model", "probe"))
    objective, batch_size = arguments["objective"], arguments["batch_size"]
    own = None
    if path is not None and not isinstance(path, preview.Coming | preview.StandIn):
        own = checkpoints.read_spec(checkpoints.resolve(path)[0]).config
    config = model or own
    if config is not None:
        config = computation.configure(dataclasses.replace(config, param_dtype="float32"))
    sizes = {"batch_size": batch_size, "length": arguments["task_feature_lengths"].get("targets")}
    data: Any = NOT_YET
    if task is not None:
        rows = meshes.local_rows(mesh, batch_size)
        data = objective.batches(task, **sizes, seed=arguments["random_seed"], rows=rows).identity
    elif output_settings.is_ours(objective):
        data = NotYet(known={**sizes, "seed": arguments["random_seed"]})
    measured: Any = NOT_YET
    if probe is None:
        measured = None
    elif output_settings.is_ours(probe):
        names = output_settings.TEXT_RULES, output_settings.LEARNS, output_settings.ASKED_IN
        measured = {**probe.settings(arguments["coming"]), **dict.fromkeys(names, NOT_YET)}
    elif not arguments["coming"]:
        measured = probe.settings()
    return _settings(
        arguments,
        NOT_YET if config is None else config.numerics(),
        data,
        None if path is None else identity.fingerprint_ahead(path),
        measured,
    )


def _fingerprints_ahead(path: str | None) -> tuple[str, ...] | None:
    """What the fingerprint of the model can be that training is going to start from."""
    return (_NO_MODEL,) if path is None else identity.fingerprint_ahead(path).among


def _has_steps(model_dir: str) -> bool:
    return bool(checkpoints.saved_steps(epath.Path(model_dir)))


def _objective_settings(objective: Objective) -> dict[str, Any]:
    """What decides of an objective: nothing of plain language modelling, which needs no name."""
    described = output_settings.describe(objective, "train.objective")
    described.pop("use_cached", None)  # It is in the data's identity.
    if (learns := getattr(objective, "learns", None)) is not None:
        described[output_settings.LEARNS] = learns
    plain = output_settings.describe(LanguageModeling(), "train.objective")
    plain.pop("use_cached")
    return {} if described == plain else {"objective": described}


def _preview(
    arguments: Mapping[str, Any],
    mesh: Mesh,
    computation: Computation,
    task: Any,
    vocabulary: Vocabulary | None,
    documents: int | None,
    tags: Tags | NotYet | None = NOT_YET,
) -> Step:
    """What there is to train; the checkpoint is read but for its weights.

    Args:
      arguments: of `train`.
      mesh: of `computation`.
      computation: how it is computed.
      task: of seqio; None where an earlier step is to write its text.
      vocabulary: of the task; the initial checkpoint's where None.
      documents: of the task, where they are counted.
      tags: behind which the task's documents stand, None where behind none.
    """
    probe: Probe | None = arguments["probe"]
    model_dir, path = arguments["model_dir"], arguments["initial_checkpoint_path"]
    preview.checked_output(model_dir)
    meshes.rows_at_once(mesh, arguments["batch_size"], computation.accumulation_steps)
    from_nothing = path is None and vocabulary is None  # by a vocabulary that is to come
    known = functools.partial(_settings_ahead, arguments, computation, task, mesh)
    if outputs.check(model_dir, "train", known, lambda: _has_steps(model_dir)):
        return Step("train", model_dir)
    if isinstance(path, preview.Coming) or from_nothing:
        if probe is not None:
            probe.check(**_known_tags(tags, path), coming=arguments["coming"])
        return Step("train", model_dir)
    base = _check_initial(path, arguments["adaptation"], vocabulary)
    if vocabulary is None:
        assert path is not None
        vocabulary = Vocabulary.load(checkpoints.vocabulary_dir(path))
    config = computation.configure(_resolve_config(arguments["model"], base, vocabulary))
    length = _check_lengths(arguments["task_feature_lengths"], config)
    if probe is not None:
        fits = {"vocabulary": vocabulary, "max_length": config.max_length}
        probe.check(**fits, **_known_tags(tags, path), coming=arguments["coming"])
    adaptation = arguments["adaptation"]
    shapes, _ = meshes.abstract_params(TransformerLM(config, adaptation))
    trained, _ = params_lib.partition(shapes, adaptations.trainable_pattern(adaptation))
    parameters = params_lib.count(trained)
    budget: Budget = arguments["budget"]
    counts = {} if documents is None else {"documents": documents}
    counts["parameters trained"] = parameters
    if budget.train_steps is not None:
        counts["updates"] = budget.train_steps
        counts["tokens"] = budget.train_steps * arguments["batch_size"] * length
    # Parameters and two moments, in float32; two steps are kept, and one that a probe chose, and
    # stay until a further one is saved.
    kept, a_step = 2 if probe is None or probe.rule.budget is None else 3, 4 * 3 * parameters
    size = kept * a_step
    optimizer: AdamW = arguments["optimizer"] or AdamW()
    about = adaptations.advice(
        adaptation, config.emb_dim, optimizer.learning_rate, budget.train_steps
    )
    return Step("train", model_dir, counts, size, needs=size, needs_a_while=a_step, advice=about)


def _check_initial(
    path: str | None, adaptation: adaptations.Adaptation | None, vocabulary: Vocabulary | None
) -> Base | None:
    """`_load_initial` without the weights."""
    if path is None:
        if adaptation is not None:
            raise UserError(_NO_BASE)
        return None
    model_dir, _ = checkpoints.resolve(path)
    spec = checkpoints.read_spec(model_dir)
    _check_spec(path, spec, spec.vocabulary if vocabulary is None else vocabulary.fingerprint)
    return Base(path, {}, spec, "")


def _load_initial(
    path: str | None,
    mesh: Mesh,
    adaptation: adaptations.Adaptation | None,
    vocabulary: str,
    strict: bool,
) -> Base | None:
    if path is None:
        if adaptation is not None:
            raise UserError(_NO_BASE)
        return None
    params, spec, fingerprint = checkpoints.load_params(path, mesh, strict)
    _check_spec(path, spec, vocabulary)
    return Base(path, params, spec, fingerprint)


def _check_spec(path: str, spec: checkpoints.ModelSpec, vocabulary: str) -> None:
    if spec.vocabulary != vocabulary:
        own = checkpoints.vocabulary_dir(path)  # of a step too
        # The task may use the checkpoint's own.
        checkpoints.check_vocabulary(path, spec, Vocabulary.load(own))
        raise UserError(
            f"{path}: trained with vocabulary {spec.vocabulary}, the task uses {vocabulary}; give "
            f"the task the checkpoint's own, {own}"
        )
    if spec.adaptation is not None:
        model_dir, _ = places.split(path)
        base = "" if spec.base is None else f", {checkpoints.shown_base(spec, model_dir)}"
        raise UserError(f"{path}: is itself an adaptation; start from its base{base}")


def _resolve_config(
    model: TransformerConfig | None, base: Base | None, vocabulary: Vocabulary
) -> TransformerConfig:
    """MODEL, checked against the checkpoint and the vocabulary, or the checkpoint's own.

    Its parameters are float32, whatever the checkpoint holds: they are those that are trained.
    """
    if model is None and base is None:
        raise UserError(
            "MODEL is None, which takes a checkpoint's; set MODEL to train from scratch"
        )
    if model is not None:
        require_masters(model.param_dtype)
        if base is not None:
            checkpoints.check_architecture(model, base.spec.config, base.path)
    config = model if base is None or model is not None else base.spec.config
    assert config is not None
    config = dataclasses.replace(config, param_dtype="float32")
    # A checkpoint of another library may have rows that stand for no token, for round numbers.
    rows_to_spare = base is not None and config.vocab_size > vocabulary.vocab_size
    if config.vocab_size != vocabulary.vocab_size and not rows_to_spare:
        raise UserError(
            f"MODEL has vocab_size {config.vocab_size}, but the vocabulary {vocabulary.source} has "
            f"{vocabulary.vocab_size} ids; set VOCAB_SIZE={vocabulary.vocab_size}"
        )
    return config


def _check_lengths(task_feature_lengths: Mapping[str, int], config: TransformerConfig) -> int:
    length = task_feature_lengths.get("targets")
    if set(task_feature_lengths) != {"targets"} or not isinstance(length, int) or length < 2:
        raise UserError(
            f"TASK_FEATURE_LENGTHS is {dict(task_feature_lengths)}; expected {{'targets': length}}"
        )
    if length > config.max_length:
        raise UserError(
            f"TASK_FEATURE_LENGTHS: targets of {length} are beyond the model's max_length "
            f"{config.max_length}; for example --gin.TASK_FEATURE_LENGTHS="
            f"\"{{'targets': {config.max_length}}}\""
        )
    return length


def _model_spec(
    config: TransformerConfig,
    adaptation: adaptations.Adaptation | None,
    base: Base | None,
    vocabulary: Vocabulary,
    model_dir: epath.Path,
) -> checkpoints.ModelSpec:
    reference = None
    if base is not None and adaptation is not None:
        path = checkpoints.base_reference(base.path, model_dir)
        reference = {"path": path, "fingerprint": base.fingerprint}
    return checkpoints.ModelSpec(config, adaptation, reference, vocabulary.fingerprint)
