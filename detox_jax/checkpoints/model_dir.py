"""Checkpoints: Orbax for arrays, `model.json` and `vocabulary/` for what they mean.

`places` says where what lies. A checkpoint that an adaptation trained holds the trained parameters
alone, with path and fingerprint of its base, and refuses any other base.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from detox_jax import outputs
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import places
from detox_jax.errors import UserError
from detox_jax.models import adaptation as adaptations
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
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


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready to run: module, parameters on the mesh, vocabulary.

    Attributes:
      module: the network, adaptation included.
      params: base and adaptation combined.
      vocabulary: text to ids and back.
      fingerprint: of all parameters; equal fingerprints give equal text.
      spec: what `model.json` says.
    """

    module: TransformerLM
    params: params_lib.Params
    vocabulary: Vocabulary
    fingerprint: str
    spec: ModelSpec


def write_spec(model_dir: epath.Path, spec: ModelSpec, vocabulary: Vocabulary) -> None:
    """Writes `model.json` and the vocabulary."""
    vocabulary.save(str(model_dir / places.VOCABULARY_DIR))
    outputs.write_json(model_dir / places.MODEL_FILE, spec.to_json())


def keep_origin(base_path: str, model_dir: epath.Path) -> None:
    """A model that is trained on from an imported one keeps what an export of it needs."""
    origin = resolve(base_path)[0] / places.ORIGIN_FILE
    if origin.exists():
        outputs.write_bytes(model_dir / places.ORIGIN_FILE, origin.read_bytes())


def read_spec(model_dir: epath.Path) -> ModelSpec:
    """Reads `model.json`.

    Raises:
      UserError: if it is missing or is not ours.
    """
    file = model_dir / places.MODEL_FILE
    if not file.exists():
        raise UserError(
            f"{model_dir}: no {places.MODEL_FILE}; not a model that detox-jax trained or imported"
        )
    try:
        value = json.loads(file.read_text())
        return ModelSpec(
            config=TransformerConfig(**value["config"]),
            adaptation=adaptations.from_json(value["adaptation"]),
            base=value["base"],
            vocabulary=value["vocabulary"],
        )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not a model description of this version: {error}") from None


def manager(model_dir: epath.Path, **options: Any) -> ocp.CheckpointManager:
    """The Orbax manager of a model directory's steps."""
    return ocp.CheckpointManager(
        checkpoints_dir(model_dir),
        options=ocp.CheckpointManagerOptions(
            enable_async_checkpointing=False, step_prefix=None, **options
        ),
        item_names=("params", "opt_state", "data"),
    )


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
    with manager(model_dir) as checkpoints:
        checkpoints.save(step, args=ocp.args.Composite(params=ocp.args.StandardSave(params)))


def checkpoints_dir(model_dir: epath.Path) -> epath.Path:
    """Where the steps lie."""
    return absolute(model_dir / places.CHECKPOINTS_DIR)


def absolute(path: epath.Path) -> epath.Path:
    """The path as Orbax wants it: absolute, where it is local."""
    return epath.Path(os.path.abspath(path)) if _is_local(path) else path


def _is_local(path: epath.Path) -> bool:
    return "://" not in str(path)


def resolve(checkpoint_path: str) -> tuple[epath.Path, int]:
    """The model directory and step that `checkpoint_path` names.

    Raises:
      UserError: if there is no such checkpoint, or no finished step in it.
    """
    model_dir, step = places.split(checkpoint_path)
    if not model_dir.exists():
        raise UserError(f"{checkpoint_path}: no such checkpoint")
    read_spec(model_dir)
    steps = saved_steps(model_dir)
    if not steps or (step is not None and step not in steps):
        saved = f"it holds steps {steps}" if steps else "training has saved none yet"
        raise UserError(f"{checkpoint_path}: no such step; {saved}")
    return model_dir, steps[-1] if step is None else step


def saved_steps(model_dir: epath.Path) -> list[int]:
    """The steps that are completely saved, in order.

    On a disk Orbax renames a step when it is whole; on an object store it writes into the step's
    own directory and marks it when it is whole (`commit_success.txt`).
    """
    directory = model_dir / places.CHECKPOINTS_DIR
    if not directory.exists():
        return []
    return sorted(
        int(path.name)
        for path in directory.iterdir()
        if path.name.isdigit() and ocp.utils.is_checkpoint_finalized(path)
    )


def vocabulary_dir(checkpoint_path: str) -> str:
    """Where a checkpoint's vocabulary lies."""
    return str(resolve(checkpoint_path)[0] / places.VOCABULARY_DIR)


def restore_item(model_dir: epath.Path, step: int, item: str, arguments: Any) -> Any:
    """Restores one item of a step.

    Args:
      model_dir: of the model.
      step: one of `saved_steps`.
      item: `params`, `opt_state` or `data`.
      arguments: Orbax's, which say how to read it, such as `JsonRestore()`.
    """
    directory = checkpoints_dir(model_dir) / str(step)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(item)) as checkpointer:
        return checkpointer.restore(directory, args=ocp.args.Composite(**{item: arguments}))[item]


