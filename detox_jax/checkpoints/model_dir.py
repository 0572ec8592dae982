"""Checkpoints: Orbax for arrays, `model.json` and `vocabulary/` for what they mean.

`places` says where what lies. A checkpoint that an adaptation trained holds the trained parameters
alone, with path and fingerprint of its base, and refuses any other base.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import posixpath
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from detox_jax import atomic_files, tokenizer_files
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import places
from detox_jax.checkpoints import steps as steps_lib
from detox_jax.checkpoints.steps import absolute as absolute
from detox_jax.checkpoints.steps import checkpoints_dir as checkpoints_dir
from detox_jax.checkpoints.steps import manager as manager
from detox_jax.checkpoints.steps import saved_steps as saved_steps
from detox_jax.errors import UserError
from detox_jax.formats import jsonl
from detox_jax.models import adaptation as adaptations
from detox_jax.models import field_types
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel import processes
from detox_jax.tokenizer_files import GPT2_CLASS, TOKENIZER_CONFIG_FILE
from detox_jax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """What `model.json` says.

    Attributes:
      config: sizes and architecture.
      adaptation: what was added to the base, None for a whole model.
      base: `{"path", "fingerprint"}` of the base of an adaptation.
      vocabulary: fingerprint of the vocabulary that the embedding belongs to.
    """

    config: TransformerConfig
    adaptation: adaptations.Adaptation | None
    base: dict[str, str] | None
    vocabulary: str

    def to_json(self) -> dict[str, Any]:
        """As written; which kernel attends is for the devices of whoever reads it."""
        return {
            "config": dataclasses.asdict(dataclasses.replace(self.config, attention_kernel="auto")),
            "adaptation": adaptations.to_json(self.adaptation),
            "base": self.base,
            "vocabulary": self.vocabulary,
        }

    def without_place(self) -> ModelSpec:
        """The same wherever the base lies, for settings: which base it is, its fingerprint says."""
        if self.base is None:
            return self
        base = {name: value for name, value in self.base.items() if name != "path"}
        return dataclasses.replace(self, base=base)

    @property
    def digest(self) -> str:
        """A hash of what is computed from the parameters, of an adaptation its base's included.

        Of fields at their defaults nothing, so that one that a later version adds changes none.
        """
        numerics = self.config.numerics()
        config = {name: x for name, x in _set_fields(self.config).items() if name in numerics}
        kind = (adaptations.to_json(self.adaptation) or {}).get("kind")
        adapted = None if kind is None else {"kind": kind, **_set_fields(self.adaptation)}
        decided = [config, adapted, self.vocabulary]
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]


def _set_fields(struct: Any) -> dict[str, Any]:
    """The fields of a struct that are not at their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(struct)}
    return {
        name: value
        for name, value in dataclasses.asdict(struct).items()
        if getattr(struct, name) != defaults[name]
    }


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready to run: module, parameters on the mesh, vocabulary.

    Attributes:
      module: the network, adaptation included, see `network`.
      params: base and adaptation combined.
      vocabulary: text to ids and back.
      fingerprint: of all parameters; what is computed from them is in `spec` (`ModelSpec.digest`).
      spec: what `model.json` says.
    """

    module: TransformerLM
    params: params_lib.Params
    vocabulary: Vocabulary
    fingerprint: str
    spec: ModelSpec


def write_spec(model_dir: epath.Path, spec: ModelSpec, vocabulary: Vocabulary) -> None:
    """Writes `model.json` and the vocabulary."""
    vocabulary.save(str(model_dir / places.VOCABULARY_DIR), alone=True)
    atomic_files.write_json(model_dir / places.MODEL_FILE, spec.to_json())


def keep_origin(base_path: str, model_dir: epath.Path) -> None:
    """A model that is trained on from an imported one keeps what an export of it needs."""
    origin = resolve(base_path)[0] / places.ORIGIN_FILE
    if origin.exists():
        atomic_files.write_bytes(model_dir / places.ORIGIN_FILE, origin.read_bytes())


def read_spec(model_dir: epath.Path) -> ModelSpec:
    """Reads `model.json`.

    Raises:
      UserError: if it is missing or is not ours.
    """
    file = places.require(model_dir, is_reward=True) / places.MODEL_FILE
    try:
        value = jsonl.json_object(file.read_bytes(), "its text")
        spec = ModelSpec(
            config=TransformerConfig(**value["config"]),
            adaptation=adaptations.from_json(value["adaptation"]),
            base=value["base"],
            vocabulary=value["vocabulary"],
        )
        field_types.check(spec)
        if spec.base is not None and not {"path", "fingerprint"} <= spec.base.keys():
            raise ValueError("base without path or fingerprint")
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        reason = str(error) or repr(error)
        raise UserError(f"{file}: not a model description of this version: {reason}") from None
    return spec


def save_model(
    model_dir: epath.Path,
    params: params_lib.Params,
    spec: ModelSpec,
    vocabulary: Vocabulary,
    step: int = 0,
) -> None:
    """Writes a model that training did not make: an import, or a test's.

    Args:
      model_dir: where it goes; exists.
      params: all of it, or of an adaptation what was trained.
      spec: for `model.json`.
      vocabulary: that the embedding belongs to.
      step: under which the parameters are saved.

    Raises:
      UserError: for parameters that are not finite.
    """
    params_lib.require_finite(params, str(model_dir))
    write_spec(model_dir, spec, vocabulary)
    with manager(model_dir) as saving:
        steps_lib.save(saving, step, {"params": params})


def resolve(checkpoint_path: str, is_reward: bool = False) -> tuple[epath.Path, int]:
    """The model directory and step that `checkpoint_path` names.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.
      is_reward: see `places.require`.

    Raises:
      UserError: if there is no such checkpoint, or no finished step in it.
    """
    model_dir, step = places.split(checkpoint_path)
    places.require(checkpoint_path, is_reward)
    read_spec(model_dir)
    steps = saved_steps(model_dir)
    if not steps or (step is not None and step not in steps):
        saved = f"it holds steps {steps}" if steps else "training has saved none yet"
        raise UserError(f"{checkpoint_path}: no such step; {saved}")
    return model_dir, steps[-1] if step is None else step


def vocabulary_dir(checkpoint_path: str) -> str:
    """Where a checkpoint's vocabulary lies."""
    return str(resolve(checkpoint_path)[0] / places.VOCABULARY_DIR)


