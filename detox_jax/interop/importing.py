"""Checkpoints here from models of Hugging Face and T5X."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from etils import epath

from detox_jax import atomic_files, terminal
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import places, streamed
from detox_jax.errors import UserError
from detox_jax.interop import (
    hub,
    huggingface,
    model_card,
    peft_import,
    safetensors_io,
    t5x_checkpoints,
)
from detox_jax.interop import verify as verify_lib
from detox_jax.interop.staging import already_there, require_read_alike, staged
from detox_jax.vocabulary import ID_SHIFT, Vocabulary


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
        directory, provenance = hub.resolve(from_hf, revision)
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
        rows = source.config.vocab_size - ID_SHIFT
        raise UserError(
            f"{directory}: its tokenizer has {vocabulary.vocab_size - ID_SHIFT} tokens, but its "
            f"embedding has {rows} rows; {vocabulary.why_beyond(rows)}"
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
            require_read_alike(to, vocabulary)
            print(f"{to}: is already there, from the same files")
            if verify:
                verify_lib.verify(to, str(directory), _written(source))
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
            verify_lib.verify(str(output.path), str(directory), _written(source))
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
    arrays = t5x_checkpoints.read(checkpoint, spec.config, spec.adaptation)
    fingerprint = params_lib.fingerprint_of(sorted(arrays.items()))
    settings = {
        "source": {"path": from_t5x, "step": step, "fingerprint": fingerprint},
        "model": str(spec.without_place()),
        "vocabulary": described.vocabulary.files_sha256,
    }
    with staged(to, settings) as output:
        if output is None:
            if described.base_path is not None:
                checkpoints.renew_base(epath.Path(to), described.base_path)
            print(already_there(to, "checkpoint"))
            return
        params = streamed.nested(arrays)
        if spec.adaptation is not None:
            assert described.base is not None
            params = t5x_checkpoints.trained(arrays, spec.adaptation, described.base)
        elif described.base is not None:
            checkpoints.keep_origin(str(described.base.model_dir), output.path)
        spec, params = t5x_checkpoints.unrounded(spec, params)
        checkpoints.save_model(output.path, params, spec, described.vocabulary, step)
        output.finish(parameters=params_lib.count(params))
    print(f"{to}: step {step}, {params_lib.count(params):,} parameters")
