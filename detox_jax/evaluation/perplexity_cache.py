"""Perplexities that `evaluate` keeps in files, since they are the slow part of a rerun."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from etils import epath

from detox_jax import atomic_files, chat, output_settings, records, segmenters, shared_steps
from detox_jax.checkpoints import places
from detox_jax.checkpoints.identity import text_rules, with_weights
from detox_jax.errors import UserError
from detox_jax.evaluation.rows import ContinuationPerplexity, Perplexity
from detox_jax.evaluation.scored_texts import Scored, texts_sha256
from detox_jax.evaluation.typed_json import from_json, read_json, to_json
from detox_jax.parallel import processes
from detox_jax.segmenters import Segmenter
from detox_jax.tags import Tags
from detox_jax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class HeldoutPerplexity:
    """A model's perplexity on held-out documents as it is steered, or why it has none.

    Attributes:
      perplexity: the figure; None where it is not defined, or nobody measured it.
      undefined: why it is not defined.
    """

    perplexity: Perplexity | None = None
    undefined: str | None = None


T = TypeVar("T", Perplexity, HeldoutPerplexity, ContinuationPerplexity)
_READ = 2  # continuations of each prompt whose perplexity is measured, the first ones
_SHORTER = 4  # times as many continuations at once as windows of documents, which fill the context


@dataclasses.dataclass(frozen=True)
class PerplexityReader:
    """Reads methods and their continuations; a file in `directory` keeps each figure.

    Attributes:
      directory: of the files. Each names what it was computed from, and is computed again where
        that is another.
      heldout: documents of which every method's perplexity is measured, if any.
      reference: checkpoint under which every method's continuations are read, if any.
      batch_size: rows at once.
      mesh_shape: size of the mesh axes; all devices on `data` where None.
      segmenter: of words; white space alone where None.
    """

    directory: epath.Path
    heldout: str | None
    reference: str | None
    batch_size: int
    mesh_shape: Mapping[str, int] | None = None
    segmenter: Segmenter | None = None

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
            self._read_by(checkpoint, behind),
            lambda: perplexity.checkpoint_perplexity(
                checkpoint,
                heldout,
                self.batch_size,
                self.mesh_shape,
                behind=behind,
                segmenter=self.segmenter,
            ),
        )

    def of_steered(
        self,
        name: str,
        checkpoint: str | None,
        steering: Sequence[Any],
        steered_by: Sequence[Any] | None,
        behind: Tags | None = None,
    ) -> HeldoutPerplexity:
        """The same of a steered model; nothing also where nobody gave its methods, now or before.

        Args:
          name: of the method.
          checkpoint: its model, if it has one.
          steering: the methods that steer it, none where only a figure of before will do.
          steered_by: what the manifest of its continuations says of them; None where it is silent.
          behind: tags behind whose good one the documents are read.

        Raises:
          UserError: naming the method, if its steering is not that of its continuations.
        """
        heldout = self.heldout
        if heldout is None or checkpoint is None:
            return HeldoutPerplexity()

        def compute() -> HeldoutPerplexity | None:
            if not steering:
                return None
            from detox_jax.evaluation import perplexity
            from detox_jax.generation.steering import scoring

            if reason := scoring.why_unscored(steering):
                return HeldoutPerplexity(undefined=reason)
            try:
                measured = perplexity.checkpoint_perplexity(
                    checkpoint,
                    heldout,
                    self.batch_size,
                    self.mesh_shape,
                    steering,
                    steered_by,
                    behind,
                    segmenter=self.segmenter,
                )
            except UserError as error:
                raise UserError(f"method {name!r}: {error}") from None
            return HeldoutPerplexity(measured)

        how = describe_steering(steering, steered_by)
        inputs = {**self._read_by(checkpoint, behind), "steering": how}
        file_name = f"perplexity-{name}.json"
        return self._once(HeldoutPerplexity, file_name, inputs, compute) or HeldoutPerplexity()

    def of_continuations(
        self, name: str, checkpoint: str | None, generations: str, scored: Scored
    ) -> ContinuationPerplexity | None:
        """The perplexity of a method's first continuations; None where there is no reference.

        Answers to what was asked in a chat template are read behind the question.

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

        num_samples = min(_READ, scored.samples_per_prompt)  # Of those that compare.
        asked = self._template if scored.is_asked else {}
        return self._once(
            ContinuationPerplexity,
            f"continuation_perplexity-{name}.json",
            {
                "reference": with_weights(reference),
                "model": checkpoint and with_weights(checkpoint),
                "num_samples": num_samples,
                "texts": texts_sha256(records.read_prompts(generations), num_samples),
                **segmenters.settings(self.segmenter),
                **text_rules(reference),
                **asked,
            },
            lambda: perplexity.continuation_perplexity(
                reference,
                generations,
                num_samples=num_samples,
                batch_size=_SHORTER * self.batch_size,
                mesh_shape=self.mesh_shape,
                segmenter=self.segmenter,
                asked=bool(asked),
            ),
        )

    def asks(self) -> bool | None:
        """Whether the reference has a chat template; None where there is no reference."""
        return None if self.reference is None else bool(self._template)

    @functools.cached_property
    def _template(self) -> dict[str, str]:
        """The reference's chat template, as settings name it; nothing where it has none."""
        if self.reference is None:
            return {}
        model_dir, _ = places.split(self.reference)
        vocabulary = Vocabulary.load(str(model_dir / places.VOCABULARY_DIR))
        return chat.settings(chat.exchange(vocabulary))

    def _read_by(self, checkpoint: str, behind: Tags | None) -> dict[str, Any]:
        """What decides a figure on held-out text; nothing of tags where there are none."""
        words, rules = segmenters.settings(self.segmenter), text_rules(checkpoint)
        model = with_weights(checkpoint)
        read = {"model": model, "heldout": self._heldout, **words, **rules}
        return read if behind is None else {**read, "behind": behind.good}

    @functools.cached_property
    def _heldout(self) -> dict[str, Any] | None:
        return None if self.heldout is None else records.describe_input(self.heldout)

    def _once(
        self, kind: type[T], file_name: str, inputs: dict[str, Any], compute: Callable[[], T | None]
    ) -> T | None:
        file = self.directory / file_name
        decided = output_settings.without_notes(inputs)
        files = [file, *_shared(kind.__name__, decided)]

        def read() -> list[tuple[dict[str, Any] | None, bool]]:
            return [_kept(place, decided) for place in files]

        found = dict(zip(files, processes.current().first_decides(read), strict=True))
        for place, (there, _) in found.items():
            if there is not None:
                measured = from_json(kind, there.get("perplexity"), str(place), "perplexity")
                break
        else:
            measured = compute()
        if measured is None:
            return measured
        written = {"inputs": inputs, "perplexity": to_json(measured)}
        for place, (there, is_file) in found.items():
            if there is None:
                place.parent.mkdir(parents=True, exist_ok=True)
                # Another's: what both are called by, when their weights are gone, is of neither.
                is_of_several = place not in files[:2] and is_file
                content = {} if is_of_several else written
                atomic_files.write_json(place, content, in_output=place == file)
        return measured


def describe_steering(steering: Sequence[Any], steered_by: Sequence[Any] | None) -> list[Any]:
    """What stands for methods that steer among what decides: what a manifest says of them.

    Args:
      steering: the methods.
      steered_by: what it says; where it is silent, the methods' own numbers and places stand.
    """
    if steered_by is not None:
        return list(steered_by)
    return [output_settings.describe(method, "steering") for method in steering]


def _shared(kind: str, decided: Mapping[str, Any]) -> list[epath.Path]:
    """The files that runs share a figure in, if they do.

    One is named with what a version before left out, so that models of one recipe have each its
    own; one without, by which a file of before is found, and that of a model that is gone if no
    other of its recipe was read.
    """
    before = {name: output_settings.as_named_before({}, of) for name, of in decided.items()}
    files = (shared_steps.place_of(kind, of) for of in (decided, before))
    return list(dict.fromkeys(file for file in files if file is not None))


def _kept(file: epath.Path, decided: Mapping[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """What a file holds, if it was computed from the same; and whether there is one."""
    if not file.exists():
        return None, False
    kept = read_json(file)
    inputs = output_settings.without_notes(kept.get("inputs"))
    inputs, decided = output_settings.as_both_name(inputs, decided)
    return (kept if inputs == decided else None), True
