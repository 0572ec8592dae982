"""Verb `combine`: a base plus weighted differences of models from it; weights as data."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from detox_jax import manifests, output_settings, outputs, preview
from detox_jax.checkpoints import arithmetic, identity, places, streamed
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints.arithmetic import Edit, Edited, Term
from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.errors import UserError
from detox_jax.models import adaptation as adaptations
from detox_jax.output_settings import NOT_YET, NotYet
from detox_jax.parallel import processes
from detox_jax.preview import Step
from detox_jax.vocabulary import Vocabulary

FREE = ("output_dir", "check_only")  # see `output_settings`
_NO_RECORD = "does not say what it was trained from"


def combine(
    base: str,
    output_dir: str,
    terms: Mapping[str, float] | None = None,
    edit: Edit | None = None,
    merge: bool = True,
    check_only: bool = False,
) -> list[Step] | None:
    """Writes the checkpoint `base + sum of weight * (model - base)`.

    Args:
      base: a whole model, MODEL_DIR or MODEL_DIR/checkpoints/STEP.
      output_dir: where the result goes, a checkpoint as every other.
      terms: models that were trained from the base, each with its weight: `{"runs/toxic": -0.5}`.
        Adaptations too; one that is no change of weights (adapter, prefix) stands alone, and comes
        out as an adaptation whose addition is multiplied by the weight.
      edit: what is done to the sum, such as `@projection.Projection()`.
      merge: add adaptations that are changes of weights to them; False keeps one, alone, scaled.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: for models that are not of this base, or of another shape or vocabulary, for
        damaged ones, and for sums that cannot be.
    """
    arguments = locals()
    weights = _checked_weights(terms)

    def has_results() -> bool:
        return bool(checkpoints.saved_steps(epath.Path(output_dir)))

    if not weights and edit is None:
        raise UserError("TERMS is empty; give models: --gin.TERMS=\"{'DIR': -0.5}\", or an EDIT")
    preview.checked_output(output_dir)
    if check_only:
        known = functools.partial(_settings_ahead, arguments, weights)
        is_done = outputs.check(output_dir, "combine", known, has_results)
        if is_done or _waits(base, weights):
            return [Step("combine", output_dir)]
    start = _open_base(base)
    if (check := getattr(edit, "check", None)) is not None:  # One of the user's own has none.
        check(start)
    models = [Term(_open_term(path, start), weight) for path, weight in weights.items()]
    _check_different([*weights], models)
    alone = _adaptation_alone(models, edit, merge)
    if check_only:
        shapes = start.paths if alone is None else alone.checkpoint.paths
        size = 4 * sum(math.prod(shape) for shape in shapes.values())
        return [Step("combine", output_dir, {"terms": len(models)}, size, needs=size)]

    # --- what decides the result: content, and not the names that it goes by --------------------
    for term in models:
        _check_origin(term.checkpoint, start)
    ranked = sorted(((_reference(term), term) for term in models), key=lambda pair: _rank(pair[0]))
    models = [term for _, term in ranked]
    edited = None if edit is None else edit.open(start)
    settings = _settings(
        arguments,
        start.fingerprint,
        [reference for reference, _ in ranked],
        None if edited is None else edited.reference(),
    )
    output = outputs.OutputDirectory(output_dir, "combine", settings, has_results, made=places.MADE)
    if output.complete:
        checkpoints.renew_base(output.path, base)
        return None
    left = output.path / places.CHECKPOINTS_DIR  # by a killed run
    processes.current().first_decides(lambda: left.rmtree(missing_ok=True))

    # --- the sum, one parameter at a time ---------------------------------------------------------
    with streamed.scratch(output.path) as scratch:
        if alone is None:
            counts = _write_whole(start, models, edited, output.path, scratch)
        else:
            counts = _write_adaptation(start, base, alone, output.path)
    output.finish(**counts)
    _print(output_dir, counts)
    return None


def _settings(
    arguments: Mapping[str, Any], fingerprint: Any, terms: Any, edit: Any
) -> dict[str, Any]:
    """What decides the sum; by what stands for the base, the terms and the edit."""
    return output_settings.of_verb(
        combine,
        arguments,
        free=FREE,
        instead={
            "base": {"base": identity.described(arguments["base"], fingerprint)},
            "terms": {"terms": terms},
            "edit": {"edit": edit},
        },
    )


def _settings_ahead(arguments: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, Any]:
    """The same before a parameter is read, as far as it is known."""
    found = {path: identity.stored_ahead(path) for path in (arguments["base"], *weights)}
    edit: Any = arguments["edit"]
    if edit is not None:
        is_ours = output_settings.is_ours(edit)
        edit = NotYet(known={"method": type(edit).__name__} if is_ours else {})
    terms: Any = NOT_YET
    # They stand in the order of their fingerprints.
    if len(weights) < 2 or None not in [found[path] for path in weights]:
        named = [
            {**identity.described(path, found[path] or NOT_YET), "weight": weight}
            for path, weight in weights.items()
        ]
        terms = [NotYet(known=of) for of in sorted(named, key=_rank)]
    return _settings(arguments, found[arguments["base"]] or NOT_YET, terms, edit)


def _waits(base: str, terms: Collection[str]) -> bool:
    """Whether an earlier step is to make one of the models."""
    return any(isinstance(path, preview.Coming) for path in (base, *terms))


def _checked_weights(terms: Mapping[str, float] | None) -> dict[str, float]:
    for path, weight in (terms or {}).items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise UserError(f"TERMS: the weight of {path} is {weight!r}; give a number")
        if not math.isfinite(weight):
            raise UserError(f"TERMS: the weight of {path} is {weight}; give one that is finite")
    return {path: float(weight) for path, weight in (terms or {}).items()}


# --- what may be added ----------------------------------------------------------------------------


def _open_base(path: str) -> Checkpoint:
    model_dir, step = checkpoints.resolve(path)
    spec = checkpoints.read_spec(model_dir)
    if spec.adaptation is not None:
        of = "" if spec.base is None else f", {checkpoints.shown_base(spec, model_dir)}"
        raise UserError(
            f"BASE={path}: is an adaptation; give its base{of}, and this as one of TERMS"
        )
    return Checkpoint(model_dir, step, spec)


def _open_term(path: str, base: Checkpoint) -> Checkpoint:
    """A model that has the base's shapes and vocabulary; its weights are not looked at."""
    model_dir, step = checkpoints.resolve(path)
    spec = checkpoints.read_spec(model_dir)
    if spec.vocabulary != base.spec.vocabulary:
        raise UserError(
            f"{path}: of vocabulary {spec.vocabulary}, but {base.model_dir} has "
            f"{base.spec.vocabulary}; the rows of their embeddings stand for other tokens"
        )
    ours, theirs = base.spec.config.architecture(), spec.config.architecture()
    for name, value in ours.items():
        if theirs[name] != value:
            raise UserError(
                f"{path}: of another architecture: {name} is {theirs[name]!r}, in "
                f"{base.model_dir} {value!r}; only models of one architecture can be added"
            )
    if spec.adaptation is not None and spec.base is None:
        raise UserError(f"{path}: an adaptation that does not name its base; it cannot be added")
    return Checkpoint(model_dir, step, spec, None if spec.base is None else base)


