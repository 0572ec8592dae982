"""Perplexities that `evaluate` keeps in files, since they are the slow part of a rerun."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

from etils import epath

from detox_jax import outputs, records
from detox_jax.evaluation.joined import Scored
from detox_jax.parallel import processes


@dataclasses.dataclass(frozen=True)
class PerplexityReader:
    """Reads methods and their continuations; a file in `directory` keeps each figure.

    Attributes:
      directory: of the files. Each names what it was computed from, and is computed again where
        that is another.
      heldout: documents of which every method's perplexity is measured, if any.
      reference: checkpoint under which every method's continuations are read, if any.
      batch_size: rows at once.
    """

    directory: epath.Path
    heldout: str | None
    reference: str | None
    batch_size: int

    def read(
        self, name: str, checkpoint: str | None, generations: str, scored: Scored
    ) -> dict[str, Any]:
        """`perplexity` and `continuation_perplexity` of a method, None where there is none.

        Args:
          name: of the method.
          checkpoint: its model, if it has one.
          generations: its continuations: file, glob or directory.
          scored: the same, read.
        """
        from detox_jax.evaluation import perplexity  # loads the model code: only where it is used

        found: dict[str, Any] = {"perplexity": None, "continuation_perplexity": None}
        heldout, reference = self.heldout, self.reference
        if heldout is not None and checkpoint is not None:
            found["perplexity"] = self._once(
                f"perplexity-{name}.json",
                {"model": _model(checkpoint), "heldout": self._heldout},
                lambda: perplexity.checkpoint_perplexity(checkpoint, heldout, self.batch_size),
            )
        if reference is not None:
            found["continuation_perplexity"] = self._once(
                f"continuation_perplexity-{name}.json",
                {
                    "reference": _model(reference),
                    "model": checkpoint and _model(checkpoint),
                    "texts": scored.texts_sha256,
                },
                lambda: perplexity.continuation_perplexity(reference, generations),
            )
        return found

    @functools.cached_property
    def _heldout(self) -> dict[str, Any] | None:
        return None if self.heldout is None else records.describe_input(self.heldout)

    def _once(
        self, file_name: str, inputs: dict[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        file = self.directory / file_name
        kept = processes.current().first_decides(
            lambda: json.loads(file.read_text()) if file.exists() else {}
        )
        if kept.get("inputs") != inputs:
            kept = {"inputs": inputs, "perplexity": compute()}
            self.directory.mkdir(parents=True, exist_ok=True)
            outputs.write_json(file, kept)
        return kept["perplexity"]


def _model(checkpoint_path: str) -> dict[str, Any]:
    """A model's place, and the hash of what its manifest says that it was made from."""
    manifest = epath.Path(checkpoint_path) / outputs.MANIFEST
    made_from = outputs.hash_files([manifest]) if manifest.exists() else None
    return {"path": checkpoint_path, "manifest": made_from}
