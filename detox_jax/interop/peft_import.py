"""LoRA of Hugging Face's PEFT, read onto a base that was imported.

Every field of adapter_config.json is mapped, known to change no logit, or refused by its name, and
every tensor is used exactly once. A LoRA of ours has one rank and one scale, and one pair of
matrices in each layer for each kind of projection; what an adapter leaves out of that is zero, adds
nothing, and gets no gradient: both of its matrices are zero.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from detox_jax import manifests
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import places as checkpoint_places
from detox_jax.checkpoints import streamed
from detox_jax.checkpoints.params import Shapes
from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.errors import UserError
from detox_jax.interop import huggingface, peft, peft_targets
from detox_jax.interop.config_fields import Fields, checked_config, read_json
from detox_jax.interop.peft_targets import BASE_FIELD
from detox_jax.interop.safetensors_io import ADAPTER_FILE, TensorReader, Tensors
from detox_jax.interop.staging import require_read_alike, staged
from detox_jax.interop.tensors import CONFIG_FILE
from detox_jax.models.adaptation import LoRAConfig
from detox_jax.models.config import TransformerConfig
from detox_jax.vocabulary import Vocabulary

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight")


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter's directory, understood but not read.

    Attributes:
      directory: where it is.
      fields: adapter_config.json.
      base_name: the base that it names; None where it names none.
      revision: of that base, where it says one.
    """

    directory: epath.Path
    fields: dict[str, Any]
    base_name: str | None
    revision: str | None

    @property
    def files(self) -> list[epath.Path]:
        """What decides what it computes."""
        return [self.directory / ADAPTER_FILE, self.directory / peft.WEIGHTS_FILE]


def is_adapter(directory: epath.Path) -> bool:
    """Whether a directory holds an adapter without its base."""
    return (directory / ADAPTER_FILE).exists() and not (directory / CONFIG_FILE).exists()


def open_adapter(directory: epath.Path) -> Adapter:
    """Reads what an adapter says of itself.

    Raises:
      UserError: if its config is malformed, or there are no weights of safetensors.
    """
    file = directory / ADAPTER_FILE
    fields = read_json(file)
    named = {name: fields.get(name) for name in (BASE_FIELD, "revision")}
    for name, value in named.items():
        if not isinstance(value, str | None):
            raise UserError(f"{file}: {name} is {value!r}; expected text")
    return Adapter(directory, fields, named[BASE_FIELD] or None, named["revision"] or None)


def require_base(adapter: Adapter) -> None:
    """Says that an adapter needs its base here, and how it comes here.

    Raises:
      UserError: always.
    """
    name = adapter.base_name or "DIR_OR_REPO"
    revision = f" --gin.REVISION={adapter.revision}" if adapter.revision else ""
    raise UserError(
        f"{adapter.directory / ADAPTER_FILE}: an adapter of "
        f"{adapter.base_name or 'a base that it does not name'}; bring that here first, detox-jax "
        f"convert --from_hf={name}{revision} --to=BASE, and then give it: --gin.BASE=BASE"
    )


# --- the base -----------------------------------------------------------------------------------


def check_whole(base: str, spec: checkpoints.ModelSpec) -> None:
    """Refuses a base that is an adaptation.

    Raises:
      UserError: naming it.
    """
    if spec.adaptation is not None:
        raise UserError(f"BASE {base}: is itself an adaptation; give its base")


def check_base(adapter: Adapter, base: Checkpoint, ignored: Sequence[str]) -> None:
    """Refuses a base that is not the one that was adapted.

    Args:
      adapter: names its base, and may name a revision.
      base: a checkpoint of ours.
      ignored: may hold `base_model_name_or_path`, where the user knows that it is the same.

    Raises:
      UserError: naming both.
    """
    file = adapter.directory / ADAPTER_FILE
    check_whole(str(base.model_dir), base.spec)
    if BASE_FIELD in ignored:
        return
    ignore = f'--gin.IGNORE_FIELDS="[{BASE_FIELD!r}]"'
    if adapter.base_name is None:
        raise UserError(
            f"{file}: names no base ({BASE_FIELD}); if it was trained on BASE {base.model_dir}, "
            f"say so: {ignore}"
        )
    same = f"; if they are the same model, say so: {ignore}"
    recorded = huggingface.read_origin(base)
    if recorded is None or not huggingface.is_as_imported(base):
        was = "was trained here" if recorded is None else "was trained further here"
        raise UserError(
            f"{file}: belongs to {adapter.base_name}, and BASE {base.model_dir} {was}; give what "
            f"`convert` made of {adapter.base_name}{same}"
        )
    source = recorded["source"]
    came_from = source.get("repo") or source.get("path")
    if not _is_same(adapter.base_name, source):
        raise UserError(
            f"{file}: belongs to {adapter.base_name}, and BASE {base.model_dir} came from "
            f"{came_from}{same}"
        )
    commit = source.get("revision")
    if adapter.revision is None or commit is None or adapter.revision == commit:
        return
    if _COMMIT.fullmatch(adapter.revision):
        raise UserError(
            f"{file}: belongs to revision {adapter.revision} of {adapter.base_name}, and BASE "
            f"{base.model_dir} is {commit}; bring that one here: --gin.REVISION={adapter.revision}"
        )
    print(f"{file}: names revision {adapter.revision!r} of its base; BASE is {commit}")


