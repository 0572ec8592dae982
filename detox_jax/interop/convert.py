"""Verb `convert`: checkpoints here from models of Hugging Face and T5X, and theirs from ours."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from etils import epath

from detox_jax import atomic_files, manifests, preview, records, terminal
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import places, streamed
from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.errors import UserError
from detox_jax.evaluation import results_files
from detox_jax.interop import (
    hub_upload,
    huggingface,
    model_card,
    peft_import,
    safetensors_io,
    t5x_checkpoints,
)
from detox_jax.interop.staging import staged
from detox_jax.kinds import Dtype, OneOf, Positive
from detox_jax.models.adaptation import (
    Adaptation,
    AdapterConfig,
    BitFitConfig,
    LoReFTConfig,
    ParallelAdapterConfig,
    PrefixConfig,
)
from detox_jax.models.config import TransformerConfig
from detox_jax.preview import Step
from detox_jax.vocabulary import ID_SHIFT, Vocabulary

_ADAPTERS = (AdapterConfig, ParallelAdapterConfig)
_EXPORT_DTYPES = ("float32", "bfloat16", "float16")
ExportDtype = Annotated[str, OneOf(_EXPORT_DTYPES)]


def convert(
    from_hf: str | None = None,
    to: str | None = None,
    revision: str | None = None,
    param_dtype: Dtype = "float32",
    ignore_fields: Sequence[str] | str = (),
    source: str | None = None,
    to_hf: str | None = None,
    dtype: ExportDtype | None = None,
    merge_lora: bool = True,
    results: str | None = None,
    max_shard_gb: Positive = 5.0,
    verify: bool = False,
    from_t5x: str | None = None,
    to_t5x: str | None = None,
    base: str | None = None,
    model: TransformerConfig | None = None,
    vocabulary: str | None = None,
    adaptation: Adaptation | None = None,
    push_to_hub: str | None = None,
    hub_private: bool = True,
    hub_revision: str | None = None,
    commit_message: str | None = None,
    license: str | None = None,
    base_name: str | None = None,
    check_only: bool = False,
) -> list[Step] | None:
    """Converts in one direction: from Hugging Face or T5X, or to it.

    Args:
      from_hf: a Hugging Face directory or hub name to import: a model, or a LoRA of PEFT's.
      to: the checkpoint directory that an import writes.
      revision: of a hub name; the newest, which is then recorded, where None.
      param_dtype: of the imported parameters, `float32` or `bfloat16`.
      ignore_fields: fields of config.json that are unknown here and change no logit, as the user
        says; commas separate them in a text.
      source: a checkpoint of this package to export.
      to_hf: the Hugging Face directory that the export writes.
      dtype: of the exported weights; that of the import, or else `float32`, where None.
      merge_lora: add LoRA to the weights; False keeps it apart, in PEFT's layout.
      results: a `results.json` of `evaluate` for the model card.
      max_shard_gb: size of an exported safetensors file.
      verify: compare logits with transformers; a difference above the tolerance is an error.
      from_t5x: a T5X checkpoint, or a directory of them, to import.
      to_t5x: the T5X model directory that the export writes a checkpoint into.
      base: what T5X started from, or what a LoRA of PEFT's adapts: a whole model of this package.
      model: sizes of an imported T5X model that has no `base`.
      vocabulary: directory of its vocabulary.
      adaptation: what T5X trained, beside `base`.
      push_to_hub: a repository of the hub, OWNER/NAME, to upload the export to.
      hub_private: whether a repository that this makes is private.
      hub_revision: the branch that it goes to; the main one where None.
      commit_message: of the upload.
      license: on the model card, by the hub's name of it; the base's where None.
      base_name: the hub's name of the base, on the card and in an adaptation's configuration; the
        repository or directory that it was imported from where None.
      check_only: check what can be checked without work, and return the steps (`preview`).

    Returns:
      The steps where `check_only`.

    Raises:
      UserError: for anything that cannot be converted exactly; nothing is then written.
    """
    of_t5x = (model, vocabulary, adaptation, None if from_hf else base)
    if from_t5x is None and any(x is not None for x in of_t5x):
        raise UserError(
            "MODEL, VOCABULARY_PATH, ADAPTATION and, but for an adapter --from_hf, BASE are for "
            "--from_t5x alone"
        )
    if verify and (from_t5x is not None or to_t5x is not None):
        raise UserError("--verify is for Hugging Face; from and to T5X, bits are copied")
    ignored = _names(ignore_fields)
    if ignored and from_hf is None:
        raise UserError("IGNORE_FIELDS is for --from_hf alone")
    if base_name is not None and to_hf is None:
        raise UserError("BASE_NAME is for --to_hf alone")
    if base_name is not None and not places.is_hub_name(base_name):
        raise UserError(f"BASE_NAME is {base_name!r}; give a name of the hub, OWNER/NAME")
    ends = {"from_hf": from_hf, "from_t5x": from_t5x, "from": source}
    ends |= {"to": to, "to_hf": to_hf, "to_t5x": to_t5x}
    given = {name: end for name, end in ends.items() if end is not None}
    upload = None
    if push_to_hub is not None:
        if to_hf is None:
            raise UserError("--push_to_hub uploads what --to_hf writes; give both")
        upload = hub_upload.Upload(push_to_hub, hub_private, hub_revision, commit_message)
        upload.check()
    if check_only:
        return [_preview(given, results, base)]
    match given:
        case {"from_hf": str(start), "to": str(target), **rest} if not rest:
            import_model(start, target, revision, param_dtype, verify, ignored, base)
        case {"from": str(start), "to_hf": str(target), **rest} if not rest:
            export_model(
                start,
                target,
                dtype=dtype,
                merge_lora=merge_lora,
                results=results,
                max_shard_bytes=int(max_shard_gb * 1e9),
                verify=verify,
                license=license,
                base_name=base_name,
            )
            if upload is not None:
                with terminal.stage("upload"):
                    address = upload.push(epath.Path(target))
                print(f"{target}: uploaded, {address}")
        case {"from_t5x": str(start), "to": str(target), **rest} if not rest:
            described = t5x_checkpoints.Description.of(base, model, vocabulary, adaptation)
            import_t5x(start, target, described)
        case {"from": str(start), "to_t5x": str(target), **rest} if not rest:
            export_t5x(start, target)
        case _:
            raise UserError(_one_way(given))
    return None


_WAYS = {("from_hf", "to"), ("from", "to_hf"), ("from_t5x", "to"), ("from", "to_t5x")}


def _one_way(given: Mapping[str, str]) -> str:
    """What is wrong with the ends of a conversion."""
    missing = ""
    if len(given) == 1:
        (end,) = given
        others = [f"--{other}" for way in sorted(_WAYS) if end in way for other in way]
        missing = f"; {' or '.join(o for o in others if o != f'--{end}')} is missing"
    return (
        "convert goes one way: --from_hf=DIR_OR_REPO --to=DIR, --from=DIR --to_hf=DIR, "
        f"--from_t5x=DIR --to=DIR, or --from=DIR --to_t5x=DIR{missing}"
    )


def _preview(given: Mapping[str, str], results: str | None, base: str | None) -> Step:
    """What there is to convert; a model of the hub is not asked for."""
    if tuple(given) not in _WAYS:
        raise UserError(_one_way(given))
    (start, source), (_, target) = given.items()
    preview.checked_output(target)
    size = None
    if start == "from":
        spec = checkpoints.read_spec(checkpoints.resolve(source)[0])
        shapes = streamed.shapes_of(spec.config, spec.adaptation)
        size = 4 * sum(math.prod(shape) for shape in shapes.values())
    elif start == "from_t5x":
        t5x_checkpoints.resolve(source)
    elif not atomic_files.is_local(source):
        raise UserError(
            f"--from_hf={source}: weights are read from a disk; copy it, and give that directory"
        )
    elif epath.Path(source).is_dir():
        if peft_import.is_adapter(epath.Path(source)):
            adapter = peft_import.open_adapter(epath.Path(source))
            if base is None:
                peft_import.require_base(adapter)
        elif not (epath.Path(source) / huggingface.CONFIG_FILE).exists():
            raise UserError(f"--from_hf={source}: holds no {huggingface.CONFIG_FILE}")
    elif not places.is_hub_name(source):
        raise UserError(
            f"--from_hf={source}: no such directory, and no name of the hub, OWNER/NAME"
        )
    if results is not None:
        results_files.read(results_files.results_file(results))
    path = epath.Path(target)
    if path.exists() and any(path.iterdir()) and not (path / manifests.MANIFEST).exists():
        raise UserError(f"{target}: already holds something; choose another directory")
    return Step("convert", target, {}, size)


def _names(fields: Sequence[str] | str) -> tuple[str, ...]:
    names = fields.split(",") if isinstance(fields, str) else fields
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f"IGNORE_FIELDS is {fields!r}; give names: \"['first', 'second']\"")
    return tuple(name.strip() for name in names)


# --- in ---------------------------------------------------------------------------------------


def import_model(
    from_hf: str,
    to: str,
    revision: str | None,
    param_dtype: str,
    verify: bool,
    ignored: Sequence[str] = (),
    base: str | None = None,
) -> None:
    """Writes a checkpoint directory from a Hugging Face model, or from a LoRA of PEFT's.

    Args:
      from_hf: a local directory, or a repository of the hub.
      to: the checkpoint directory.
      revision: branch, tag or commit of the repository; its main branch where None.
      param_dtype: `float32` or `bfloat16`, in which parameters are kept.
      verify: whether transformers must give the same logits before the output counts as complete.
      ignored: fields of config.json that are unknown here and do no harm.
      base: what a LoRA adapts, a checkpoint that was imported.

    Raises:
      UserError: for another dtype, a model that cannot be expressed here, or one whose tokenizer
        has more tokens than its embedding has rows.
    """
    if param_dtype not in ("float32", "bfloat16"):
        raise UserError(f"PARAM_DTYPE is {param_dtype!r}; one of float32, bfloat16")
    if epath.Path(from_hf).is_dir():
        directory, provenance = epath.Path(from_hf), {}
    else:
        directory, provenance = _module("hub").resolve(from_hf, revision)
    if peft_import.is_adapter(directory):
        peft_import.import_adapter(
            directory, provenance or {"path": from_hf}, to, base, verify, ignored
        )
        return
    if base is not None:
        raise UserError(f"{from_hf}: a whole model; BASE is for an adapter")
    source = huggingface.open_source(directory, param_dtype, ignored)
    if not source.tensors.is_sharded and (directory / safetensors_io.INDEX_FILE).exists():
        print(
            f"{directory}: {safetensors_io.SINGLE_FILE} is read, as transformers does; "
            f"{safetensors_io.INDEX_FILE} and its shards are not"
        )
    vocabulary = Vocabulary.load(str(directory))
    if vocabulary.vocab_size > source.config.vocab_size:
        raise UserError(
            f"{directory}: its tokenizer has {vocabulary.vocab_size - ID_SHIFT} tokens, but its "
            f"embedding has {source.config.vocab_size - ID_SHIFT} rows; the two belong to "
            "different models"
        )
    with terminal.stage("hash the weights"):
        weights = huggingface.content_hash(directory, source.tensors)
    settings = {
        "source": {**(provenance or {"path": from_hf}), "sha256": weights},
        "vocabulary": vocabulary.files_sha256,
        "param_dtype": param_dtype,
        **({"ignored_fields": list(ignored)} if ignored else {}),
    }
    with contextlib.ExitStack() as stack, staged(to, settings) as output:
        if output is None:
            print(f"{to}: is already there, from the same files")
            if verify:
                _verify(to, str(directory), _written(source))
            return
        scratch = stack.enter_context(streamed.scratch(output.path))
        arrays = huggingface.read_parameters(source, scratch)
        spec = checkpoints.ModelSpec(source.config, None, None, vocabulary.fingerprint)
        with terminal.stage("write the checkpoint"):
            checkpoints.save_model(output.path, streamed.nested(arrays), spec, vocabulary)
        del arrays
        stack.close()
        origin = huggingface.origin(source, settings["source"])
        if card := model_card.inherited(directory):
            origin["card"] = card
        atomic_files.write_json(output.path / places.ORIGIN_FILE, origin)
        if verify:
            _verify(str(output.path), str(directory), _written(source))
        count = sum(math.prod(shape) for shape in streamed.shapes_of(source.config).values())
        output.finish(family=source.family.model_type, parameters=count)
    rounded = ""
    if _written(source) != "float32":
        rounded = (
            f", {source.dtype} rounded to {_written(source)}; PARAM_DTYPE=float32 keeps all bits"
        )
    print(f"{to}: {source.family.model_type}, {len(source.tensors.shapes)} tensors{rounded}")


def _written(source: huggingface.Source) -> str:
    """The dtype that the weights were rounded to; float32 holds all of them."""
    stored = source.config.param_dtype
    return "float32" if stored == source.dtype else stored


def import_t5x(from_t5x: str, to: str, described: t5x_checkpoints.Description) -> None:
    """Writes a checkpoint directory from a T5X checkpoint: a whole model, or what was adapted."""
    checkpoint, step = t5x_checkpoints.resolve(from_t5x)
    spec = described.spec(epath.Path(to))
    settings = {"source": {"path": from_t5x, "step": step}, "model": str(spec)}
    with staged(to, settings) as output:
        if output is None:
            print(f"{to}: is already there, from the same checkpoint")
            return
        arrays = t5x_checkpoints.read(checkpoint, spec.config, spec.adaptation)
        params = streamed.nested(arrays)
        if spec.adaptation is not None:
            assert described.base is not None
            params = t5x_checkpoints.trained(arrays, spec.adaptation, described.base)
        elif described.base is not None:
            checkpoints.keep_origin(str(described.base.model_dir), output.path)
        checkpoints.save_model(output.path, params, spec, described.vocabulary, step)
        output.finish(parameters=params_lib.count(params))
    print(f"{to}: step {step}, {params_lib.count(params):,} parameters")


# --- out --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Export:
    """What is exported, and as what."""

    checkpoint: Checkpoint
    recorded: dict[str, Any] | None
    vocabulary: Vocabulary
    dtype: str


def export_model(
    source: str,
    to_hf: str,
    *,
    dtype: str | None,
    merge_lora: bool,
    results: str | None,
    max_shard_bytes: int,
    verify: bool,
    license: str | None = None,
    base_name: str | None = None,
) -> None:
    """Writes a Hugging Face directory from a checkpoint.

    Args:
      source: the checkpoint directory.
      to_hf: a local directory.
      dtype: of the weights; None for that of the model it was imported from, or float32.
      merge_lora: whether a LoRA is merged into its base; otherwise it is written alone, for peft.
      results: a `results.json` of `evaluate`, or its directory, for the model card; None for none.
      max_shard_bytes: the limit of a file of weights.
      verify: whether transformers must give the same logits before the output counts as complete.
      license: on the card; the base's where None.
      base_name: the hub's name of the base; where it was imported from where None.

    Raises:
      UserError: for settings that cannot be, or a model that has no Hugging Face form.
    """
    if not atomic_files.is_local(to_hf):
        raise UserError(f"--to_hf={to_hf}: give a local directory, and upload it from there")
    if max_shard_bytes < 1:
        raise UserError("MAX_SHARD_GB must be positive")
    export = _open_export(source, dtype)
    checkpoint, adaptation = export.checkpoint, export.checkpoint.spec.adaptation
    _require_form(source, adaptation, merge_lora)
    alone = isinstance(adaptation, _ADAPTERS) or (adaptation is not None and not merge_lora)
    if alone and verify:
        raise UserError(
            "--verify compares whole models, and this adaptation goes out alone; merge a LoRA "
            "(MERGE_LORA=True), or leave --verify out"
        )
    if base_name is not None and adaptation is None and export.recorded is None:
        raise UserError(f"BASE_NAME={base_name}: {source} was trained from random weights")
    card_of = None if results is None else results_files.results_file(results)
    settings = {
        "checkpoint": {"path": source, "step": checkpoint.step, "config": str(checkpoint.spec)},
        "dtype": export.dtype,
        "merge_lora": merge_lora,
        "results": None if card_of is None else records.describe_input(str(card_of)),
        "max_shard_bytes": max_shard_bytes,
        **({} if license is None else {"license": license}),
        **({} if base_name is None else {"base_name": base_name}),
    }
    with staged(to_hf, settings) as output:
        if output is None:
            print(f"{to_hf}: is already there, from the same checkpoint")
            if verify:
                _verify(source, to_hf, export.dtype)
            return
        measured = None if card_of is None else results_files.read(card_of)
        share = 0.0
        if alone:
            _write_adaptation(export, output.path, to_hf, base_name)
        else:
            share = _write_whole(export, output.path, max_shard_bytes)
            if verify:
                _verify(source, str(output.path), export.dtype)
        card = model_card.render(
            model_card.Exported(
                checkpoint,
                source,
                export.recorded,
                measured,
                export.dtype,
                _kind(adaptation) if alone else "whole",
                license,
                base_name,
            )
        )
        atomic_files.write_bytes(output.path / model_card.CARD_FILE, card.encode())
        output.finish()
    print(f"{to_hf}: written, {export.dtype}")
    if share:
        measured = "" if verify else "--verify measures what that changes, "
        print(
            f"{to_hf}: {export.dtype} does not hold {share:.1%} of the weights, which are rounded; "
            f"{measured}--gin.DTYPE=float32 keeps all bits"
        )


def _require_form(source: str, adaptation: Adaptation | None, merge: bool) -> None:
    """Refuses what no library of Hugging Face's kind can hold.

    Raises:
      UserError: saying what can be exported.
    """
    without = {PrefixConfig: "a gated prefix", LoReFTConfig: "LoReFT at every position"}
    if type(adaptation) in without:
        raise UserError(
            f"{source}: {without[type(adaptation)]} has no Hugging Face form; export a LoRA, an "
            "adapter or a whole model"
        )
    if isinstance(adaptation, BitFitConfig) and not merge:
        raise UserError(
            f"{source}: PEFT has no form for biases alone; leave MERGE_LORA=True, which adds what "
            "BitFit trained to the base's biases"
        )


def _open_export(source: str, dtype: str | None) -> _Export:
    checkpoint = Checkpoint.open(source)
    recorded = huggingface.read_origin(checkpoint)
    dtype = dtype or (recorded["dtype"] if recorded else "float32")
    if dtype not in _EXPORT_DTYPES:
        raise UserError(f"DTYPE is {dtype!r}; one of {', '.join(_EXPORT_DTYPES)}")
    vocabulary = Vocabulary.load(str(checkpoint.model_dir / places.VOCABULARY_DIR))
    return _Export(checkpoint, recorded, vocabulary, dtype)


def _write_adaptation(
    export: _Export, directory: epath.Path, to_hf: str, base_name: str | None
) -> None:
    """The adaptation alone, in the layout that its library reads, naming its base."""
    checkpoint = export.checkpoint
    kind = _kind(checkpoint.spec.adaptation)
    family = huggingface.choose_family(checkpoint.spec.config, export.recorded).model_type
    origin = model_card.base_of(export.recorded, base_name)
    # Where transformers finds the base: a repository, or a directory here.
    place = origin.get("path") or (checkpoint.base or checkpoint).model_dir
    name = str(origin.get("repo") or place)
    if "repo" not in origin:
        print(
            f"{to_hf}: names its base by its place here, {name}; before you share it, give the "
            "base's name on the hub: --gin.BASE_NAME=OWNER/NAME"
        )
    _module(kind).export(
        str(checkpoint.model_dir),
        str(directory),
        family=family,
        base_name_or_path=name,
        **({"revision": origin.get("revision")} if kind == "peft" else {}),
    )


def _kind(adaptation: Adaptation | None) -> str:
    """The module that writes an adaptation alone."""
    return "adapterhub" if isinstance(adaptation, _ADAPTERS) else "peft"


def _write_whole(export: _Export, directory: epath.Path, max_shard_bytes: int) -> float:
    """The whole model; returns the share of its weights that were rounded."""
    checkpoint = export.checkpoint
    config = checkpoint.spec.config
    family = huggingface.choose_family(config, export.recorded)
    fields = huggingface.config_fields(
        config, family, export.recorded, export.dtype, export.vocabulary
    )
    _module("tokenizers").export(checkpoint.model_dir / places.VOCABULARY_DIR, directory)
    return huggingface.write_model(checkpoint, directory, fields, export.dtype, max_shard_bytes)


def export_t5x(source: str, to_t5x: str) -> None:
    """Writes a T5X checkpoint to start from; an adaptation goes with its base, as T5X has it."""
    checkpoint = Checkpoint.open(source)
    spec = checkpoint.spec
    settings = {"path": source, "step": checkpoint.step, "config": str(spec)}
    with staged(to_t5x, {"checkpoint": settings}) as output:
        if output is None:
            print(f"{to_t5x}: is already there, from the same checkpoint")
            return
        paths = streamed.shapes_of(spec.config, spec.adaptation)
        arrays = {path: checkpoint.read(path) for path in paths}
        written = t5x_checkpoints.write(output.path, arrays)
        output.finish(parameters=len(arrays))
    print(f"{epath.Path(to_t5x) / written.name}: {len(arrays)} parameters")


def _verify(checkpoint_path: str, hf_directory: str, dtype: str) -> None:
    with terminal.stage("compare with transformers"):
        _module("verify").verify(checkpoint_path, hf_directory, dtype)


def _module(name: str) -> Any:
    """A module of this room, imported only by the conversions that need it."""
    return importlib.import_module(f"detox_jax.interop.{name}")