def restore_arrays(model_dir: epath.Path, step: int, item: str, abstract: Any) -> Any:
    """`steps.restore_arrays`, of the one step that will do.

    Raises:
      UserError: if it is damaged.
    """

    def read(at: int) -> Any:
        record = steps_lib.read_record(model_dir, at)
        return steps_lib.restore_arrays(model_dir, at, item, abstract, record)

    return steps_lib.newest_whole(model_dir, read, only=step)[1]


def load_params(
    checkpoint_path: str,
    mesh: Mesh,
    strict: bool = False,
    is_reward: bool = False,
    exact: bool = False,
) -> tuple[params_lib.Params, ModelSpec, str]:
    """The parameters of a checkpoint on the mesh, its base's included.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.
      mesh: where they go.
      strict: refuse a damaged newest step, in place of taking the one before and saying so. A step
        that `checkpoint_path` names is never replaced by another.
      is_reward: see `places.require`.
      exact: the newest step is not replaced either, whatever a setting says.

    Returns:
      Parameters, spec, and the fingerprint of the whole.

    Raises:
      UserError: if the checkpoint, or the base of an adapter-only one, is missing, damaged,
        another, or holds numbers that are not finite.
    """
    _, step = resolve(checkpoint_path, is_reward)
    model_dir, only = places.split(checkpoint_path)
    if exact:
        only = processes.current().first_decides(lambda: step)
    spec = read_spec(model_dir)
    base = None if spec.base is None else load_base(spec, model_dir, mesh)[0]
    params = load_trained(model_dir, mesh, strict=strict, only=only)
    params = params if base is None else params_lib.combine(base, params)
    return params, spec, params_lib.fingerprint(params)


def load_trained(
    model_dir: epath.Path, mesh: Mesh, strict: bool = False, only: int | None = None
) -> params_lib.Params:
    """The parameters that a directory holds on the mesh: of an adaptation, not its base's.

    Args:
      model_dir: the directory of the model.
      mesh: where they go.
      strict: refuse a damaged newest step, in place of the one before.
      only: the step to read; the newest whole one where None.

    Raises:
      UserError: if no step is whole, or its numbers are not finite.
    """
    spec = read_spec(model_dir)
    wanted = abstract_on_mesh(TransformerLM(spec.config, spec.adaptation), mesh)
    if spec.base is not None:
        wanted, _ = params_lib.partition(wanted, adaptations.trainable_pattern(spec.adaptation))

    def read(at: int) -> params_lib.Params:
        record = steps_lib.read_record(model_dir, at)
        return steps_lib.restore_arrays(model_dir, at, "params", wanted, record)

    step, params = steps_lib.newest_whole(model_dir, read, strict=strict, only=only)
    params_lib.require_finite(params, f"{model_dir}, step {step}")
    return params