def _is_same(name: str, source: Mapping[str, Any]) -> bool:
    """Whether a base's name means what an import recorded: by name, place, or content."""
    if name == source.get("repo"):
        return True
    directory = epath.Path(name)
    if "path" in source and os.path.abspath(name) == os.path.abspath(source["path"]):
        return True
    if not (directory / CONFIG_FILE).exists():
        return False
    return huggingface.content_hash(directory, TensorReader(directory)) == source.get("sha256")


# --- the adapter --------------------------------------------------------------------------------


def read(
    adapter: Adapter, config: TransformerConfig, family: str, ignored: Sequence[str] = ()
) -> tuple[LoRAConfig, dict[str, np.ndarray]]:
    """The LoRA as one of ours.

    Args:
      adapter: its directory.
      config: of the base.
      family: transformers' `model_type` of the base.
      ignored: fields of adapter_config.json that are unknown here, and may be.

    Returns:
      The config, and the trained parameters by path, float32.

    Raises:
      UserError: naming the field, module or tensor that cannot be held.
    """
    file = adapter.directory / ADAPTER_FILE
    if family not in peft.FAMILIES:
        raise UserError(f"no PEFT layout for family {family!r}; one of {', '.join(peft.FAMILIES)}")
    fields = Fields(adapter.fields, str(file), [name for name in ignored if name != BASE_FIELD])
    with checked_config(str(file)):
        targets = peft_targets.Targets.read(fields)
        places = peft_targets.places(targets, config, family)
        ranks = {module: targets.of_module(module) for _, module, _ in places}
        rank = max(rank for rank, _ in ranks.values())
        scales = {scale for _, scale in ranks.values()}
        scale = scales.pop() if len(scales) == 1 else 1.0
        # The scale of ours is alpha / rank; alpha itself is kept where it may be.
        is_plain = rank == targets.rank and scale == targets.alpha / rank
        names = sorted({name for _, _, members in places for name in members})
        lora = LoRAConfig(rank, targets.alpha if is_plain else scale * rank, _target_names(names))
    weights = _weights(adapter, [module for _, module, _ in places])
    shapes = {
        path: shape
        for path, shape in streamed.shapes_of(config, lora).items()
        if re.fullmatch(lora.trainable_pattern, path)
    }
    for _, module, members in places:
        _check_shapes(weights, module, ranks[module][0], members, shapes)
    arrays = {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}
    for layer, module, members in places:
        times = ranks[module][1]
        a_RI, b_OR = (np.asarray(weights.read(_tensor(module, x)), np.float32) for x in "AB")
        b_OR = b_OR if times == scale else b_OR * np.float32(times / scale)
        _put(arrays, layer, members, a_RI, b_OR, peft.FAMILIES[family].fused)
    return lora, arrays


def _target_names(names: Sequence[str]) -> tuple[str, ...]:
    """Our names of projections: `wi` for both halves of a gated MLP."""
    return tuple(dict.fromkeys(re.sub(r"wi_\d", "wi", name.rpartition("/")[2]) for name in names))


def _weights(adapter: Adapter, modules: Sequence[str]) -> Tensors:
    """The tensors, which are those of the modules and no others."""
    file = adapter.directory / peft.WEIGHTS_FILE
    if not file.exists():
        raise UserError(
            f"{adapter.directory}: holds no {peft.WEIGHTS_FILE}; where its weights are a pickle, "
            "load it once, in a sandbox, with PEFT and save_pretrained(NEW_DIR)"
        )
    tensors = Tensors(adapter.directory, [file])
    expected = {_tensor(module, part) for module in modules for part in "AB"}
    if missing := sorted(expected - tensors.shapes.keys()):
        raise UserError(f"{file}: has no {missing[0]!r}, which target_modules names")
    for name in sorted(tensors.shapes.keys() - expected):
        known = _TENSOR.fullmatch(name)
        what = known["module"] if known else name
        raise UserError(
            f"{file}: {name!r} is not supported; {what} is no projection that target_modules names "
            "and a LoRA has here (query, key, value, out, wi, wo of every layer)"
        )
    return tensors


