"""Whole models from and to Hugging Face directories, tensor by tensor.

Every tensor of the directory is used exactly once and has the shape that config.json implies, or
the import fails by its name. A family is a config mapping and a map of tensors, one line a tensor;
lines whose parameters a config lacks (biases, an untied head) drop out, so one map serves every
variant of a family.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from detox_jax import atomic_files, manifests, terminal
from detox_jax.checkpoints import places, streamed
from detox_jax.checkpoints.params import Shapes
from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.errors import UserError
from detox_jax.formats import jsonl
from detox_jax.interop import gpt, llama
from detox_jax.interop.config_fields import (
    Fields,
    architectures,
    checked_config,
    named_type,
    read_json,
)
from detox_jax.interop.family import Family, Map
from detox_jax.interop.layouts import Tensor
from detox_jax.interop.safetensors_io import (
    DTYPES,
    TensorReader,
    TensorWriter,
    refuse_adapter,
)
from detox_jax.interop.tensors import (
    CONFIG_FILE,
    MappedTensors,
    active_lines,
    foreign_names,
    layer_shapes,
)
from detox_jax.models.config import TransformerConfig
from detox_jax.vocabulary import ID_SHIFT, Vocabulary

# By `model_type`. An export is of the first family that holds a model exactly, so the plainer come
# first: a model without a sliding window is a Llama, though Mistral's config.json could say it too.
FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (*gpt.FAMILIES, *llama.FAMILIES)
}
_DTYPE_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_TIED = "token_embedder/embedding"


@dataclasses.dataclass(frozen=True)
class Source:
    """A Hugging Face directory, understood but not read.

    Attributes:
      directory: where it is.
      family: of the model.
      config: this package's, for float32 parameters.
      fields: config.json.
      ignored: its fields that the user says change nothing.
      tensors: the files.
    """

    directory: epath.Path
    family: Family
    config: TransformerConfig
    fields: dict[str, Any]
    ignored: tuple[str, ...]
    tensors: TensorReader

    @property
    def dtype(self) -> str:
        """The dtype of the weights, buffers apart; the widest where there are several."""
        stored = {
            dtype
            for name, dtype in self.tensors.dtypes.items()
            if dtype in DTYPES and not re.fullmatch(self.family.buffers, name)
        }
        names = {ours: name for name, ours in _DTYPE_NAMES.items()}
        return "float32" if len(stored) != 1 else names[stored.pop()]


def open_source(
    directory: epath.Path, param_dtype: str = "float32", ignored: Sequence[str] = ()
) -> Source:
    """Reads config.json and the headers of the weights.

    Args:
      directory: of the model.
      param_dtype: of the parameters here.
      ignored: fields of config.json that are unknown here, and may be.

    Raises:
      UserError: for an unknown family, an unsupported field, or broken files.
    """
    refuse_adapter(directory)
    file = directory / CONFIG_FILE
    fields = read_json(file)
    family = FAMILIES.get(named_type(fields))
    if family is None:
        hint = "supported are " + ", ".join(FAMILIES)
        if fields.get("model_type") == "gemma3":
            hint = "of Gemma 3 the text model alone is, gemma3_text: save model.language_model"
        raise UserError(f"{file}: model_type {fields.get('model_type')!r} is not supported; {hint}")
    named = architectures(fields, str(file), family.architecture)
    if family.architecture not in named:
        raise UserError(
            f"{file}: architectures {named} is no causal language model; expected "
            f"{family.architecture}"
        )
    config = config_from(family, fields, str(file), ignored)
    config = dataclasses.replace(config, param_dtype=param_dtype)
    return Source(directory, family, config, fields, tuple(ignored), TensorReader(directory))


def content_hash(directory: epath.Path, tensors: TensorReader) -> str:
    """What an import records of a model's files, and a base is recognised by: a SHA-256."""
    return manifests.hash_files([directory / CONFIG_FILE, *tensors.files])


def config_from(
    family: Family, fields: dict[str, Any], where: str, ignored: Sequence[str] = ()
) -> TransformerConfig:
    """Maps config.json, every field accounted for.

    Args:
      family: whose fields they are.
      fields: of config.json.
      where: names the file in errors.
      ignored: fields that are unknown here, and may be.

    Raises:
      UserError: naming the field that is missing, malformed or not supported.
    """
    seen = Fields(fields, where, ignored)
    with checked_config(where) as check:
        config = family.read(seen)
        check(config)
    seen.finish()
    return config