def load_base(
    spec: ModelSpec, model_dir: epath.Path, mesh: Mesh
) -> tuple[params_lib.Params, ModelSpec]:
    """The base model that an adapter-only checkpoint belongs to, checked by its fingerprint."""
    assert spec.base is not None
    path = find_base(spec.base["path"], model_dir)
    params, base_spec, fingerprint = load_params(path, mesh, exact=True)
    check_base(spec, model_dir, path, fingerprint)
    return params, base_spec


def check_base(spec: ModelSpec, model_dir: epath.Path, base: Any, fingerprint: str) -> None:
    """Refuses a base that is not the one that was adapted.

    Args:
      spec: of the adaptation.
      model_dir: of the adaptation.
      base: where the base is, for the error.
      fingerprint: of the base that is there.

    Raises:
      UserError: naming both.
    """
    assert spec.base is not None
    if fingerprint != spec.base["fingerprint"]:
        raise UserError(
            f"{model_dir}: its adaptation belongs to base {spec.base['fingerprint']}, but {base} "
            f"is {fingerprint}; give the base that it was trained on"
        )


def find_base(recorded: str, model_dir: epath.Path) -> str:
    """The base's path: as recorded, which is relative to the adaptation, or to where this runs.

    A ".." behind a link leads out of what the link leads to. A record of an earlier version may
    mean the directory that holds the link, so that is looked at next.
    """
    beside = _beside(model_dir, recorded)
    place = recorded if "://" in recorded else str(beside)
    if atomic_files.is_local(place):
        place = os.path.normpath(place)
    for candidate in (beside, epath.Path(place), epath.Path(recorded)):
        if (places.split(candidate)[0] / places.MODEL_FILE).exists():
            return str(candidate)
    raise UserError(
        f"{model_dir}: its base model {recorded} is gone: looked for at {place}; put it back, or "
        "the adaptation, where that was moved without it"
    )


def shown_base(spec: ModelSpec, model_dir: epath.Path) -> str:
    """Where the base of an adaptation lies, without the way back and forth."""
    assert spec.base is not None
    path = find_base(spec.base["path"], model_dir)
    short = os.path.normpath(path)
    return short if _are_one(short, path) else path


def renew_base(model_dir: epath.Path, base_path: str, *, always: bool = False) -> None:
    """Records anew where the base of a finished adaptation lies, where its record leads nowhere.

    So it is where one of the two was moved without the other.

    Args:
      model_dir: of the model, whole or an adaptation.
      base_path: the base, which is known to be that of the record.
      always: also where the record leads to a base, which may be another run's.
    """
    spec = read_spec(model_dir)
    if spec.base is None:
        return
    if not always:
        with contextlib.suppress(UserError):
            find_base(spec.base["path"], model_dir)
            return
    base = {**spec.base, "path": base_reference(base_path, model_dir)}
    said = dataclasses.replace(spec, base=base).to_json()
    # In a finished output nothing is removed any more.
    atomic_files.write_json(model_dir / places.MODEL_FILE, said, in_output=False)


def _are_one(path: str | epath.Path, other: str | epath.Path) -> bool:
    """Whether two local paths lead to one place."""
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def _beside(directory: epath.Path, relative: str) -> epath.Path:
    """What a relative path leads to from a directory; an object store knows no "..".

    >>> str(_beside(epath.Path("gs://bucket/run/models/adapter"), "../../base"))
    'gs://bucket/run/base'
    """
    scheme, separator, rest = str(directory / relative).partition("://")
    if not separator:
        return directory / relative
    return epath.Path(f"{scheme}://{posixpath.normpath(rest)}")


def base_reference(base_path: str, model_dir: epath.Path) -> str:
    """How a base is recorded: relative to the adaptation where one disk or bucket holds both.

    So a run may be moved or copied, from a bucket to a disk too. Where a link lies on the way, so
    that ".." leads elsewhere, it is relative to the places that the links lead to.
    """
    if len({_bucket(base_path), _bucket(model_dir)}) > 1:
        return base_path
    relative = os.path.relpath(base_path, model_dir)
    if not atomic_files.is_local(model_dir):
        return relative
    # The adaptation's directory may not be there yet.
    base, directory = os.path.realpath(base_path), os.path.realpath(model_dir)
    if os.path.realpath(os.path.join(directory, relative)) != base:
        return os.path.relpath(base, directory)
    return relative


