"""What tells one model from another where its parameters need not be read: for settings."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from detox_jax import atomic_files, manifests, output_settings, preview
from detox_jax.checkpoints import places
from detox_jax.errors import UserError
from detox_jax.formats import jsonl
from detox_jax.output_settings import NOT_YET, SPEC, WEIGHTS, NotYet
from detox_jax.parallel import processes
from detox_jax.vocabulary import Vocabulary

_OF_TAGS = ("good", "bad", "between")  # which tags they are


def identity(checkpoint_path: str) -> dict[str, Any]:
    """A model by what it was made from, and its step; by its parameters where no manifest says it.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.

    Returns:
      `path`, which is a note, `step` and `made_from`; a place that holds no model is its own name.

    Raises:
      UserError: if it is damaged.
    """
    model_dir, step = places.split(checkpoint_path)
    if isinstance(checkpoint_path, preview.Coming):
        return {"path": str(checkpoint_path), "step": NOT_YET, "made_from": NOT_YET}

    def there() -> list[bool]:
        return [(model_dir / name).exists() for name in (manifests.MANIFEST, places.MODEL_FILE)]

    # Parameters are read by all processes or by none. A check reads none, and asks nobody.
    is_check = output_settings.is_ahead()
    is_made, is_model = there() if is_check else processes.current().first_decides(there)
    if is_made:
        manifest = manifests.read_manifest(model_dir)
        decided = [output_settings.without_notes(manifest["settings"]), manifest.get("versions")]
        made_from = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
        if step is None:  # A training that goes on is at another one tomorrow.
            step = manifest.get("steps") if manifest["complete"] else _newest(model_dir)
    elif is_check:  # Its parameters would have to be read.
        step, made_from = NOT_YET, NOT_YET
    elif is_model:
        from detox_jax.checkpoints import streamed  # loads JAX

        checkpoint = streamed.Checkpoint.open(checkpoint_path)
        made_from, step = checkpoint.fingerprint, checkpoint.step
    else:
        made_from, step = checkpoint_path, None
    return {"path": checkpoint_path, "step": step, "made_from": made_from}


def _newest(model_dir: epath.Path) -> int | None:
    """The newest step that an unfinished training has saved."""
    from detox_jax.checkpoints import steps  # loads JAX

    return max(steps.saved_steps(model_dir), default=None)


def described(checkpoint_path: str, fingerprint: Any) -> dict[str, Any]:
    """A model as settings name it: by its parameters, and by what is computed from them.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.
      fingerprint: of its parameters; `NotYet` in a check.

    Raises:
      UserError: if there is no such model.
    """
    return {"path": checkpoint_path, "fingerprint": fingerprint, SPEC: _spec(checkpoint_path)}


def _spec(checkpoint_path: str) -> Any:
    """The digest of what `model.json` says; of a model that is to come nothing is known yet."""
    if isinstance(checkpoint_path, preview.Coming | preview.StandIn):
        return NOT_YET
    from detox_jax.checkpoints import model_dir as checkpoints  # loads JAX

    return checkpoints.read_spec(places.split(checkpoint_path)[0]).digest


def with_weights(checkpoint_path: str) -> dict[str, Any]:
    """`identity`, with the fingerprint of the weights where the records of their steps tell it.

    Beside it what is computed from them: a tokenizer may be read otherwise than when it was made.

    The same recipe makes other weights on another kind of device, and on some from run to run.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.

    Raises:
      UserError: if it is damaged.
    """
    made = identity(checkpoint_path)
    model_dir, step = places.split(checkpoint_path)
    # Each file of a bucket is a request: there the verb finds it, and no check.
    is_local = atomic_files.is_local(model_dir)
    if isinstance(checkpoint_path, preview.Coming) or (output_settings.is_ahead() and not is_local):
        return {**made, WEIGHTS: NOT_YET, SPEC: NOT_YET}
    is_there = (model_dir / places.MODEL_FILE).exists() if is_local else True
    if not is_there or made["made_from"] == checkpoint_path:  # No model is there.
        return made
    if step is None and isinstance(made["step"], int):
        step = made["step"]
    with contextlib.suppress(UserError):  # It may be gone, and what was read of it kept.
        spec, weights = _recorded(checkpoint_path, step)
        if weights.among:
            return {**made, WEIGHTS: weights.among[0], SPEC: spec.digest}
    return made


def text_rules(checkpoint_path: str) -> dict[str, Any]:
    """What settings say of text that is read under a model: see `output_settings.TEXT_RULES`.

    A version before counted rows beyond the vocabulary too. A place that holds no model has none.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.

    Raises:
      UserError: if it is damaged.
    """
    if isinstance(checkpoint_path, preview.Coming):
        return {output_settings.TEXT_RULES: NOT_YET}
    model_dir, _ = places.split(checkpoint_path)
    file = model_dir / places.MODEL_FILE
    if not file.exists():
        return {}
    config = jsonl.json_object(file.read_bytes(), str(file)).get("config")
    rows = config.get("vocab_size") if isinstance(config, dict) else None
    if not isinstance(rows, int):  # Damaged, as is said where it is loaded.
        return {}
    vocabulary = Vocabulary.load(str(model_dir / places.VOCABULARY_DIR))
    return output_settings.text_rules(vocabulary.leaves_spare(rows))


def trained_behind(checkpoint_path: str) -> Mapping[str, Any] | None:
    """The tags that a model was trained behind, as `Tags.named` has them and with more beside.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.

    Returns:
      None of a model that was trained behind none, or whose files do not say so, as those of a sum
      of models do not; of a mixture the tags of its tasks, None where these have several.

    Raises:
      UserError: if there is no such checkpoint.
    """
    from detox_jax.checkpoints import model_dir as checkpoints  # loads JAX

    model_dir, _ = checkpoints.resolve(checkpoint_path)
    if not (model_dir / manifests.MANIFEST).exists():
        return None
    data = manifests.read_manifest(model_dir)["settings"].get("data")
    source = data.get("source") if isinstance(data, Mapping) else None
    # A mixture lists the name of each task and its source.
    parts = source if isinstance(source, list) else [[source]]
    ends = [part[-1] for part in parts if isinstance(part, list) and part]
    tags = [end.get("tags") for end in ends if isinstance(end, Mapping)]
    found = [of for of in tags if isinstance(of, Mapping) and of]
    different = {json.dumps([of.get(name) for name in _OF_TAGS]) for of in found}
    return found[0] if len(different) == 1 else None


def ahead(checkpoint_path: str, dtype: str | None = None) -> tuple[NotYet, Any]:
    """The fingerprint and the dtype of activations that a model is going to have when it is loaded.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.
      dtype: that is asked for; the checkpoint's own where None.

    Raises:
      UserError: if there is no such checkpoint.
    """
    fingerprint = fingerprint_ahead(checkpoint_path)  # It is there, or to come.
    if dtype is None and not isinstance(checkpoint_path, preview.Coming | preview.StandIn):
        from detox_jax.checkpoints import model_dir as checkpoints  # loads JAX

        dtype = checkpoints.read_spec(places.split(checkpoint_path)[0]).config.dtype
    return fingerprint, dtype or NOT_YET


def stored_ahead(checkpoint_path: str) -> str | None:
    """The fingerprint of what a checkpoint stores, without a base; None where no record tells it.

    Raises:
      UserError: if there is no such checkpoint.
    """
    if isinstance(checkpoint_path, preview.Coming):
        return None
    from detox_jax.checkpoints import model_dir as checkpoints  # loads JAX
    from detox_jax.checkpoints import params

    model_dir, step = checkpoints.resolve(checkpoint_path)
    digests = _digests(model_dir, checkpoints.read_spec(model_dir), step)
    return params.fingerprint_of_digests(digests) if digests else None


def fingerprint_ahead(checkpoint_path: str) -> NotYet:
    """What `load_params` is going to find for the fingerprint of a model, as its records tell.

    A damaged step gives way to one before it, so each of the saved ones is possible.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.

    Raises:
      UserError: if there is no such checkpoint.
    """
    if isinstance(checkpoint_path, preview.Coming | preview.StandIn):
        return NOT_YET
    return _recorded(checkpoint_path, places.split(checkpoint_path)[1])[1]


def _recorded(checkpoint_path: str, only: int | None) -> tuple[Any, NotYet]:
    """What `model.json` says of a model, and the fingerprints that the records of its steps tell.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.
      only: the one step that is asked for; each of the saved ones where None.

    Raises:
      UserError: if there is no such checkpoint.
    """
    from detox_jax.checkpoints import model_dir as checkpoints  # loads JAX
    from detox_jax.checkpoints import params

    model_dir, _ = checkpoints.resolve(checkpoint_path, is_reward=True)
    spec = checkpoints.read_spec(model_dir)
    of_base: dict[str, Any] = {}
    if spec.base is not None:
        with contextlib.suppress(UserError):  # It may be gone, and made again before this is read.
            base, step = checkpoints.resolve(checkpoints.find_base(spec.base["path"], model_dir))
            of_base = _digests(base, checkpoints.read_spec(base), step) or {}
        if params.fingerprint_of_digests(of_base) != spec.base["fingerprint"]:
            return spec, NOT_YET
    steps = reversed(checkpoints.saved_steps(model_dir)) if only is None else [only]
    digests = [_digests(model_dir, spec, step) for step in steps]
    if None in digests:
        return spec, NOT_YET
    found = tuple(params.fingerprint_of_digests({**of_base, **of}) for of in digests if of)
    return spec, NotYet(found)


def _digests(model_dir: epath.Path, spec: Any, step: int) -> dict[str, Any] | None:
    """The digests of a step's parameters; None where none are known, or are of another dtype."""
    from detox_jax.checkpoints import steps

    digests = steps.recorded_digests(model_dir, step)
    is_read_so = digests and all(of[0] == spec.config.param_dtype for of in digests.values())
    return digests if is_read_so else None
