"""Models of Hugging Face and T5X from checkpoints here."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from etils import epath

from detox_jax import atomic_files, records
from detox_jax.checkpoints import identity, places, streamed
from detox_jax.checkpoints.model_dir import ModelSpec
from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.errors import UserError
from detox_jax.evaluation import results_files
from detox_jax.interop import (
    adapterhub,
    huggingface,
    model_card,
    peft,
    t5x_checkpoints,
    tokenizers,
)
from detox_jax.interop import verify as verify_lib
from detox_jax.interop.staging import already_there, staged
from detox_jax.kinds import OneOf
from detox_jax.models.adaptation import (
    Adaptation,
    AdapterConfig,
    BitFitConfig,
    LoReFTConfig,
    ParallelAdapterConfig,
    PrefixConfig,
)
from detox_jax.vocabulary import Vocabulary

_ADAPTERS = (AdapterConfig, ParallelAdapterConfig)
_EXPORT_DTYPES = ("float32", "bfloat16", "float16")
_ALONE_DTYPE = "float32"  # in which adaptations are trained
ExportDtype = Annotated[str, OneOf(_EXPORT_DTYPES)]


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
    check_dtype(adaptation, merge_lora, dtype)
    alone = goes_alone(adaptation, merge_lora)
    if alone:
        export = _with_its_own_base(dataclasses.replace(export, dtype=_ALONE_DTYPE))
    if alone and verify:
        raise UserError(
            "--verify compares whole models, and this adaptation goes out alone; merge a LoRA "
            "(MERGE_LORA=True), or leave --verify out"
        )
    if base_name is not None and adaptation is None and export.recorded is None:
        raise UserError(f"BASE_NAME={base_name}: {source} was trained from random weights")
    card_of = None if results is None else results_files.of_one_scorer(results)
    settings = {
        "checkpoint": named(source, checkpoint.step, checkpoint.spec),
        "vocabulary": export.vocabulary.files_sha256,
        "merge_lora": merge_lora,
        "results": None if card_of is None else records.describe_input(str(card_of)),
        **({} if alone else {"dtype": export.dtype, "max_shard_bytes": max_shard_bytes}),
        **({} if license is None else {"license": license}),
        **({} if base_name is None else {"base_name": base_name}),
    }
    with staged(to_hf, settings) as output:
        if output is None:
            print(already_there(to_hf, "checkpoint"))
            if verify:
                verify_lib.verify(source, to_hf, export.dtype)
            return
        measured = None if card_of is None else results_files.read(card_of)
        share = 0.0
        if alone:
            _write_adaptation(export, output.path, to_hf, base_name)
        else:
            share = _write_whole(export, output.path, max_shard_bytes)
            if verify:
                verify_lib.verify(source, str(output.path), export.dtype)
        card = model_card.render(
            model_card.Exported(
                checkpoint,
                source,
                export.recorded,
                export.vocabulary,
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


def named(source: str, step: int, spec: ModelSpec) -> dict[str, Any]:
    """What settings say of a checkpoint that is exported: its making, its weights and its sizes.

    Args:
      source: its path.
      step: which of its steps.
      spec: what its `model.json` says.
    """
    return {**identity.with_weights(source), "step": step, "config": str(spec.without_place())}


def goes_alone(adaptation: Adaptation | None, merge_lora: bool) -> bool:
    """Whether an export is of an adaptation without its base."""
    return isinstance(adaptation, _ADAPTERS) or (adaptation is not None and not merge_lora)


def check_dtype(adaptation: Adaptation | None, merge_lora: bool, dtype: str | None) -> None:
    """Refuses a dtype that an adaptation alone does not go out in.

    Raises:
      UserError: saying in which it does.
    """
    if goes_alone(adaptation, merge_lora) and dtype not in (None, _ALONE_DTYPE):
        raise UserError(
            f"DTYPE is {dtype!r}, and an adaptation alone goes out in {_ALONE_DTYPE}, as it was "
            "trained; leave DTYPE out, or merge a LoRA (MERGE_LORA=True)"
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


def _with_its_own_base(export: _Export) -> _Export:
    """An adaptation's export, whose origin is the model that it belongs to.

    What was imported and trained further is another model than the hub's: an adaptation of it says
    nothing there.
    """
    recorded, base = export.recorded, export.checkpoint.base or export.checkpoint
    if recorded is None or huggingface.is_as_imported(base):
        return export
    source = {"path": str(base.model_dir)}
    return dataclasses.replace(export, recorded={**recorded, "source": source})


def _write_adaptation(
    export: _Export, directory: epath.Path, to_hf: str, base_name: str | None
) -> None:
    """The adaptation alone, in the layout that its library reads, naming its base."""
    checkpoint = export.checkpoint
    family = huggingface.choose_family(checkpoint.spec.config, export.recorded).model_type
    origin = model_card.base_of(export.recorded, base_name)
    # Where transformers finds the base: a repository, or a directory here.
    place = origin.get("path") or (checkpoint.base or checkpoint).model_dir
    name = str(origin.get("repo") or place)
    if "repo" not in origin:
        is_ours = (epath.Path(name) / places.MODEL_FILE).exists()
        export_it = f"export that too (detox-jax convert --from={name} --to_hf=DIR), and "
        print(
            f"{to_hf}: names its base by its place here, {name}; before you share it, "
            f"{export_it if is_ours else ''}give the base's name on the hub: "
            "--gin.BASE_NAME=OWNER/NAME"
        )
    written = (str(checkpoint.model_dir), str(directory))
    if _kind(checkpoint.spec.adaptation) == "peft":
        peft.export(*written, name, family, origin.get("revision"))
    else:
        adapterhub.export(*written, family, base_name_or_path=name)


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
    tokenizers.export(str(checkpoint.model_dir / places.VOCABULARY_DIR), str(directory))
    return huggingface.write_model(checkpoint, directory, fields, export.dtype, max_shard_bytes)


def export_t5x(source: str, to_t5x: str) -> None:
    """Writes a T5X checkpoint to start from; an adaptation goes with its base, as T5X has it."""
    checkpoint = Checkpoint.open(source)
    spec = checkpoint.spec
    with staged(to_t5x, {"checkpoint": named(source, checkpoint.step, spec)}) as output:
        if output is None:
            print(already_there(to_t5x, "checkpoint"))
            return
        paths = streamed.shapes_of(spec.config, spec.adaptation)
        arrays = {path: checkpoint.read(path) for path in paths}
        written = t5x_checkpoints.write(output.path, arrays)
        output.finish(parameters=len(arrays))
    print(f"{epath.Path(to_t5x) / written.name}: {len(arrays)} parameters")
