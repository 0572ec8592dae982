"""Verb `convert`: checkpoints here from models of Hugging Face and T5X, and theirs from ours."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from detox_jax import atomic_files, manifests, outputs, preview, terminal
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import places, streamed
from detox_jax.errors import UserError
from detox_jax.evaluation import results_files
from detox_jax.interop import (
    config_fields,
    exporting,
    hub_upload,
    huggingface,
    importing,
    peft_import,
    t5x_checkpoints,
)
from detox_jax.interop.exporting import ExportDtype
from detox_jax.interop.staging import check_place, is_taken
from detox_jax.kinds import Dtype, Positive
from detox_jax.models.adaptation import Adaptation
from detox_jax.models.config import TransformerConfig
from detox_jax.output_settings import NotYet
from detox_jax.preview import Step
from detox_jax.vocabulary import Vocabulary


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
      dtype: of the exported weights; that of the import, or else `float32`, where None. An
        adaptation alone goes out in `float32`.
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
    ignored = config_fields.ignored_names(ignore_fields)
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
        step = _preview(given, results, base)
        if tuple(given) == ("from", "to_hf"):
            adaptation = checkpoints.read_spec(checkpoints.resolve(given["from"])[0]).adaptation
            exporting.check_dtype(adaptation, merge_lora, dtype)
        # Of what is hashed, or that a model alone decides, the conversion says what differs.
        chosen: dict[str, Any] = {"param_dtype": param_dtype, "merge_lora": merge_lora}
        chosen |= {} if dtype is None else {"dtype": dtype}
        chosen |= {"license": license, "base_name": base_name}
        chosen["max_shard_bytes"] = int(max_shard_gb * 1e9)
        outputs.check(step.output_dir, "convert", lambda: _settings_ahead(given, chosen))
        return [step]
    match given:
        case {"from_hf": str(start), "to": str(target), **rest} if not rest:
            importing.import_model(start, target, revision, param_dtype, verify, ignored, base)
        case {"from": str(start), "to_hf": str(target), **rest} if not rest:
            exporting.export_model(
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
            importing.import_t5x(start, target, described)
        case {"from": str(start), "to_t5x": str(target), **rest} if not rest:
            exporting.export_t5x(start, target)
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
            else:
                peft_import.check_whole(base, checkpoints.read_spec(checkpoints.resolve(base)[0]))
        elif not (epath.Path(source) / huggingface.CONFIG_FILE).exists():
            ours = (epath.Path(source) / places.MODEL_FILE).exists()
            hint = "; it is a checkpoint of this package: --from exports it, to --to_hf=DIR" * ours
            raise UserError(f"--from_hf={source}: holds no {huggingface.CONFIG_FILE}{hint}")
    elif epath.Path(source).exists():
        directory = os.path.dirname(source) or "."
        raise UserError(f"--from_hf={source}: is a file; give its directory, --from_hf={directory}")
    elif not places.is_hub_name(source):
        raise UserError(
            f"--from_hf={source}: no such directory, and no name of the hub, OWNER/NAME"
        )
    if results is not None:
        results_files.read(results_files.of_one_scorer(results))
    path = epath.Path(target)
    if not is_taken(path):
        check_place(target)
    elif not (path / manifests.MANIFEST).exists():
        raise UserError(f"{target}: already holds something; choose another directory")
    return Step("convert", target, {}, size)


def _settings_ahead(given: Mapping[str, str], chosen: Mapping[str, Any]) -> NotYet:
    """What decides a conversion, as far as it is known before its source is read."""
    start, source = next(iter(given.items()))
    if start != "from":
        return NotYet(known=chosen)
    model_dir, step = checkpoints.resolve(source)
    spec = checkpoints.read_spec(model_dir)
    if exporting.goes_alone(spec.adaptation, chosen["merge_lora"]):  # They decide nothing of it.
        chosen = {n: x for n, x in chosen.items() if n not in ("dtype", "max_shard_bytes")}
    vocabulary = Vocabulary.load(str(model_dir / places.VOCABULARY_DIR)).files_sha256
    checkpoint = NotYet(known=exporting.named(source, step, spec))
    return NotYet(known={**chosen, "vocabulary": vocabulary, "checkpoint": checkpoint})