def active_map(family: Family, config: TransformerConfig) -> tuple[Map, Shapes]:
    """The lines of a family's map whose parameters a config has, and those parameters' shapes."""
    shapes = streamed.shapes_of(config)
    return active_lines(family.tensors(config.vocab_size - ID_SHIFT), shapes), shapes


# --- import -----------------------------------------------------------------------------------


def read_parameters(source: Source, scratch: epath.Path) -> dict[str, np.ndarray]:
    """The parameters by path, in files of `scratch` that are mapped to memory.

    Raises:
      UserError: if a tensor is missing, left over, of another shape, or holds NaN.
    """
    tensors, shapes = active_map(source.family, source.config)
    stored = stored_names(source)
    mapped = MappedTensors(tensors, shapes, source.config.num_layers)
    mapped.check(source.tensors, stored, str(source.directory))
    _check_left_over(source, stored, mapped.expected.keys())
    arrays = streamed.mapped_zeros(scratch, shapes, source.config.parameter_dtype)
    count = sum(len(tensor.paths) for tensor, _ in mapped.expected.values())
    with terminal.bar("read", count, unit="arrays") as advance:
        for path, place, part in mapped.read(source.tensors, stored):
            arrays[path][place] = part
            advance()
    return arrays


def stored_names(source: Source) -> dict[str, str]:
    """Full tensor names to those in the files, which leave out the prefix of a bare body.

    Of a tied pair either name serves: safetensors' `save_model` keeps one of two names that share
    memory, and that may be the head's.
    """
    prefix, names = source.family.prefix, source.tensors.shapes
    heads = {source.family.head, "lm_head.weight"}
    bare = not any(name.startswith(prefix) for name in names)
    stored = {prefix + name if bare and name not in heads else name: name for name in names}
    embedding = _embedding_name(source.family)
    if source.config.logits_via_embedding and embedding not in stored:
        alone = stored.pop(source.family.head, None)
        stored |= {} if alone is None else {embedding: alone}
    return stored


def _embedding_name(family: Family) -> str:
    return next(name for name, tensor in family.tensors(1).items() if tensor.paths == (_TIED,))


def _check_left_over(source: Source, stored: dict[str, str], used: Any) -> None:
    """Refuses tensors that no line of the map names; a tied head may repeat the embedding."""
    for foreign in sorted(stored.keys() - used):
        if re.fullmatch(source.family.buffers, foreign):
            continue
        if foreign == source.family.head and source.config.logits_via_embedding:
            embedding = _embedding_name(source.family)
            same = source.tensors.shapes[stored[foreign]] == source.tensors.shapes[
                stored[embedding]
            ] and np.array_equal(
                source.tensors.read(stored[foreign]), source.tensors.read(stored[embedding])
            )
            if same:
                continue
            raise UserError(
                f"{source.directory}: {foreign!r} differs from the embedding, but {CONFIG_FILE} "
                "ties the two; set tie_word_embeddings to false there if it is its own"
            )
        raise UserError(
            f"{source.directory}: tensor {foreign!r} belongs to no part of a "
            f"{source.family.model_type} model; nothing is dropped silently"
        )


def origin(source: Source, provenance: dict[str, Any]) -> dict[str, Any]:
    """What an import records of where it came from."""
    recorded = {"source": provenance, "dtype": source.dtype, "config": source.fields}
    return recorded | ({"ignored_fields": list(source.ignored)} if source.ignored else {})


# --- export -----------------------------------------------------------------------------------