def _bucket(path: str | epath.Path) -> str | None:
    """`gs://bucket`, None of a local path."""
    return None if atomic_files.is_local(path) else "/".join(str(path).split("/")[:3])


def abstract_on_mesh(model: TransformerLM, mesh: Mesh) -> params_lib.Params:
    """Shapes, dtypes and shardings of a model's parameters on the mesh."""
    shapes, _ = meshes.abstract_params(model)
    shardings = meshes.param_shardings(model, mesh)
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def require_divided(path: str, spec: ModelSpec, mesh: Mesh) -> None:
    """Refuses a model of which a mesh does not divide a parameter, before anything is loaded.

    Args:
      path: of the model, or the setting that names it and the path.
      spec: what its `model.json` says.
      mesh: where its parameters go.

    Raises:
      UserError: naming the model, the parameter and the axis.
    """
    if mesh.size == mesh.shape["data"]:  # Every device has the whole.
        return
    try:
        meshes.param_shardings(TransformerLM(spec.config, spec.adaptation), mesh)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def load_model(
    checkpoint_path: str,
    mesh: Mesh,
    dtype: str | None = None,
    strict: bool = False,
    is_reward: bool = False,
    exact: bool = False,
) -> LoadedModel:
    """Loads a checkpoint to generate from or to evaluate.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.
      mesh: where the parameters go.
      dtype: of activations; the checkpoint's own where None.
      strict: see `load_params`.
      is_reward: see `places.require`.
      exact: see `load_params`.

    Raises:
      UserError: if it is missing, damaged or inconsistent.
    """
    params, spec, fingerprint = load_params(checkpoint_path, mesh, strict, is_reward, exact)
    model_dir, _ = places.split(checkpoint_path)
    vocabulary = Vocabulary.load(str(model_dir / places.VOCABULARY_DIR))
    check_vocabulary(checkpoint_path, spec, vocabulary)
    config = dataclasses.replace(spec.config, dropout_rate=0.0, remat="none")
    if dtype is not None:
        config = dataclasses.replace(config, dtype=dtype)
    module = network(config, spec.adaptation, vocabulary)
    return LoadedModel(module, params, vocabulary, fingerprint, spec)


def check_vocabulary(checkpoint_path: str, spec: ModelSpec, vocabulary: Vocabulary) -> None:
    """Refuses a checkpoint whose vocabulary was replaced, or is read otherwise than it was.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.
      spec: what its `model.json` says.
      vocabulary: that lies there.

    Raises:
      UserError: with what to do in either case.
    """
    if vocabulary.fingerprint == spec.vocabulary:
        return
    as_before = ""
    named, _ = tokenizer_files.tokenizer_class(tokenizer_files.settings_of(vocabulary.files))
    if tokenizer_files.is_of_merges(vocabulary.files) and named not in (None, GPT2_CLASS):
        as_before = (
            f', or write "tokenizer_class": "{GPT2_CLASS}" into its {TOKENIZER_CONFIG_FILE}, as '
            "which that version read merges"
        )
    model_dir, _ = places.split(checkpoint_path)
    raise UserError(
        f"{model_dir}: its {places.VOCABULARY_DIR}/ is {vocabulary.fingerprint}, but the model was "
        f"trained with {spec.vocabulary}; put back the vocabulary that it was trained with, or, "
        "where its files are those and an earlier version read them otherwise, import the model "
        f"again, its earlier import removed{as_before}"
    )


def network(
    config: TransformerConfig, adaptation: adaptations.Adaptation | None, vocabulary: Vocabulary
) -> TransformerLM:
    """The network that writes and reads text; it knows the vocabulary's tokens alone.

    An imported embedding may have rows that no token has. They are never drawn, and no probability
    is shared with them. (In a loss it is: training is as elsewhere.)

    Args:
      config: sizes and architecture.
      adaptation: what is added to the base model, or None.
      vocabulary: that the embedding belongs to.
    """
    has_spare_rows = vocabulary.leaves_spare(config.vocab_size)
    return TransformerLM(config, adaptation, vocabulary.vocab_size if has_spare_rows else None)


def check_architecture(wanted: TransformerConfig, found: TransformerConfig, path: str) -> None:
    """Refuses a checkpoint of another architecture, naming the first field that differs."""
    ours, theirs = wanted.architecture(), found.architecture()
    for name, value in ours.items():
        if theirs[name] != value:
            raise UserError(
                f"{path}: a checkpoint of another architecture: {name} is {theirs[name]!r} there, "
                f"{value!r} in MODEL; leave MODEL out to take the checkpoint's"
            )
