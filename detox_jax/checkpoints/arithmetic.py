"""Arithmetic on weights: `base + sum of weight * (model - base)`, one parameter at a time.

Ilharco et al. (2023), "Editing Models with Task Arithmetic": a model that was trained on toxic
text, taken with a negative weight, is forgotten. Sums are float64 and rounded once, to what the
result is stored in. So weight 0 leaves every bit of the base, and weight 1 of one model gives that
model, except for elements that are smaller than the base's by a factor of 2^28.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from detox_jax import terminal
from detox_jax.checkpoints.streamed import Checkpoint
from detox_jax.errors import UserError
from detox_jax.models.adaptation import LoRAConfig

# Of a slice of a parameter's first axis, and of what the base holds there: what is added to it.
Difference = Callable[[slice, np.ndarray], np.ndarray]
_BLOCK = 1 << 22  # elements that are float64 at once
_LAYERS = "layers/"


class Edit(Protocol):
    """A frozen dataclass that changes a model's parameters beside any sum."""

    def open(self, base: Checkpoint) -> Edited:
        """The edit of this model.

        Raises:
          UserError: if it is of another model, or impossible.
        """
        ...


class Edited(Protocol):
    """An edit that has been read."""

    def reference(self) -> dict[str, Any]:
        """What stands for it in settings."""
        ...

    def apply(self, path: str, layer: int, value: np.ndarray) -> np.ndarray:
        """A layer's parameter, in float64, edited; the same object where it is not."""
        ...


@dataclasses.dataclass(frozen=True)
class Term:
    """A model, and how much of its difference from the base is added.

    Attributes:
      checkpoint: a whole model, or an adaptation that changes weights: LoRA, BitFit.
      weight: a negative one forgets what the model learned.
    """

    checkpoint: Checkpoint
    weight: float

    def difference(self, path: str) -> Difference | None:
        """What it adds to a parameter of the base, unweighted; None where that is nothing."""
        checkpoint = self.checkpoint
        if checkpoint.base is None:
            model = checkpoint.read(path)
            return lambda rows, base: _float64(model[rows]) - base
        if (added := checkpoint.added_bias(path)) is not None:
            addition = checkpoint.read(added)
            return lambda rows, base: _float64(addition[rows])
        lora = checkpoint.spec.adaptation
        a_path, b_path = (path.removesuffix("kernel") + f"lora_{part}" for part in "ab")
        if not isinstance(lora, LoRAConfig) or a_path not in checkpoint.paths:
            return None
        a, b = checkpoint.read(a_path), checkpoint.read(b_path)
        # The weight scales this product: scaled by it both, A and B would cancel a minus.
        scale = lora.alpha / lora.rank

        def product(rows: slice, base: np.ndarray) -> np.ndarray:
            del base
            layers = zip(a[rows], b[rows], strict=True)
            return np.stack([scale * np.tensordot(_float64(x), _float64(y), 1) for x, y in layers])

        return product


def weighted_sum(
    base: np.ndarray, models: Sequence[tuple[float, np.ndarray]], dtype: Any = np.float32
) -> np.ndarray:
    """`base + sum of weight * (model - base)`, of one array.

        >>> weighted_sum(np.array([2.0, 1.0]), [(-0.5, np.array([1.0, 2.5]))])
        array([2.5 , 0.25], dtype=float32)

    Args:
      base: any numbers; those that are no fractions, such as counts, are kept as they are.
      models: each with its weight.
      dtype: of the result.
    """
    here = _float64(base)
    return _added(base, [weight * (_float64(model) - here) for weight, model in models], dtype)