def read_origin(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """What the import recorded of this model or of its base; None for one trained here."""
    root = checkpoint.base or checkpoint
    file = root.model_dir / places.ORIGIN_FILE
    return jsonl.json_object(file.read_bytes(), str(file)) if file.exists() else None


def is_as_imported(checkpoint: Checkpoint) -> bool:
    """Whether a model is what `convert` brought here: it has an origin when trained further too."""
    return (
        read_origin(checkpoint) is not None and manifests.verb_of(checkpoint.model_dir) == "convert"
    )


def choose_family(config: TransformerConfig, recorded: dict[str, Any] | None) -> Family:
    """The family that the model came from, or the first that holds its architecture exactly.

    Raises:
      UserError: if none does, naming the nearest and the first field in the way.
    """
    names = list(FAMILIES)
    if recorded is not None:
        names.sort(key=lambda name: name != recorded["config"]["model_type"])
    nearest: tuple[int, str, str] | None = None
    for name in names:
        differences = _differences(FAMILIES[name], config)
        if not differences:
            return FAMILIES[name]
        if nearest is None or len(differences) < nearest[0]:
            nearest = (len(differences), name, differences[0])
    assert nearest is not None
    raise UserError(
        f"no Hugging Face family holds this architecture; the nearest is {nearest[1]}, which has "
        f"another {nearest[2]}"
    )


def _differences(family: Family, config: TransformerConfig) -> list[str]:
    """Fields that a family's config.json cannot hold."""
    try:
        back = config_from(family, family.write(config), family.model_type).architecture()
    except (UserError, TypeError):
        return ["kind of position embedding, norm or activation"] * 99
    ours = config.architecture()
    return [name for name, value in ours.items() if back[name] != value]


def config_fields(
    config: TransformerConfig,
    family: Family,
    recorded: dict[str, Any] | None,
    dtype: str,
    vocabulary: Vocabulary,
) -> dict[str, Any]:
    """config.json: as it came, where it still describes the model; else written anew.

    What came and means another thing than it says is put right, see `meant_fields`.

    Args:
      config: of the model.
      family: that it is exported as.
      recorded: what the import kept.
      dtype: of the exported weights.
      vocabulary: knows the tokens that start and end a text.
    """
    if recorded is not None:
        fields = dict(recorded["config"])
        ignored = recorded.get("ignored_fields", ())
        came_as = FAMILIES[fields["model_type"]]
        same = config_from(came_as, fields, CONFIG_FILE, ignored).architecture()
        if came_as is family and same == config.architecture():
            fields.pop("torch_dtype", None)
            return {**fields, **meant_fields(family, fields), "dtype": dtype}
    ends = [end - ID_SHIFT for end in vocabulary.end_ids]
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **family.write(config),
        "bos_token_id": vocabulary.bos_id - ID_SHIFT,
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "dtype": dtype,
    }


def meant_fields(family: Family, fields: dict[str, Any]) -> dict[str, Any]:
    """What fields of a config.json mean, of those that name another value, see `Family.meant`."""
    return {name: meant for name, said, meant in family.meant if fields.get(name) == said}


def write_model(
    checkpoint: Checkpoint,
    directory: epath.Path,
    fields: dict[str, Any],
    dtype: str,
    max_shard_bytes: int,
) -> float:
    """Writes config.json and the weights, LoRA merged, tensor by tensor.

    Args:
      checkpoint: the model.
      directory: where the files are written.
      fields: the content of config.json, see `config_fields`.
      dtype: of the weights.
      max_shard_bytes: the limit of a file of weights.

    Returns:
      The share of the weights that `dtype` does not hold exactly.

    Raises:
      UserError: for weights that are not finite, in the checkpoint or in `dtype`.
    """
    family = FAMILIES[fields["model_type"]]
    config = checkpoint.spec.config
    tensors, shapes = active_map(family, config)
    plan = {
        foreign: (tensor.layout.foreign_shape(layer_shapes(tensor, shapes)), _DTYPE_NAMES[dtype])
        for name, tensor in tensors.items()
        for foreign in foreign_names(name, tensor, config.num_layers)
    }
    writer = TensorWriter(directory, plan, max_shard_bytes)
    with terminal.bar("write", len(plan), unit="tensors") as advance:
        for foreign, value in foreign_tensors(checkpoint, family):
            writer.write(foreign, value)
            del value  # a layer's part of a parameter, all of which it keeps while the next is read
            advance()
    writer.finish()
    atomic_files.write_json(directory / CONFIG_FILE, fields)
    return writer.num_rounded / writer.num_values


def foreign_tensors(checkpoint: Checkpoint, family: Family) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of a family's model by name, LoRA merged, in no rounded dtype.

    Nothing of a parameter is kept here when the next one is read.
    """
    config = checkpoint.spec.config
    tensors, _ = active_map(family, config)
    for name, tensor in tensors.items():
        yield from _layers_of(checkpoint, tensor, foreign_names(name, tensor, config.num_layers))


def _layers_of(
    checkpoint: Checkpoint, tensor: Tensor, names: Sequence[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """What one or more of our parameters are there, a tensor for each layer."""
    values = [checkpoint.merged(path) for path in tensor.paths]
    layers = zip(*(streamed.by_layer(value, tensor.layered) for value in values), strict=True)
    for name, parts in zip(names, layers, strict=True):
        yield name, tensor.layout.write(parts)
