"""Safetensors directories, one tensor at a time: sharded or not, read and written.

Pickled weights are refused: unpickling runs whatever code the file holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from detox_jax import atomic_files
from detox_jax.errors import UserError, in_one_line, unread
from detox_jax.formats import jsonl

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_FILE = "adapter_config.json"
DTYPES: dict[str, Any] = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")


def refuse_adapter(directory: epath.Path) -> None:
    """Refuses a directory whose model is not all that transformers would load from it.

    Raises:
      UserError: if it holds an adapter of PEFT, which transformers puts into the model.
    """
    if (directory / ADAPTER_FILE).exists():
        raise UserError(
            f"{directory / ADAPTER_FILE}: an adapter, which transformers loads with its base; save "
            "the two as one with PEFT's merge_and_unload, or take the adapter's files away"
        )


class Tensors:
    """The tensors of safetensors files by name.

    Attributes:
      files: the files, in order.
      shapes: of every tensor.
      dtypes: of every tensor, as safetensors names them.

    Raises:
      UserError: if a file is cut short, or a tensor stands in two.
    """

    def __init__(self, directory: epath.Path, files: Iterable[epath.Path]):
        """Reads the headers.

        Args:
          directory: names the place in errors.
          files: what to read.
        """
        self._directory = directory
        self.files = list(files)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._handles: dict[str, Any] = {}
        for file in self.files:
            self._open(file)

    def _open(self, file: epath.Path) -> None:
        try:
            handle = safetensors.safe_open(str(file), "np")
            names = list(handle.keys())
            for name in names:
                if name in self._handles:
                    raise UserError(f"{file}: tensor {name!r} is in two shards")
                part = handle.get_slice(name)
                self.shapes[name] = tuple(part.get_shape())
                self.dtypes[name] = part.get_dtype()
                self._handles[name] = handle
        except (safetensors.SafetensorError, OSError) as error:
            raise unread(file, error) or UserError(
                f"{file}: not a whole safetensors file ({in_one_line(error)}); download it again"
            ) from None

    def read(self, name: str) -> np.ndarray:
        """One tensor, in the dtype that it is stored in.

        Raises:
          UserError: if it is neither float32, bfloat16 nor float16, or holds NaN or infinity.
        """
        if self.dtypes[name] not in DTYPES:
            raise UserError(
                f"{self._directory}: tensor {name!r} is {self.dtypes[name]}; float32, bfloat16 and "
                "float16 are read, quantised weights are not"
            )
        tensor = self._handles[name].get_tensor(name)
        if not np.isfinite(tensor.astype(np.float32)).all():
            raise UserError(
                f"{self._directory}: tensor {name!r} holds NaN or infinity; take another"
            )
        return tensor


class TensorReader(Tensors):
    """The tensors of a model's directory by name.

    Attributes:
      is_sharded: whether an index says which file holds a tensor.

    Raises:
      UserError: if the weights are pickled, missing, cut short or inconsistent.
    """

    def __init__(self, directory: epath.Path, auto_class: str = "AutoModelForCausalLM"):
        """Reads the headers.

        Args:
          directory: of the model.
          auto_class: of transformers, that reads such a model; for the remedy that errors name.
        """
        self._directory = directory
        self._remedy = (
            "convert it once, in a sandbox, with transformers: "
            f"{auto_class}.from_pretrained(DIR).save_pretrained(NEW_DIR)"
        )
        refuse_adapter(directory)
        wanted = self._find()
        self.is_sharded = bool(wanted)
        names = sorted(set(wanted.values())) or [SINGLE_FILE]
        super().__init__(directory, [directory / name for name in names])
        if wanted and (difference := wanted.keys() ^ self.shapes.keys()):
            name = min(difference)
            there = "the index lacks it" if name in self.shapes else "no shard holds it"
            raise UserError(
                f"{directory / INDEX_FILE}: does not fit its shards: tensor {name!r}: {there}; "
                "download the model again"
            )

    def _find(self) -> dict[str, str]:
        """Which shard holds each tensor, by the index; empty where there is only one file."""
        directory = self._directory
        # Where both are there, transformers reads the single file, and so do we: the index may be
        # that of an older model.
        if (directory / SINGLE_FILE).exists():
            return {}
        if (directory / INDEX_FILE).exists():
            file = directory / INDEX_FILE
            wanted = jsonl.json_object(file.read_bytes(), str(file)).get("weight_map")
            if not isinstance(wanted, dict) or not wanted:
                raise UserError(f"{file}: has no weight_map; download it again")
            if not all(isinstance(name, str) for name in wanted.values()):
                raise UserError(f"{file}: weight_map names no files; download it again")
            for name in sorted(set(wanted.values())):
                if Path(name).name != name or not (directory / name).exists():
                    shown = name if name.isprintable() else repr(name)
                    raise UserError(f"{directory}: shard {shown} is missing; download it again")
            return wanted
        for pattern in _PICKLES:
            for file in sorted(directory.glob(pattern)):
                raise UserError(
                    f"{file}: only safetensors are read, since a pickle can run any code; "
                    f"{self._remedy}"
                )
        # Of a hub name pickles are not even downloaded.
        raise UserError(
            f"{directory}: holds no {SINGLE_FILE} and no {INDEX_FILE}; where a model is published "
            f"as a pickle alone, {self._remedy}"
        )


class TensorWriter:
    """Writes tensors at their places in files whose headers are written first.

    A shard holds at most `max_shard_bytes`, and at least one tensor.

    Attributes:
      num_values: written so far.
      num_rounded: of them, those that their planned dtype does not hold exactly.
    """

    def __init__(
        self,
        directory: epath.Path,
        tensors: Mapping[str, tuple[tuple[int, ...], str]],
        max_shard_bytes: int,
    ):
        """Plans the files.

        Args:
          directory: where they go; exists.
          tensors: shape and safetensors dtype of every tensor, in the order to write.
          max_shard_bytes: of tensors in one file.
        """
        self._places: dict[str, tuple[epath.Path, int]] = {}
        self._tensors = dict(tensors)
        self._left = set(tensors)
        self.num_values = self.num_rounded = 0
        shards = _shards(tensors, max_shard_bytes)
        names = [SINGLE_FILE]
        if len(shards) > 1:
            names = [
                f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))
            ]
        for file, shard in zip(names, shards, strict=True):
            self._create(directory / file, shard)
        if len(shards) > 1:
            weight_map = {
                name: file for file, shard in zip(names, shards, strict=True) for name in shard
            }
            total = sum(_num_bytes(*spec) for spec in tensors.values())
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            atomic_files.write_json(directory / INDEX_FILE, index)

    def _create(self, file: epath.Path, names: Iterable[str]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name in names:
            shape, dtype = self._tensors[name]
            end = offset + _num_bytes(shape, dtype)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
            offset = end
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)
        start = 8 + len(encoded)
        with open(file, "wb") as stream:
            stream.write(len(encoded).to_bytes(8, "little") + encoded)
            stream.truncate(start + offset)
        for name, entry in header.items():
            if name != "__metadata__":
                self._places[name] = (file, start + entry["data_offsets"][0])

    def write(self, name: str, tensor: np.ndarray) -> None:
        """Writes one tensor, cast to its planned dtype.

        Raises:
          UserError: if it holds a number that is not finite there, or beyond that dtype.
        """
        shape, dtype = self._tensors[name]
        assert tensor.shape == shape, (name, tensor.shape, shape)
        file, offset = self._places[name]
        stored = rounded(tensor, DTYPES[dtype].name, f"tensor {name!r}")
        self.num_values += stored.size
        self.num_rounded += np.count_nonzero(stored.astype(np.float32) != tensor.astype(np.float32))
        with open(file, "r+b") as stream:
            stream.seek(offset)
            stream.write(np.ascontiguousarray(stored).tobytes())
        self._left.remove(name)

    def finish(self) -> None:
        """Checks that every tensor was written once."""
        assert not self._left, sorted(self._left)


def rounded(array: np.ndarray, dtype: str, where: str) -> np.ndarray:
    """The array in another dtype, by its name.

    Raises:
      UserError: naming `where`, if a number is not finite, or not in that dtype.
    """
    with np.errstate(over="ignore"):
        cast = array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if not np.isfinite(cast.astype(np.float32)).all():
        if not np.isfinite(array.astype(np.float32)).all():
            raise UserError(f"{where} holds NaN or infinity; give a checkpoint that is finite")
        raise UserError(
            f"{where} holds {np.abs(array.astype(np.float32)).max():.3g}, beyond what "
            f"{dtype} holds; pass --gin.DTYPE=float32"
        )
    return cast


def _num_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * DTYPES[dtype].itemsize


def _shards(tensors: Mapping[str, tuple[tuple[int, ...], str]], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, (shape, dtype) in tensors.items():
        added = _num_bytes(shape, dtype)
        if shards[-1] and size + added > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += added
    return shards
