"""Which documents `filter` keeps: by their score, at random, one selection after the other.

Selections that look at more than scores have files of their own: `distinct`, `transport`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from detox_jax import output_settings, records, segmenters
from detox_jax.errors import UserError
from detox_jax.kinds import Share
from detox_jax.toxicity import corpus
from detox_jax.toxicity.lengths import whole_share

# By which selections keep few, and what users set them by.
_LIMITS = {
    "fraction": "KEEP_FRACTION",
    "toxicity": "HIGHEST_TOXICITY",
    "most": "MOST_REPEATED",
}


class Selection(Protocol):
    """Chooses which scored documents to keep.

    Attributes:
      uses_toxicity: whether it looks at the scores.

    One that computes with JAX says so by `on_mesh = True`: of several processes, all then select
    among the same documents.
    """

    uses_toxicity: ClassVar[bool]

    def select(
        self, documents: Sequence[records.Document], generator: np.random.Generator
    ) -> Sequence[records.Document]:
        """The documents to keep, in any order."""
        ...


@runtime_checkable
class TellingSelection(Selection, Protocol):
    """A selection that reads something of its own and has more to say (`transport.NearTarget`)."""

    def check(self) -> None:
        """Raises UserError where what it reads is not there, unless that is to come."""
        ...

    def described(self) -> dict[str, Any]:
        """As settings hold it."""
        ...

    def filtered_by(self) -> Any:
        """The scorer that chose what it reads, so that results say so; None where none did."""
        ...

    def select_and_count(
        self, documents: Sequence[records.Document], generator: np.random.Generator
    ) -> tuple[Sequence[records.Document], dict[str, Any]]:
        """What is kept, and what the manifest says of how."""
        ...


@dataclasses.dataclass(frozen=True)
class _Share:
    """What selections of a share have in common.

    Attributes:
      fraction: of the documents, to keep.
    """

    fraction: float = 0.5

    uses_toxicity: ClassVar[bool] = True

    def __post_init__(self):
        _check_fraction(self.fraction)


@dataclasses.dataclass(frozen=True)
class LeastToxic(_Share):
    """The least toxic share of the documents; SGEAT keeps half (SPEC: `filter`)."""

    def select(
        self, documents: Sequence[records.Document], generator: np.random.Generator
    ) -> Sequence[records.Document]:
        """See `Selection`; of equally toxic documents, the hash of the id decides."""
        del generator
        count = whole_share(len(documents), self.fraction)
        toxicity_N, hash_N = corpus.toxicity_of(documents), corpus.hashes_of(documents)
        return corpus.taken(documents, _least_toxic(toxicity_N, hash_N, count))


@dataclasses.dataclass(frozen=True)
class MostToxic(_Share):
    """The most toxic share of the documents: what an anti-expert is trained on."""

    def select(
        self, documents: Sequence[records.Document], generator: np.random.Generator
    ) -> Sequence[records.Document]:
        """See `Selection`; all that `LeastToxic` of the other share leaves."""
        del generator
        left = len(documents) - whole_share(len(documents), self.fraction)
        toxicity_N, hash_N = corpus.toxicity_of(documents), corpus.hashes_of(documents)
        return corpus.taken(documents, np.lexsort((hash_N, toxicity_N))[left:])


@dataclasses.dataclass(frozen=True)
class LeastToxicPerLength(_Share):
    """The least toxic share within each quantile of length.

    The least toxic half is also the shorter half; filtering within strata tells a model that
    became polite from one that learnt to stop.

    Attributes:
      fraction: kept of each stratum.
      strata: how many quantiles of length in words.
    """

    strata: int = 10

    def __post_init__(self):
        super().__post_init__()
        if self.strata < 1:
            raise UserError(f"LeastToxicPerLength.strata is {self.strata}; must be at least 1")

    def select(
        self, documents: Sequence[records.Document], generator: np.random.Generator
    ) -> Sequence[records.Document]:
        """See `Selection`; of all the strata together exactly the fraction is kept."""
        del generator
        toxicity_N, hash_N = corpus.toxicity_of(documents), corpus.hashes_of(documents)
        order_N = np.lexsort((hash_N, corpus.words_of(documents)))
        edges = [len(order_N) * i // self.strata for i in range(self.strata + 1)]
        selected = []
        for first, end in itertools.pairwise(edges):
            count = whole_share(end, self.fraction) - whole_share(first, self.fraction)
            stratum_N = order_N[first:end]
            mildest_N = _least_toxic(toxicity_N[stratum_N], hash_N[stratum_N], count)
            selected.append(stratum_N[mildest_N])
        return corpus.taken(documents, np.concatenate(selected))


@dataclasses.dataclass(frozen=True)
class RandomShare(_Share):
    """A random share: the control that shows what filtering adds to self-generation."""

    uses_toxicity: ClassVar[bool] = False

    def select(
        self, documents: Sequence[records.Document], generator: np.random.Generator
    ) -> Sequence[records.Document]:
        """See `Selection`."""
        chosen = generator.permutation(len(documents))[: whole_share(len(documents), self.fraction)]
        return corpus.taken(documents, np.sort(chosen))


@dataclasses.dataclass(frozen=True)
class AtMost:
    """The documents whose score is at most a threshold, however many they are.

    Attributes:
      toxicity: the highest score that is kept.
    """

    toxicity: Share = 0.1

    uses_toxicity: ClassVar[bool] = True

    def select(
        self, documents: Sequence[records.Document], generator: np.random.Generator
    ) -> Sequence[records.Document]:
        """See `Selection`."""
        del generator
        return corpus.taken(
            documents, np.flatnonzero(corpus.toxicity_of(documents) <= self.toxicity)
        )


@dataclasses.dataclass(frozen=True)
class InTurn:
    """Selections one after the other, each of what the one before has left.

    The manifest counts what each of them leaves.

    Attributes:
      steps: the selections; `[@distinct.NearDistinct(), @filter.LeastToxic()]`.
    """

    steps: Sequence[Selection] = ()

    def __post_init__(self):
        if not self.steps:
            raise UserError("InTurn.steps is empty; give selections: [@distinct.Distinct(), ...]")
        for step in self.steps:
            if isinstance(step, InTurn) or not hasattr(step, "select"):
                raise UserError(
                    f"InTurn.steps holds {step!r}, which selects no documents by itself"
                )

    @property
    def uses_toxicity(self) -> bool:
        """Whether one of them looks at the scores."""
        return any(step.uses_toxicity for step in self.steps)

    def select(
        self, documents: Sequence[records.Document], generator: np.random.Generator
    ) -> Sequence[records.Document]:
        """See `Selection`."""
        return self.select_and_count(documents, generator)[0]

    def select_and_count(
        self, documents: Sequence[records.Document], generator: np.random.Generator
    ) -> tuple[Sequence[records.Document], list[dict[str, Any]]]:
        """What is left, and how many documents each step was given and left, in their order."""
        counts = []
        for step in self.steps:
            left, told = select(step, documents, generator)
            name, number = type(step).__name__, len(documents)
            counts.append({"selection": name, "documents": number, "kept": len(left), **told})
            documents = left
        return documents, counts


def _least_toxic(toxicity_N: np.ndarray, hash_N: np.ndarray, count: int) -> np.ndarray:
    """Positions of so many, least toxic first; of equals, that with the lower hash of the id."""
    near_N = np.arange(len(toxicity_N))
    if count < len(near_N):  # Others need not be sorted; NaN comes last.
        near_N = np.flatnonzero(~(toxicity_N > np.partition(toxicity_N, count)[count]))
    return near_N[np.lexsort((hash_N[near_N], toxicity_N[near_N]))][:count]


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise UserError(f"KEEP_FRACTION is {fraction}; must be in (0, 1]")


# --- what the verb does with any of them ------------------------------------------------------


def select(
    selection: Any, documents: Sequence[records.Document], generator: np.random.Generator
) -> tuple[Sequence[records.Document], dict[str, Any]]:
    """What a selection keeps, and what the manifest says of how."""
    if isinstance(selection, InTurn):
        selected, steps = selection.select_and_count(documents, generator)
        return selected, {"steps": steps}
    if isinstance(selection, TellingSelection):
        return selection.select_and_count(documents, generator)
    return selection.select(documents, generator), {}


def check(selection: Any) -> None:
    """Raises UserError where what a selection reads is not there, unless that is to come."""
    for part in _parts(selection):
        if isinstance(part, TellingSelection):
            part.check()


def on_mesh(selection: Any) -> bool:
    """Whether a selection, or one that it is made of, computes with JAX."""
    return any(getattr(part, "on_mesh", False) for part in _parts(selection))


def settings(selection: Any) -> Any:
    """A selection as settings hold it."""
    if isinstance(selection, InTurn):
        return {"method": "InTurn", "steps": [settings(step) for step in selection.steps]}
    if isinstance(selection, TellingSelection):
        return selection.described()
    described = output_settings.describe(selection, "filter.selection")
    if "word_segmenter" in described:
        del described["word_segmenter"]
        described |= segmenters.settings(selection.word_segmenter)
    return described


def scorer_of_target(selection: Any) -> Any:
    """The scorer by which somebody chose what the output is to be like."""
    for part in _parts(selection):
        if isinstance(part, TellingSelection):
            return part.filtered_by()
    return None


def way_to_more(selection: Any) -> str:
    """What has a selection keep more documents: `raise KEEP_FRACTION`."""
    names = {
        name: None
        for part in _parts(selection)
        for field, name in _LIMITS.items()
        if hasattr(part, field)
    }
    return f"raise {' or '.join(names)}" if names else "take another SELECTION"


def _parts(selection: Any) -> Sequence[Any]:
    """The selections that one is made of, which mostly is itself."""
    return selection.steps if isinstance(selection, InTurn) else [selection]
