"""Texts as points of a model's own: means of its hidden states, for selections by distance."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from detox_jax import preview
from detox_jax.checkpoints import places
from detox_jax.checkpoints.identity import identity
from detox_jax.errors import UserError
from detox_jax.kinds import Count

_ALL_TOKENS = 1 << 30
_AT_ONCE = 1024  # texts in memory


@dataclasses.dataclass(frozen=True)
class ModelStates:
    """The mean of a model's final states over a text, for `transport.NearTarget`.

    All tokens but the start token count, of a text that is longer than the context the last ones.
    Means of all texts point nearly the same way: the middle of both sides is subtracted, and
    points then have length 1.

    Attributes:
      checkpoint_path: the model.
      batch_size: texts at once.

    Raises:
      UserError: without a model.
    """

    checkpoint_path: str | None = None
    batch_size: Count = 32

    def __post_init__(self):
        if self.checkpoint_path is None:
            raise UserError("EMBEDDING ModelStates needs EMBEDDING_MODEL, a checkpoint")

    def check(self) -> None:
        """Looks whether the model is there, unless it is to come."""
        if not isinstance(self.checkpoint_path, preview.Coming):
            places.require(str(self.checkpoint_path))

    def described(self) -> dict[str, Any]:
        """As settings hold it: the model by its content."""
        return {"model": identity(str(self.checkpoint_path))}

    def embed(self, candidates: Sequence[str], target: Sequence[str]) -> tuple[Any, Any]:
        """See `transport.Embedding`."""
        from detox_jax.checkpoints import model_dir
        from detox_jax.generation.steering import states
        from detox_jax.models import edits
        from detox_jax.parallel import mesh as meshes

        mesh = meshes.create_mesh(None)
        loaded = model_dir.load_model(str(self.checkpoint_path), mesh, exact=True)

        def read(texts: Sequence[str]) -> np.ndarray:
            ids = states.encoded(loaded.vocabulary, [("", text) for text in texts])
            # A text without a token is its start token alone.
            ids = [text if len(text) > 1 else text * 2 for text in ids]
            return states.read(
                loaded, mesh, ids, edits.FINAL, _ALL_TOKENS, self.batch_size, skipped_tokens=1
            ).astype(np.float32)

        points = [_in_parts(texts, read) for texts in (candidates, target)]
        middle_D = np.mean([of.mean(axis=0) for of in points], axis=0)
        x_ND, y_MD = (_unit(of - middle_D) for of in points)
        return x_ND, y_MD


def _in_parts(texts: Iterable[str], read: Callable[[Sequence[str]], np.ndarray]) -> np.ndarray:
    texts, parts = iter(texts), []
    while some := list(itertools.islice(texts, _AT_ONCE)):
        parts.append(read(some))
    return np.concatenate(parts)


def _unit(points_ND: np.ndarray) -> np.ndarray:
    lengths_N = np.linalg.norm(points_ND, axis=1, keepdims=True)
    return points_ND / np.maximum(lengths_N, np.finfo(np.float32).tiny)