def _check_different(paths: Sequence[str], models: Sequence[Term]) -> None:
    """Refuses a model that stands there twice, under two spellings of its place."""
    seen: dict[tuple[str, int], str] = {}
    for path, term in zip(paths, models, strict=True):
        place = os.path.realpath(term.checkpoint.model_dir), term.checkpoint.step
        if (other := seen.setdefault(place, path)) != path:
            raise UserError(f"TERMS: {other} and {path} are one model; give it once")


def _check_origin(term: Checkpoint, base: Checkpoint) -> None:
    """Refuses what was trained from another model; what nothing is known of is said.

    Raises:
      UserError: naming both.
    """
    if term.spec.base is not None:
        checkpoints.check_base(term.spec, term.model_dir, base.model_dir, base.fingerprint)
        return
    origin = _origin(term)
    if term.fingerprint == base.fingerprint or origin == base.fingerprint:
        return
    if origin is None:
        print(f"{term.model_dir}: {_NO_RECORD}; taken for a model of {base.model_dir}")
        return
    raise UserError(
        f"{term.model_dir}: was trained from {origin}, but {base.model_dir} is "
        f"{base.fingerprint}; give as BASE the model that it was trained from"
    )


def _origin(checkpoint: Checkpoint) -> str | None:
    """Fingerprint of what a whole model was made from; None where nobody wrote it down."""
    if not (checkpoint.model_dir / manifests.MANIFEST).exists():
        return None
    manifest = manifests.read_manifest(checkpoint.model_dir)
    settings = manifest["settings"]
    if manifest["verb"] == "train" and "initial_checkpoint" in settings:
        return settings["initial_checkpoint"] or "random weights"
    if manifest["verb"] == "combine":
        return settings["base"]["fingerprint"]
    return None


