"""Questions with choices: what a seqio task gives, and what `choices` asks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detox_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Question:
    """A question as it is scored.

    Attributes:
      inputs: the context of each choice; the same for all but in WinoGrande.
      targets: the choices, each of which is scored after its context.
      answer: the number of the right choice.
      lengths: the number of characters of each choice.
    """

    inputs: Sequence[str]
    targets: Sequence[str]
    answer: int
    lengths: Sequence[int]


def parse(rows: Iterable[Mapping[str, Any]], name: str) -> dict[str, Question]:
    """The questions of a seqio task by id, in the task's order.

    An id is a hash of the question, with a number behind it where the task asks it again.

    Args:
      rows: the task's examples; `tasks/downstream.py` says what their features are.
      name: the task's name, for errors.

    Raises:
      UserError: for a task without the features of choices, or without a question.
    """
    questions: dict[str, Question] = {}
    times_asked = dict[str, int]()
    for row in rows:
        try:
            inputs, targets = ([t.decode() for t in row[key]] for key in ("inputs", "targets"))
            number, lengths = int(row["answer"]), [int(x) for x in row["lengths"]]
        except (KeyError, AttributeError, TypeError) as error:
            raise UserError(
                f"task {name!r}: its examples have no choices ({error}); give one of "
                "tasks.downstream"
            ) from None
        digest = hashlib.sha256(json.dumps([inputs, targets]).encode()).hexdigest()[:16]
        times_asked[digest] = times_asked.get(digest, 0) + 1
        again = f"-{times_asked[digest]}" if times_asked[digest] > 1 else ""
        questions[digest + again] = Question(inputs, targets, number, lengths)
    if not questions:
        raise UserError(f"task {name!r}: has no questions")
    return questions
