"""Where results come from, as the page says it: once for all scorers, and most of it folded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from detox_jax.evaluation.results_files import Evaluation, Times
from detox_jax.evaluation.typed_json import to_json
from detox_jax.report.groups import Group, grouped

# Said elsewhere: notes in the legend, the scorer's reliability in its picture.
_ELSEWHERE = (
    *("schema_version", "filtered_by", "command", "evaluated_by", "notes", "statistics"),
    *("settings", "versions"),
)


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the results of evaluations come from.

    Attributes:
      anchor: of its part of the page.
      label: whose it is, where there are others.
      command: what repeats the figures.
      statistics: what the intervals and p-values are.
      scorers: of every evaluation, the scorer with its fingerprint, and where the results lie.
      filters: which scorer chose each method's training texts, or decided otherwise of it.
      folded: headings, and what stands under them once somebody opens them.
    """

    anchor: str
    label: str
    command: str | None
    statistics: str | None
    scorers: list[tuple[str, str]]
    filters: list[tuple[str, str]]
    folded: list[tuple[str, Any]]


def origins(several: Sequence[Evaluation]) -> list[Origin]:
    """The origin of every evaluation; of those that come from the same, once."""
    return [_origin(group) for group in grouped(several, "provenance", _common)]


def _common(evaluation: Evaluation) -> Any:
    provenance = dataclasses.replace(evaluation.results.provenance, evaluated_by=None, notes=())
    return provenance, evaluation.times


def _origin(group: Group) -> Origin:
    first = group.evaluations[0]
    provenance = first.results.provenance
    folded = [
        ("Settings", provenance.settings),
        ("Versions", provenance.versions),
        ("Times", _times(first.times)),
        ("More", {k: v for k, v in to_json(provenance).items() if k not in _ELSEWHERE}),
    ]
    return Origin(
        anchor=group.anchor,
        label=group.label,
        command=provenance.command,
        statistics=provenance.statistics,
        scorers=[
            (name, f"{evaluation.results.scorer.fingerprint}, results of {evaluation.directory}")
            for name, evaluation in zip(group.names, group.evaluations, strict=True)
        ],
        filters=_filters(group),
        folded=[(heading, value) for heading, value in folded if value],
    )


def _filters(group: Group) -> list[tuple[str, str]]:
    """Which scorer chose each method's training texts."""
    filters = []
    for method, scorer in group.evaluations[0].results.provenance.filtered_by.items():
        words = "not filtered"
        if scorer is not None:
            words = f"{scorer.name} ({scorer.fingerprint})"
            same = any(x.results.filtered_by_same(method) for x in group.evaluations)
            words += ", the same scorer" * same
        filters.append((method, words))
    return filters


def _times(times: Times) -> dict[str, str]:
    if not times.seconds:
        return {}
    steps = {step: duration(seconds) for step, seconds in times.seconds.items()}
    return {**steps, "all steps": duration(sum(times.seconds.values()))}


def duration(seconds: float) -> str:
    """`0.4 s`, `59 s`, `2 min 05 s`, `3 h 07 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
