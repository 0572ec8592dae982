"""Perplexities that `evaluate` keeps in files, since they are the slow part of a rerun."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from etils import epath

from detox_jax import output_settings, outputs, records, shared_steps
from detox_jax.checkpoints.identity import identity
from detox_jax.evaluation.rows import ContinuationPerplexity, Perplexity
from detox_jax.evaluation.scored_texts import Scored, texts_sha256
from detox_jax.evaluation.typed_json import from_json, read_json, to_json
from detox_jax.parallel import processes
from detox_jax.tags import Tags

T = TypeVar("T", Perplexity, ContinuationPerplexity)


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

    def of_model(
        self, name: str, checkpoint: str | None, behind: Tags | None = None
    ) -> Perplexity | None:
        """A method's perplexity on the held-out documents; None where it cannot be measured.

        Args:
          name: of the method.
          checkpoint: its model, if it has one.
          behind: tags behind whose good one the documents are read.
        """
        heldout = self.heldout
        if heldout is None or checkpoint is None:
            return None
        from detox_jax.evaluation import perplexity  # loads the model code: only where it is used

        return self._once(
            Perplexity,
            f"perplexity-{name}.json",
            {
                "model": identity(checkpoint),
                "heldout": self._heldout,
                **({} if behind is None else {"behind": behind.good}),
            },
            lambda: perplexity.checkpoint_perplexity(
                checkpoint, heldout, self.batch_size, None, behind
            ),
        )

    def of_continuations(
        self, name: str, checkpoint: str | None, generations: str, scored: Scored
    ) -> ContinuationPerplexity | None:
        """The perplexity of a method's continuations; None where there is no reference.

        Args:
          name: of the method.
          checkpoint: its model, if it has one.
          generations: its continuations: file, glob or directory.
          scored: the same, read.
        """
        reference = self.reference
        if reference is None:
            return None
        from detox_jax.evaluation import perplexity

        return self._once(
            ContinuationPerplexity,
            f"continuation_perplexity-{name}.json",
            {
                "reference": identity(reference),
                "model": checkpoint and identity(checkpoint),
                "texts": texts_sha256(records.read_prompts(generations), scored.samples_per_prompt),
            },
            lambda: perplexity.continuation_perplexity(reference, generations),
        )

    @functools.cached_property
    def _heldout(self) -> dict[str, Any] | None:
        return None if self.heldout is None else records.describe_input(self.heldout)

    def _once(
        self, kind: type[T], file_name: str, inputs: dict[str, Any], compute: Callable[[], T]
    ) -> T:
        file = self.directory / file_name
        decided = output_settings.without_notes(inputs)
        shared = shared_steps.place_of(kind.__name__, decided)

        def read() -> list[dict[str, Any] | None]:
            return [_kept(file, decided), shared and _kept(shared, decided)]

        here, elsewhere = processes.current().first_decides(read)
        if here is not None:
            return from_json(kind, here.get("perplexity"), str(file), "perplexity")
        if elsewhere is not None:
            measured = from_json(kind, elsewhere.get("perplexity"), str(shared), "perplexity")
        else:
            measured = compute()
        self.directory.mkdir(parents=True, exist_ok=True)
        written = {"inputs": inputs, "perplexity": to_json(measured)}
        outputs.write_json(file, written)
        if elsewhere is None and shared is not None:
            shared.parent.mkdir(parents=True, exist_ok=True)
            outputs.write_json(shared, written)
        return measured


def _kept(file: epath.Path, decided: Any) -> dict[str, Any] | None:
    """What a file holds, if it was computed from the same."""
    kept = read_json(file) if file.exists() else {}
    return kept if output_settings.without_notes(kept.get("inputs")) == decided else None
