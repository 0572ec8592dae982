"""Continuations as the page shows them: once, with what every scorer says of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from detox_jax.evaluation.results_files import Continuation, Evaluation, Sample
from detox_jax.records import TOXIC
from detox_jax.report import passages
from detox_jax.report.groups import Group, grouped
from detox_jax.report.headline import least_toxic
from detox_jax.report.passages import Passage
from detox_jax.report.seeds import MergedRow

_MOST_METHODS = 8  # whose texts the page shows at once
Rated = tuple[str, float | None]  # a text and its score


@dataclasses.dataclass(frozen=True)
class Text:
    """A continuation: its text, what the scorers say of it, and to whom it is the most toxic."""

    passage: Passage
    ratings: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class ShownSample:
    """A prompt, and by method, in their order, the continuations.

    Attributes:
      kind: "toxic" where a scorer rates the prompt so, "nontoxic" where none does, else nothing.
      prompt: its text.
      continuations: of every method that has any.
    """

    kind: str
    prompt: Passage
    continuations: list[tuple[str, list[Text]]]


@dataclasses.dataclass(frozen=True)
class ShownSamples:
    """The samples of evaluations that have the same texts.

    Attributes:
      anchor: starts all ids.
      label: whose they are, where there are others.
      choice: a sentence on which continuations these are.
      methods: names that have any, in their order.
      compared: of many methods the two that the page compares at first.
      samples: prompts and continuations.
    """

    anchor: str
    label: str
    choice: str
    methods: list[str]
    compared: tuple[str, str] | None
    samples: list[ShownSample]


def shown_samples(several: Sequence[Evaluation]) -> list[ShownSamples]:
    """The samples of every evaluation, those of the same texts together."""
    return [
        ShownSamples(
            group.anchor,
            group.label,
            _choice(group.evaluations[0]),
            _methods(group.evaluations[0]),
            _compared(group.evaluations[0]),
            _of_group(group, several),
        )
        for group in grouped(several, "samples", _texts)
    ]


def _texts(evaluation: Evaluation) -> list[Any]:
    """The texts of an evaluation's samples, without scores."""
    return [
        (
            *(sample.id, sample.prompt),
            {name: x.text for name, x in sample.continuations.items()},
            {name: [x.text for x in drawn] for name, drawn in sample.drawn.items()},
        )
        for sample in evaluation.samples
    ]


def _choice(evaluation: Evaluation) -> str:
    samples = evaluation.samples
    several = any(isinstance(row, MergedRow) for row in evaluation.results.rows)
    of_seeds = " Of several seeds the texts are those of the first." if several else ""
    drawn_of = [sample for sample in samples if sample.drawn]
    drawn = {len(texts) for sample in drawn_of for texts in sample.drawn.values()}
    if not any(drawn):
        return f"Shown is the first continuation of every method.{of_seeds}"
    counts = [sample.count for sample in drawn_of if sample.count is not None]
    ends = dict.fromkeys((min(counts), max(counts))) if counts else ("several",)
    seeds = ", ".join(sorted({str(sample.seed) for sample in drawn_of}))
    return (
        f"Of {' to '.join(map(str, ends))} continuations a method, "
        f"{'at most ' * (len(drawn) > 1)}{max(drawn)} are shown, drawn by chance with seed "
        f"{seeds}, and the most toxic of all, which stays hidden. Of all methods they are those of "
        "the same numbers: these share their random numbers, so methods that differ little often "
        f"write the same.{of_seeds}"
    )


def _methods(evaluation: Evaluation) -> list[str]:
    shown = {name for sample in evaluation.samples for name in sample.continuations}
    return [name for name in evaluation.results.methods if name in shown]


def _compared(evaluation: Evaluation) -> tuple[str, str] | None:
    """The baseline and the least toxic method, where there are too many to read beside another."""
    names, best = _methods(evaluation), least_toxic(evaluation.results)
    baseline = evaluation.results.baseline
    if len(names) <= _MOST_METHODS or best not in names or baseline not in names:
        return None
    return baseline, best


def _of_group(group: Group, several: Sequence[Evaluation]) -> list[ShownSample]:
    toxic = _toxic_to_others(group.evaluations, several)
    shown = []
    for views in zip(*(evaluation.samples for evaluation in group.evaluations), strict=True):
        ratings = [view.prompt_toxicity for view in views]
        prompt = _passage(views[0].prompt, ratings, toxic)
        continuations = [
            (name, _of_method(name, views, group.names, toxic))
            for name in _methods(group.evaluations[0])
            if name in views[0].continuations
        ]
        rated = [rating for rating in ratings if rating is not None]
        kind = "" if not rated else "toxic" if max(rated) >= TOXIC else "nontoxic"
        shown.append(ShownSample(kind, prompt, continuations))
    return shown


def _of_method(
    method: str, views: Sequence[Sample], names: Sequence[str], toxic: Collection[str]
) -> list[Text]:
    """What is shown of a method: the drawn texts and, of every scorer, the worst; none twice."""
    of_scorers = [view.drawn.get(method) or (view.continuations[method],) for view in views]
    texts = [_text(rated, names, toxic) for rated in zip(*of_scorers, strict=True)]
    worst: dict[str, list[tuple[str, float]]] = {}
    for view, name in zip(views, names, strict=True):
        text = view.worst.get(method)
        if text and text.toxicity:  # of texts that are all rated 0, none is the most toxic
            worst.setdefault(text.text, []).append((name, text.toxicity))
    for text, judged in worst.items():
        by = f" by {' and '.join(name for name, _ in judged)}" if len(names) > 1 else ""
        note = f"the most toxic of {views[0].count}{by}"
        places = [i for i, shown in enumerate(texts) if shown.passage.text == text]
        if places:
            texts[places[0]] = dataclasses.replace(texts[places[0]], note=note)
            continue
        rating = max(rating for _, rating in judged)
        label = f"Show {note}, rated {rating:.2f}"
        texts.append(Text(Passage(text, rating, True, label), "", note))
    return texts


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
        drawn = [text for texts in sample.drawn.values() for text in texts]
        shown = [*sample.continuations.values(), *drawn, *sample.worst.values()]
        rated += [(text.text, text.toxicity) for text in shown]
    return rated
