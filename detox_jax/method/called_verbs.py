"""The verbs as `sgeat` and `sweep` call them; gin hands each one in with its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from detox_jax.generation.prompts import PromptMode
from detox_jax.models import adaptation as adaptations
from detox_jax.preview import Step


class Prepare(Protocol):
    """Writes `train`, `prompts` and `heldout_nontoxic` into a directory."""

    def __call__(self, *, output_dir: str) -> None:
        """Does so."""
        ...


class TrainVocabulary(Protocol):
    """`train_vocabulary`."""

    def __call__(
        self, *, documents: str, output_dir: str, check_only: bool = False
    ) -> list[Step] | None:
        """See `vocabulary.train_vocabulary`."""
        ...


class Train(Protocol):
    """`train`, with its settings."""

    def __call__(
        self,
        *,
        model_dir: str,
        mixture_or_task_name: Any,
        initial_checkpoint_path: str | None = None,
        adaptation: adaptations.Adaptation | None = None,
        check_only: bool = False,
        **others: Any,
    ) -> list[Step] | None:
        """See `training.train.train`."""
        ...


class Generate(Protocol):
    """`generate`, with its settings."""

    def __call__(
        self,
        *,
        checkpoint_path: str,
        output_dir: str,
        prompts: PromptMode,
        check_only: bool = False,
        **others: Any,
    ) -> list[Step] | None:
        """See `generation.generate.generate`."""
        ...


class Score(Protocol):
    """`score` with one scorer."""

    def __call__(
        self, *, input: str, output_dir: str, check_only: bool = False
    ) -> list[Step] | None:
        """See `toxicity.score.score`."""
        ...


class Select(Protocol):
    """`filter`, with its settings."""

    def __call__(
        self,
        *,
        input: str,
        output_dir: str,
        size_of: str | None = None,
        check_only: bool = False,
        **others: Any,
    ) -> list[Step] | None:
        """See `toxicity.filter.filter`."""
        ...


class Pair(Protocol):
    """`pair`."""

    def __call__(
        self, *, input: str, output_dir: str, pairing: Any, reference: Any, check_only: bool = False
    ) -> list[Step] | None:
        """See `toxicity.pair.pair`."""
        ...


class Combine(Protocol):
    """`combine`."""

    def __call__(
        self,
        *,
        base: str,
        output_dir: str,
        terms: Mapping[str, float],
        check_only: bool = False,
    ) -> list[Step] | None:
        """See `checkpoints.combine.combine`."""
        ...


class Steer(Protocol):
    """`steer`, with its settings."""

    def __call__(
        self, *, checkpoint_path: str, input: str, output_dir: str, check_only: bool = False
    ) -> list[Step] | None:
        """See `generation.steer.steer`."""
        ...


class Choices(Protocol):
    """`choices` with its tasks."""

    def __call__(
        self, *, checkpoint_path: str, output_dir: str, check_only: bool = False
    ) -> list[Step] | None:
        """See `zero_shot.choices.choices`."""
        ...


class Evaluate(Protocol):
    """`evaluate`, with its settings."""

    def __call__(
        self,
        *,
        methods: Mapping[str, Any],
        output_dir: str,
        baseline: str,
        heldout: str | None,
        reference: str | None,
        command: str | None = None,
        check_only: bool = False,
    ) -> list[Step] | None:
        """See `evaluation.evaluate.evaluate`."""
        ...


class Report(Protocol):
    """`report`."""

    def __call__(
        self, *, results: Sequence[str], output_dir: str, check_only: bool = False, **others: Any
    ) -> list[Step] | None:
        """See `report.report.report`."""
        ...
