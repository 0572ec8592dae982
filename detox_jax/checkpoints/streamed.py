"""Checkpoints of this package, one parameter at a time, so that memory never holds two models.

To write, parameters are first filled in files that are mapped to memory, which the system may page
out; Orbax then writes its own layout from them. To read, one parameter is restored at a time, or
all of a small checkpoint: a restore asks for the same files again, whatever it restores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from detox_jax import atomic_files
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.checkpoints import params as params_lib
from detox_jax.checkpoints import steps as steps_lib
from detox_jax.checkpoints.params import Shapes
from detox_jax.models import adaptation as adaptations
from detox_jax.models.adaptation import LoRAConfig
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.parallel import processes

_SMALL_BYTES = 2**26  # of a checkpoint whose parameters are restored at once and kept


def shapes_of(
    config: TransformerConfig, adaptation: adaptations.Adaptation | None = None
) -> Shapes:
    """The shape of every parameter of a model, by path."""
    return meshes.param_shapes(TransformerLM(config, adaptation))


class Mapped(np.memmap):
    """An array in a file. Orbax copies host arrays before it writes them; this one need not be."""

    def __deepcopy__(self, memo: Any) -> Mapped:
        return self


def mapped_zeros(directory: epath.Path, shapes: Shapes, dtype: Any) -> dict[str, np.ndarray]:
    """Zeros of the given shapes, by path, in files of `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    return {
        path: Mapped(str(directory / str(i)), dtype=dtype, mode="w+", shape=shape)
        for i, (path, shape) in enumerate(shapes.items())
    }


@contextlib.contextmanager
def scratch(output: epath.Path) -> Iterator[epath.Path]:
    """A directory for `mapped_zeros`: in an output on a disk, elsewhere for one in a bucket.

    Elsewhere it is named by the output, whose lock this run holds, and by the process, of which a
    machine may have several: what a killed one of the same left, as large as the model, is removed.
    (In an output `outputs.remove_partial_files` does so.)
    """
    place, prefix = str(output), ".sum."
    if not atomic_files.is_local(output):
        place = tempfile.gettempdir()
        of_output = hashlib.sha256(str(output).rstrip("/").encode()).hexdigest()[:16]
        prefix += f"{of_output}.{processes.current().index}."
        for left in Path(place).glob(f"{prefix}*.partial"):
            shutil.rmtree(left, ignore_errors=True)  # Another user's stays.
    with tempfile.TemporaryDirectory(dir=place, prefix=prefix, suffix=".partial") as directory:
        yield epath.Path(directory)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose parameters are read one at a time.

    Attributes:
      model_dir: its directory.
      step: which of its steps.
      spec: what `model.json` says.
      base: of an adaptation.
    """

    model_dir: epath.Path
    step: int
    spec: checkpoints.ModelSpec
    base: Checkpoint | None = None

    @classmethod
    def open(cls, path: str) -> Checkpoint:
        """Finds a checkpoint, and its base where it is an adaptation's.

        Raises:
          UserError: if either is missing, or the base is not the one that was adapted.
        """
        model_dir, step = checkpoints.resolve(path)
        spec = checkpoints.read_spec(model_dir)
        if spec.base is None:
            return cls(model_dir, step, spec)
        base = cls.open(checkpoints.find_base(spec.base["path"], model_dir))
        checkpoints.check_base(spec, model_dir, base.model_dir, base.fingerprint)
        return cls(model_dir, step, spec, base)

    @functools.cached_property
    def paths(self) -> Shapes:
        """Shapes of the parameters that are stored here, not in the base."""
        shapes = shapes_of(self.spec.config, self.spec.adaptation)
        if self.base is None:
            return shapes
        return {path: shape for path, shape in shapes.items() if path not in self.base.paths}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the parameters that are stored here."""
        return params_lib.fingerprint_of((path, self.read(path)) for path in sorted(self.paths))

    @functools.cached_property
    def _record(self) -> dict[str, Any] | None:
        def read(step: int) -> dict[str, Any] | None:
            return steps_lib.read_record(self.model_dir, step)

        return steps_lib.newest_whole(self.model_dir, read, only=self.step)[1]

    def read(self, path: str) -> np.ndarray:
        """One parameter, from here or from the base.

        Raises:
          UserError: if it is damaged, or holds numbers that are not finite.
        """
        if path not in self.paths and self.base is not None:
            return self.base.read(path)
        value = (self._restored([path]) if self._kept is None else self._kept)[path]
        params_lib.require_finite(nested({path: value}), f"{self.model_dir}, step {self.step}")
        return value

    @functools.cached_property
    def _kept(self) -> dict[str, np.ndarray] | None:
        """All parameters of a small checkpoint, which are not to be changed."""
        if sum(math.prod(shape) * 4 for shape in self.paths.values()) > _SMALL_BYTES:
            return None
        kept = self._restored(self.paths)
        for value in kept.values():
            value.setflags(write=False)
        return kept

    def _restored(self, paths: Iterable[str]) -> dict[str, np.ndarray]:
        item = nested({path: _abstract(self.paths[path]) for path in paths})
        arguments = ocp.args.PyTreeRestore(
            item=item,
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item),
            partial_restore=True,
        )
        directory = checkpoints.checkpoints_dir(self.model_dir) / str(self.step) / "params"
        handler = ocp.PyTreeCheckpointHandler()

        def read(_: int) -> Any:
            return steps_lib.checked(
                "params", self._record, lambda: handler.restore(directory, args=arguments)
            )

        _, restored = steps_lib.newest_whole(self.model_dir, read, only=self.step)
        flat: dict[str, Any] = traverse_util.flatten_dict(restored, sep="/")
        return flat

    def added_bias(self, path: str) -> str | None:
        """The path of what BitFit adds to a bias of the base; None where it adds nothing."""
        added = path.removesuffix("bias") + "added_bias"
        return added if path.endswith("/bias") and added in self.paths else None

    def merged(self, path: str) -> np.ndarray:
        """One parameter of the base model, what LoRA or BitFit adds to it included.

        A sum is float32, whatever its parts are stored in: whoever writes it rounds it, once.
        """
        value = self.read(path)
        added = self.added_bias(path)
        if added is not None:
            return value.astype(np.float32) + self.read(added).astype(np.float32)
        lora = self.spec.adaptation
        a_path, b_path = (path.replace("/kernel", f"/lora_{part}") for part in "ab")
        if not isinstance(lora, LoRAConfig) or a_path == path or a_path not in self.paths:
            return value
        a, b = self.read(a_path), self.read(b_path)
        merged = np.empty(value.shape, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # Who writes it refuses it by its name.
            for i in range(len(value)):  # Layer by layer: float32 copies of one layer alone.
                delta = np.tensordot(a[i].astype(np.float32), b[i].astype(np.float32), axes=1)
                merged[i] = value[i].astype(np.float32) + delta * (lora.alpha / lora.rank)
        return merged


def _abstract(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


def nested(flat: dict[str, Any]) -> params_lib.Params:
    """A tree out of paths."""
    return traverse_util.unflatten_dict(flat, sep="/")


def by_layer(value: np.ndarray, layered: bool) -> Iterator[np.ndarray]:
    """The layers of a stacked parameter, or the parameter itself."""
    yield from value if layered else [value]
