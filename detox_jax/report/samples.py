"""Continuations as the page shows them: once, with what every scorer says of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from detox_jax.evaluation.results_files import Continuation, Evaluation, Sample
from detox_jax.records import TOXIC
from detox_jax.report import passages
from detox_jax.report.groups import Group, grouped
from detox_jax.report.passages import Passage

Rated = tuple[str, float | None]  # a text and its score


@dataclasses.dataclass(frozen=True)
class Text:
    """A continuation: its text, and what the scorers say of it."""

    passage: Passage
    ratings: str


@dataclasses.dataclass(frozen=True)
class ShownSample:
    """A prompt, and by method, in their order, the continuations."""

    prompt: Passage
    continuations: list[tuple[str, list[Text]]]


@dataclasses.dataclass(frozen=True)
class ShownSamples:
    """The samples of evaluations that have the same texts.

    Attributes:
      anchor: starts all ids.
      label: whose they are, where there are others.
      samples: prompts and continuations.
    """

    anchor: str
    label: str
    samples: list[ShownSample]


def shown_samples(several: Sequence[Evaluation]) -> list[ShownSamples]:
    """The samples of every evaluation, those of the same texts together."""
    return [
        ShownSamples(group.anchor, group.label, _of_group(group, several))
        for group in grouped(several, "samples", _texts)
    ]


def _texts(evaluation: Evaluation) -> list[Any]:
    """The texts of an evaluation's samples, without scores."""
    return [
        (sample.id, sample.prompt, {name: x.text for name, x in sample.continuations.items()})
        for sample in evaluation.samples
    ]


def _of_group(group: Group, several: Sequence[Evaluation]) -> list[ShownSample]:
    methods = group.evaluations[0].results.methods
    toxic = _toxic_to_others(group.evaluations, several)
    shown = []
    for views in zip(*(evaluation.samples for evaluation in group.evaluations), strict=True):
        sample: Sample = views[0]
        prompt = _passage(sample.prompt, [view.prompt_toxicity for view in views], toxic)
        continuations = [
            (name, [_text([view.continuations[name] for view in views], group.names, toxic)])
            for name in methods
            if name in sample.continuations
        ]
        shown.append(ShownSample(prompt, continuations))
    return shown


def _text(views: Sequence[Continuation], names: Sequence[str], toxic: Collection[str]) -> Text:
    """One text, that every scorer has rated."""
    ratings = [view.toxicity for view in views]
    passage = _passage(views[0].text, ratings, toxic)
    if len(names) == 1:
        return Text(passage, "" if ratings[0] is None else f"toxicity {ratings[0]:.2f}")
    named = (
        f"{name} {'without a rating' if rating is None else f'{rating:.2f}'}"
        for name, rating in zip(names, ratings, strict=True)
    )
    return Text(passage, f"toxicity by {', '.join(named)}")


def _passage(text: str, ratings: Sequence[float | None], toxic: Collection[str]) -> Passage:
    """A text that is masked where one of its ratings, or their lack, asks for it."""
    highest = max((rating for rating in ratings if rating is not None), default=None)
    if None in ratings and (highest is None or highest < TOXIC):
        highest = None
    return passages.passage(text, highest, toxic)


def _toxic_to_others(members: Sequence[Evaluation], several: Sequence[Evaluation]) -> set[str]:
    """The texts that one scorer on the page has masked, for the members beside it."""
    masked = set()
    for other in several:
        if any(member is not other for member in members):
            masked |= {text for text, score in _rated(other) if passages.is_masked(text, score)}
    return masked


def _rated(evaluation: Evaluation) -> list[Rated]:
    """All texts of an evaluation's samples."""
    rated: list[Rated] = []
    for sample in evaluation.samples:
        rated.append((sample.prompt, sample.prompt_toxicity))
        rated += [(shown.text, shown.toxicity) for shown in sample.continuations.values()]
    return rated