def _added(base: np.ndarray, changes: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    """The base with changes in float64, rounded once; where they sum to nothing, its own bits."""
    if not jnp.issubdtype(base.dtype, jnp.floating):
        return base
    kept = base.astype(dtype)
    if not changes:
        return kept
    total = np.sum(changes, axis=0)
    return np.where(total == 0, kept, _rounded(_float64(base) + total, dtype))


def _float64(x: np.ndarray) -> np.ndarray:
    return np.asarray(x).astype(np.float64)


def _rounded(x: np.ndarray, dtype: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # What is too large becomes infinite, and is refused.
        return x.astype(dtype)


class Norms:
    """How far a model has moved: the norm of the change over the norm of the base, by block.

    A block is a layer, or a parameter that no layer has, by its first name.
    """

    def __init__(self):
        self._squares: dict[str, tuple[float, float]] = {}

    def add(self, block: str, base: np.ndarray, result: np.ndarray) -> None:
        """Counts a part of a parameter."""
        change, norm = self._squares.get(block, (0.0, 0.0))
        here = _float64(base)
        self._squares[block] = (
            change + float(np.sum(np.square(_float64(result) - here))),
            norm + float(np.sum(np.square(here))),
        )

    def ratios(self) -> dict[str, float | None]:
        """By block, layers in their order; None where the base is zero."""
        return {block: _ratio(*self._squares[block]) for block in sorted(self._squares, key=_order)}

    def whole(self) -> float | None:
        """Of all blocks together."""
        squares = self._squares.values()
        return _ratio(sum(change for change, _ in squares), sum(norm for _, norm in squares))


def _ratio(change: float, norm: float) -> float | None:
    # The last digits of a sum are no one's business.
    return float(f"{math.sqrt(change / norm):.6g}") if norm else None


def _order(block: str) -> tuple[bool, int, str]:
    number = block.removeprefix(_LAYERS)
    return (True, int(number), "") if number.isdigit() else (False, 0, block)


def add(
    base: Checkpoint,
    terms: Sequence[Term],
    edit: Edited | None,
    into: Mapping[str, np.ndarray],
) -> Norms:
    """Fills the parameters of `base + sum of weight * (model - base)`, edited.

    Of a whole model there is one parameter in memory at a time; what is computed of it in float64
    is a layer, or a block of rows.

    Args:
      base: a whole model.
      terms: of weights that are not 0; their order decides the last bit.
      edit: what is done to the sum.
      into: by path, arrays of the base's shapes in the dtype of the result.

    Returns:
      How far each block moved.

    Raises:
      UserError: for a damaged checkpoint, and for a sum beyond the dtype.
    """
    norms = Norms()
    with terminal.bar("add", len(into), unit="parameters") as advance:
        for path, result in sorted(into.items()):
            _add_to(base, terms, edit, path, result, norms)
            advance()
    return norms


def _add_to(
    base: Checkpoint,
    terms: Sequence[Term],
    edit: Edited | None,
    path: str,
    result: np.ndarray,
    norms: Norms,
) -> None:
    """One parameter: what is read of it is let go with this call."""
    value = base.read(path)
    differences = [(term.weight, term.difference(path)) for term in terms]
    in_layers = path.startswith(_LAYERS)
    for rows in _slices(value.shape, in_layers):
        part = value[rows]
        here = _float64(part)
        changes = [weight * change(rows, here) for weight, change in differences if change]
        result[rows] = _added(part, changes, result.dtype)
        if edit is not None and in_layers:
            total = np.sum([here[0], *(change[0] for change in changes)], axis=0)
            edited = edit.apply(path, rows.start, total)
            if edited is not total:
                result[rows] = _rounded(edited, result.dtype)
        if not np.isfinite(result[rows].astype(np.float32)).all():
            raise UserError(
                f"TERMS: their weights take {path} beyond what {result.dtype} holds; lower them"
            )
        block = f"{_LAYERS}{rows.start}" if in_layers else path.partition("/")[0]
        norms.add(block, part, result[rows])


def _slices(shape: Sequence[int], in_layers: bool) -> Iterator[slice]:
    """Of the first axis: a layer each, or so many rows as are computed at once."""
    step = 1 if in_layers else max(1, _BLOCK // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def scaled(term: Term, pattern: str) -> Iterator[tuple[str, np.ndarray]]:
    """The parameters of an adaptation whose addition is multiplied by the weight.

    Args:
      term: an adaptation.
      pattern: of the parameters in which its addition is linear, `scaled_pattern` of its config.

    Yields:
      Path and array of every parameter that it trained.
    """
    for path in sorted(term.checkpoint.paths):
        value = term.checkpoint.read(path)
        if re.fullmatch(pattern, path) and term.weight != 1:
            value = _rounded(_float64(value) * term.weight, value.dtype)
        yield path, value
