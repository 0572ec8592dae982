"""Who judges methods: one scorer, or several of the same texts, each with results of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from detox_jax.errors import UserError
from detox_jax.evaluation import joined, scored_texts
from detox_jax.evaluation.rows import Scorer
from detox_jax.evaluation.scored_texts import Scored
from detox_jax.segmenters import Segmenter


def by_scorer(
    generations: Mapping[str, str | Mapping[str, str]],
) -> dict[str, dict[str, str]]:
    """Each scorer's output for each method.

    Args:
      generations: of each method `score`'s output, or several by the names of scorers.

    Returns:
      Outputs by scorer and method; the name of a scorer that was given none is empty.

    Raises:
      UserError: for methods of different scorers, and for a scorer's name that is no directory's.
    """
    outputs = {
        name: {"": found} if isinstance(found, str) else dict(found)
        for name, found in generations.items()
    }
    first, scorers = next(iter(outputs.items()))
    for name, found in outputs.items():
        if not found or found.keys() != scorers.keys():
            raise UserError(
                f"method {name!r} has scores of {sorted(found)}, {first!r} of {sorted(scorers)}; "
                "give every method the same scorers"
            )
    for scorer in scorers:
        # It becomes a directory.
        if not re.fullmatch(r"([\w-][\w.-]*)?", scorer):
            raise UserError(f"scorer {scorer!r}: use letters, digits, dots, hyphens, underscores")
    return {scorer: {name: found[scorer] for name, found in outputs.items()} for scorer in scorers}


def read(
    generations: Mapping[str, Mapping[str, str]],
    baseline: str,
    min_coverage: float,
    own_decoding: Mapping[str, Sequence[str]],
    group_by: Sequence[str],
    segmenter: Segmenter | None,
) -> tuple[dict[str, dict[str, Scored]], dict[str, Sequence[str]]]:
    """The scores of each scorer and method, of the same prompts; and what joining them left out.

    Args:
      generations: as `by_scorer` returns them.
      baseline: see `joined.join`.
      min_coverage: likewise.
      own_decoding: likewise.
      group_by: fields of the records that are read too, several joined by `+`.
      segmenter: by which words are counted.

    Raises:
      UserError: for what does not compare, and for scorers of other texts.
    """
    first = next(iter(generations))
    fields = {name for by in group_by for name in by.split("+")}
    all_joined = {
        scorer: joined.join(
            {
                name: scored_texts.read(name, path, scorer == first, fields, segmenter)
                for name, path in paths.items()
            },
            baseline,
            min_coverage,
            own_decoding,
        )
        for scorer, paths in generations.items()
    }
    judged = joined.align({scorer: of.methods for scorer, of in all_joined.items()})
    return judged, {scorer: of.notes for scorer, of in all_joined.items()}


def named_beside_rows(
    filtered_by: Mapping[str, Scorer | None],
    chosen_by: Mapping[str, Scorer],
    judge: Scorer,
    decided_by: Mapping[str, Sequence[Scorer]] | None = None,
) -> dict[str, Scorer | None]:
    """Of each method the scorer that chose its continuations, else the one that chose its corpus.

    Without either it is the first by whose scores it was made otherwise (`decided_by`). Where there
    are several and one of them is the judge, it is the one that is named: the row is marked.
    """
    made_by = {
        name: [x for x in (by, *(decided_by or {}).get(name, ())) if x is not None]
        for name, by in filtered_by.items()
    }
    named = {n: judge if judge in of else next(iter(of), None) for n, of in made_by.items()}
    chosen = {name: by for name, by in chosen_by.items() if named.get(name) != judge}
    return {**named, **chosen}
