"""How one Hugging Face tensor and this package's parameters hold the same numbers.

A line of a family's map is `"hugging.face.name": Tensor(layout, path, ...)`. `{}` in a name stands
for the layer; a path below `layers/` is stacked over layers here, and a layout sees one layer of
it. Layouts only move numbers, so that a round trip is exact to the bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from detox_jax.vocabulary import ID_SHIFT

Shape = tuple[int, ...]


class Layout(Protocol):
    """Both directions of one correspondence; `shapes` are those of this package's parameters."""

    def foreign_shape(self, shapes: Sequence[Shape]) -> Shape:
        """The shape that the Hugging Face tensor must have."""
        ...

    def read(self, foreign: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """The parameters that a Hugging Face tensor holds."""
        ...

    def write(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """The Hugging Face tensor that holds the parameters."""
        ...


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A line of a map.

    Attributes:
      layout: how the numbers lie.
      paths: of this package's parameters that the tensor holds.
    """

    layout: Layout
    paths: tuple[str, ...]

    def __init__(self, layout: Layout, *paths: str):
        object.__setattr__(self, "layout", layout)
        object.__setattr__(self, "paths", paths)

    @property
    def layered(self) -> bool:
        """Whether there is one Hugging Face tensor for each layer."""
        return self.paths[0].startswith("layers/")


@dataclasses.dataclass(frozen=True)
class Flat:
    """Norms and biases: one axis there, as many as need be here."""

    def foreign_shape(self, shapes: Sequence[Shape]) -> Shape:
        """One axis."""
        return (math.prod(shapes[0]),)

    def read(self, foreign: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Splits the axis."""
        return [foreign.reshape(shapes[0])]

    def write(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Joins the axes."""
        return ours[0].reshape(-1)


@dataclasses.dataclass(frozen=True)
class Copied:
    """A table of positions, row for row: the same here as there."""

    def foreign_shape(self, shapes: Sequence[Shape]) -> Shape:
        """The same."""
        return shapes[0]

    def read(self, foreign: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """The same."""
        return [foreign]

    def write(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """The same."""
        return ours[0]


@dataclasses.dataclass(frozen=True)
class Rows:
    """A table of tokens: row i there is row i + 1 here, behind padding; rows to 128 are zero.

    Attributes:
      num_tokens: rows of the Hugging Face table.
    """

    num_tokens: int

    def foreign_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Without the rows that stand for no token."""
        return (self.num_tokens, shapes[0][1])

    def read(self, foreign: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Shifts by one."""
        table = np.zeros(shapes[0], foreign.dtype)
        table[ID_SHIFT : self.num_tokens + ID_SHIFT] = foreign
        return [table]

    def write(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Drops padding."""
        return ours[0][ID_SHIFT : self.num_tokens + ID_SHIFT]


@dataclasses.dataclass(frozen=True)
class Linear:
    """`torch.nn.Linear`: `[out, in]` there, `[*in, *out]` here.

    Attributes:
      num_in: axes of `in` here.
    """

    num_in: int = 1

    def foreign_shape(self, shapes: Sequence[Shape]) -> Shape:
        """`(out, in)`."""
        return (math.prod(shapes[0][self.num_in :]), math.prod(shapes[0][: self.num_in]))

    def read(self, foreign: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Transposes."""
        return [foreign.T.reshape(shapes[0])]

    def write(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Transposes."""
        rows = math.prod(ours[0].shape[: self.num_in])
        return ours[0].reshape(rows, -1).T


@dataclasses.dataclass(frozen=True)
class Conv1D:
    """GPT-2's own linear layer: `[in, out]` there; several paths lie side by side in `out`.

    Attributes:
      num_in: axes of `in` here; 0 for a bias.
    """

    num_in: int = 1

    def foreign_shape(self, shapes: Sequence[Shape]) -> Shape:
        """`(in, out)`, or `(out,)` of a bias."""
        out = sum(math.prod(shape[self.num_in :]) for shape in shapes)
        return (math.prod(shapes[0][: self.num_in]), out) if self.num_in else (out,)

    def read(self, foreign: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Splits `out`."""
        parts = np.split(foreign, len(shapes), axis=-1)
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def write(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Joins along `out`."""
        lead = (math.prod(ours[0].shape[: self.num_in]),) if self.num_in else ()
        return np.concatenate([part.reshape(*lead, -1) for part in ours], axis=-1)


@dataclasses.dataclass(frozen=True)
class FusedHeads:
    """GPT-NeoX's queries, keys and values: `[H * 3 * K, D]` there, three of `[D, H, K]` here.

    A bias is `[H * 3 * K]` there and three of `[H, K]` here.
    """

    def foreign_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Heads outside, the three inside."""
        heads, size = shapes[0][-2:]
        return (heads * 3 * size, *shapes[0][:-2])

    def read(self, foreign: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Takes the three apart."""
        heads, size = shapes[0][-2:]
        parts = foreign.reshape(heads, 3, size, *foreign.shape[1:])
        # [H, K, D] to [D, H, K]; a bias has no D.
        three = [parts[:, i] for i in range(3)]
        return three if foreign.ndim == 1 else [np.moveaxis(part, -1, 0) for part in three]

    def write(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Puts the three together."""
        last = [part if part.ndim == 2 else np.moveaxis(part, 0, -1) for part in ours]
        joined = np.stack(last, axis=1)
        return joined.reshape(-1, *joined.shape[3:])