def _adaptation_alone(models: Sequence[Term], edit: Edit | None, merge: bool) -> Term | None:
    """The term that stays an adaptation; None where the result is a whole model.

    Raises:
      UserError: where it would have to be both.
    """
    for term in models:
        kind = term.checkpoint.spec.adaptation
        if kind is None or (kind.is_change_of_weights and merge):
            continue
        if len(models) == 1 and edit is None:
            return term
        name = type(kind).__name__
        why = (
            "MERGE=False keeps adaptations apart; set it to True, or give one term"
            if kind.is_change_of_weights
            else f"{name} is no change of weights: give it alone, or add whole models and LoRAs"
        )
        raise UserError(f"{term.checkpoint.model_dir}: cannot be added to others: {why}")
    return None


def _reference(term: Term) -> dict[str, Any]:
    """A term in settings."""
    checkpoint = term.checkpoint
    adaptation = adaptations.to_json(checkpoint.spec.adaptation)
    return {
        **identity.described(str(checkpoint.model_dir), checkpoint.fingerprint),
        "step": checkpoint.step,
        "adaptation": None if adaptation is None else adaptation["kind"],
        "weight": term.weight,
    }


def _rank(reference: Mapping[str, Any]) -> tuple[Any, ...]:
    """Where a term stands among the others, whatever the order of TERMS."""
    return reference["fingerprint"], reference["weight"], reference[output_settings.SPEC]


# --- what is written ------------------------------------------------------------------------------


def _write_whole(
    base: Checkpoint,
    models: Sequence[Term],
    edit: Edited | None,
    path: epath.Path,
    scratch: epath.Path,
) -> dict[str, Any]:
    """The sum as a whole model; returns what the manifest says of it."""
    used = [term for term in models if term.weight != 0]
    # A model that was trained from one in bfloat16 is float32: the result holds either.
    stored = {base.spec.config.param_dtype, *(t.checkpoint.spec.config.param_dtype for t in used)}
    dtype = "float32" if "float32" in stored else "bfloat16"
    config = dataclasses.replace(base.spec.config, param_dtype=dtype)
    spec = dataclasses.replace(base.spec, config=config)
    arrays = streamed.mapped_zeros(scratch, base.paths, np.dtype(spec.config.parameter_dtype))
    norms = arithmetic.add(base, used, edit, arrays)
    _save(path, arrays, spec, base)
    checkpoints.keep_origin(str(base.model_dir), path)
    return {
        "fingerprint": params_lib.fingerprint_of(sorted(arrays.items())),
        "parameters": sum(math.prod(shape) for shape in base.paths.values()),
        "change": {"whole": norms.whole(), "blocks": norms.ratios()},
    }


def _write_adaptation(
    base: Checkpoint, base_path: str, term: Term, path: epath.Path
) -> dict[str, Any]:
    """The adaptation with its addition scaled; returns what the manifest says of it."""
    adaptation = term.checkpoint.spec.adaptation
    assert adaptation is not None
    arrays = dict(arithmetic.scaled(term, adaptation.scaled_pattern))
    reference = {
        "path": checkpoints.base_reference(base_path, path),
        "fingerprint": base.fingerprint,
    }
    spec = dataclasses.replace(term.checkpoint.spec, base=reference)
    _save(path, arrays, spec, base)
    return {
        "fingerprint": params_lib.fingerprint_of(sorted(arrays.items())),
        "parameters": sum(array.size for array in arrays.values()),
        "adaptation": type(adaptation).__name__,
    }


def _save(
    path: epath.Path,
    arrays: Mapping[str, np.ndarray],
    spec: checkpoints.ModelSpec,
    base: Checkpoint,
) -> None:
    vocabulary = Vocabulary.load(str(base.model_dir / places.VOCABULARY_DIR))
    checkpoints.save_model(path, streamed.nested(dict(arrays)), spec, vocabulary)


def _print(output_dir: str, counts: Mapping[str, Any]) -> None:
    print(f"{output_dir}: {counts['parameters']:,} parameters, {counts['fingerprint']}")
    if "change" not in counts:
        print(f"{output_dir}: {counts['adaptation']}, its addition times the weight; same base")
        return
    if not counts["change"]["whole"]:
        print(f"{output_dir}: the weights of BASE as they were: TERMS add nothing to them")
    print("|change| / |base|")
    for block, ratio in {**counts["change"]["blocks"], "whole": counts["change"]["whole"]}.items():
        print(f"  {block:20} {'-' if ratio is None else f'{ratio:.2e}'}")