def restore_arrays(model_dir: epath.Path, step: int, item: str, abstract: Any) -> Any:
    """Restores one item that holds arrays.

    Args:
      model_dir: of the model.
      step: one of `saved_steps`.
      item: `params` or `opt_state`.
      abstract: `ShapeDtypeStruct`s of the arrays, with the shardings that they shall have.
    """
    return restore_item(model_dir, step, item, ocp.args.StandardRestore(abstract))


def load_params(checkpoint_path: str, mesh: Mesh) -> tuple[params_lib.Params, ModelSpec, str]:
    """The parameters of a checkpoint on the mesh, its base's included.

    Returns:
      Parameters, spec, and the fingerprint of the whole.

    Raises:
      UserError: if the checkpoint, or the base of an adapter-only one, is missing, another, or
        holds numbers that are not finite.
    """
    model_dir, step = resolve(checkpoint_path)
    spec = read_spec(model_dir)
    if spec.base is None:
        abstract = abstract_on_mesh(TransformerLM(spec.config, spec.adaptation), mesh)
        params = _restore_params(model_dir, step, abstract)
        return params, spec, params_lib.fingerprint(params)
    base, _ = load_base(spec, model_dir, mesh)
    params = params_lib.combine(base, load_trained(model_dir, step, mesh))
    return params, spec, params_lib.fingerprint(params)


def load_trained(model_dir: epath.Path, step: int, mesh: Mesh) -> params_lib.Params:
    """The parameters that an adaptation trained, without its base's, on the mesh.

    Raises:
      UserError: if they hold numbers that are not finite.
    """
    spec = read_spec(model_dir)
    abstract = abstract_on_mesh(TransformerLM(spec.config, spec.adaptation), mesh)
    pattern = adaptations.trainable_pattern(spec.adaptation)
    trained, _ = params_lib.partition(abstract, pattern)
    return _restore_params(model_dir, step, trained)


def _restore_params(
    model_dir: epath.Path, step: int, abstract: params_lib.Params
) -> params_lib.Params:
    params = restore_arrays(model_dir, step, "params", abstract)
    params_lib.require_finite(params, f"{model_dir}, step {step}")
    return params


def load_base(
    spec: ModelSpec, model_dir: epath.Path, mesh: Mesh
) -> tuple[params_lib.Params, ModelSpec]:
    """The base model that an adapter-only checkpoint belongs to, checked by its fingerprint."""
    assert spec.base is not None
    path = find_base(spec.base["path"], model_dir)
    params, base_spec, fingerprint = load_params(path, mesh)
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
    """The base's path: as recorded, which is relative to the adaptation, or to where this runs."""
    for candidate in (model_dir / recorded, epath.Path(recorded)):
        if (places.split(candidate)[0] / places.MODEL_FILE).exists():
            return str(candidate)
    raise UserError(f"{model_dir}: its base model {recorded} is gone; put it back")


def base_reference(base_path: str, model_dir: epath.Path) -> str:
    """How a base is recorded: relative to the adaptation where both are local, else as given."""
    if "://" in base_path or not _is_local(model_dir):
        return base_path
    return os.path.relpath(base_path, model_dir)


def abstract_on_mesh(model: TransformerLM, mesh: Mesh) -> params_lib.Params:
    """Shapes, dtypes and shardings of a model's parameters on the mesh."""
    shapes, _ = meshes.abstract_params(model)
    shardings = meshes.param_shardings(model, mesh)
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def load_model(checkpoint_path: str, mesh: Mesh, dtype: str | None = None) -> LoadedModel:
    """Loads a checkpoint to generate from or to evaluate.

    Args:
      checkpoint_path: MODEL_DIR, or MODEL_DIR/checkpoints/STEP.
      mesh: where the parameters go.
      dtype: of activations; the checkpoint's own where None.

    Raises:
      UserError: if it is missing, damaged or inconsistent.
    """
    params, spec, fingerprint = load_params(checkpoint_path, mesh)
    model_dir, _ = resolve(checkpoint_path)
    vocabulary = Vocabulary.load(str(model_dir / places.VOCABULARY_DIR))
    if vocabulary.fingerprint != spec.vocabulary:
        raise UserError(
            f"{model_dir}: its vocabulary/ is {vocabulary.fingerprint}, but the model was trained "
            f"with {spec.vocabulary}; put back the vocabulary that it was trained with"
        )
    config = dataclasses.replace(spec.config, dropout_rate=0.0, remat="none")
    if dtype is not None:
        config = dataclasses.replace(config, dtype=dtype)
    module = TransformerLM(config, spec.adaptation)
    return LoadedModel(module, params, vocabulary, fingerprint, spec)


def check_architecture(wanted: TransformerConfig, found: TransformerConfig, path: str) -> None:
    """Refuses a checkpoint of another architecture, naming the first field that differs."""
    ours, theirs = wanted.architecture(), found.architecture()
    for name, value in ours.items():
        if theirs[name] != value:
            raise UserError(
                f"{path}: a checkpoint of another architecture: {name} is {theirs[name]!r} there, "
                f"{value!r} in MODEL; leave MODEL out to take the checkpoint's"
            )