def _tensor(module: str, part: str) -> str:
    return f"base_model.model.{module}.lora_{part}.weight"


def _check_shapes(
    weights: Tensors, module: str, rank: int, members: Sequence[str], shapes: Shapes
) -> None:
    """Refuses matrices that do not fit the base."""
    inputs = math.prod(shapes[f"layers/{members[0]}/lora_a"][1:-1])
    outs = sum(math.prod(shapes[f"layers/{name}/lora_b"][2:]) for name in members)
    for part, shape in (("A", (rank, inputs)), ("B", (outs, rank))):
        name = _tensor(module, part)
        if weights.shapes[name] != shape:
            raise UserError(
                f"{weights.files[0]}: {name!r} has shape {list(weights.shapes[name])}, the base "
                f"and the rank ask for {list(shape)}"
            )


def _put(
    arrays: dict[str, np.ndarray],
    layer: int,
    members: Sequence[str],
    a_RI: np.ndarray,
    b_OR: np.ndarray,
    fused: str | None,
) -> None:
    """Writes a module's matrices into those of our projections; what is beyond its rank stays 0."""
    rank = len(a_RI)
    for number, name in enumerate(members):
        to_a, to_b = (arrays[f"layers/{name}/lora_{part}"][layer] for part in "ab")
        to_a[..., :rank] = a_RI.T.reshape(*to_a.shape[:-1], rank)
        b_RO = b_OR.T
        if len(members) > 1:
            heads, head_dim = to_b.shape[1:]
            parts = (3, heads, head_dim) if fused == "blocks" else (heads, 3, head_dim)
            b_RO = b_RO.reshape(rank, *parts).take(number, axis=1 if fused == "blocks" else 2)
        to_b[:rank] = b_RO.reshape(rank, *to_b.shape[1:])


# --- the checkpoint ----------------------------------------------------------------------------


def import_adapter(
    directory: epath.Path,
    source: Mapping[str, str],
    to: str,
    base_path: str | None,
    verify: bool,
    ignored: Sequence[str],
) -> None:
    """Writes a checkpoint directory of a LoRA from one of PEFT's, over a base that is here.

    Args:
      directory: with adapter_config.json and adapter_model.safetensors.
      source: where it came from.
      to: the checkpoint directory.
      base_path: of the base.
      verify: refused: PEFT's own logits are compared by `make test-interop`.
      ignored: fields of adapter_config.json that are unknown here and do no harm.

    Raises:
      UserError: for another base, or an adapter that cannot be expressed here.
    """
    adapter = open_adapter(directory)
    if base_path is None:
        require_base(adapter)
    if verify:
        raise UserError("--verify compares whole models, and this is an adapter; leave it out")
    base = Checkpoint.open(str(base_path))
    check_base(adapter, base, ignored)
    family = huggingface.choose_family(base.spec.config, huggingface.read_origin(base)).model_type
    lora, arrays = read(adapter, base.spec.config, family, ignored)
    vocabulary = Vocabulary.load(str(base.model_dir / checkpoint_places.VOCABULARY_DIR))
    settings = {
        "source": {**source, "sha256": manifests.hash_files(adapter.files)},
        "base": {"path": str(base_path), "fingerprint": base.fingerprint},
        "vocabulary": vocabulary.files_sha256,
        **({"ignored_fields": list(ignored)} if ignored else {}),
    }
    reference = {
        "path": checkpoints.base_reference(str(base_path), epath.Path(to)),
        "fingerprint": base.fingerprint,
    }
    # A LoRA is float32, also over a base in bfloat16.
    config = dataclasses.replace(base.spec.config, param_dtype="float32")
    spec = checkpoints.ModelSpec(config, lora, reference, vocabulary.fingerprint)
    with staged(to, settings) as output:
        if output is None:
            require_read_alike(to, vocabulary)
            checkpoints.renew_base(epath.Path(to), str(base_path))
            print(f"{to}: is already there, from the same files")
            return
        checkpoints.save_model(output.path, streamed.nested(arrays), spec, vocabulary)
        count = sum(array.size for array in arrays.values())
        output.finish(family=family, parameters=count)
    print(
        f"{to}: LoRA of rank {lora.rank} on {', '.join(lora.target_modules)}, {count:,} parameters"
    )
