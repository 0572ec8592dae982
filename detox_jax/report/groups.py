"""What several evaluations on one page have in common is shown once, for all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from detox_jax.evaluation.results_files import Evaluation


@dataclasses.dataclass(frozen=True)
class Group:
    """Evaluations of which something is the same.

    Attributes:
      common: what is the same.
      anchor: starts all ids of what is shown of the group.
      label: whose it is, " by ngram and lexicon"; nothing where it is everybody's.
      evaluations: its members, in the order of the page.
      names: what the page calls their scorers.
    """

    common: Any
    anchor: str
    label: str
    evaluations: list[Evaluation]
    names: list[str]


def scorer_names(several: Sequence[Evaluation]) -> list[str]:
    """What the page calls the scorer of every evaluation: no two have the same name."""
    names = [evaluation.results.scorer.name for evaluation in several]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})"
        for i, name in enumerate(names)
    ]


def grouped(
    several: Sequence[Evaluation], what: str, value: Callable[[Evaluation], Any]
) -> list[Group]:
    """Evaluations by a value of theirs, those without one left out.

    Args:
      several: of the page.
      what: starts the groups' anchors: `samples`, `samples-2`.
      value: what the members of a group have in common; nothing where it is empty.
    """
    groups: list[tuple[Any, list[Evaluation], list[str]]] = []
    for evaluation, name in zip(several, scorer_names(several), strict=True):
        common = value(evaluation)
        if not common:
            continue
        for other, evaluations, names in groups:
            if other == common:
                evaluations.append(evaluation)
                names.append(name)
                break
        else:
            groups.append((common, [evaluation], [name]))
    return [
        Group(
            common,
            what if not i else f"{what}-{i + 1}",
            f" by {' and '.join(names)}" if len(groups) > 1 else "",
            evaluations,
            names,
        )
        for i, (common, evaluations, names) in enumerate(groups)
    ]
