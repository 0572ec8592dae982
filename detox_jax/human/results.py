"""What `human_results` finds, as `human_results.json` holds it.

A number that cannot be said is NaN here and null in the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from detox_jax.evaluation.statistics import Difference, Interval

SCHEMA_VERSION = 1
RATING, MAJORITY = "rating", "majority"
Vote = Literal["rating", "majority"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How often a method won a question against another system.

    Shares add up to 1.

    Attributes:
      split: of prompts: `full`, `toxic`, `nontoxic`.
      method: whose wins are counted.
      against: the other.
      question: that was asked.
      vote: whether each rating counts, or of each comparison the answer that more than half of its
        raters gave.
      prompts: how many there are.
      votes: how many there are.
      wins: share for the method.
      ties: share that is equal.
      losses: share for the other.
      undecided: share of comparisons on which no answer has more than half of the raters; of single
        ratings none is.
      net: wins minus losses.
      p_value_holm: of net, for all pairs and questions of the split and kind of vote.
    """

    split: str
    method: str
    against: str
    question: str
    vote: Vote
    prompts: int
    votes: int
    wins: Interval
    ties: Interval
    losses: Interval
    undecided: Interval
    net: Difference
    p_value_holm: float


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far raters agree that a method wins, ties or loses.

    Attributes:
      question: that was asked.
      method: of the pair; empty for all pairs together.
      against: the other of the pair; empty too.
      comparisons: those with two ratings or more.
      ratings: of these.
      same: the share of pairs of ratings of a comparison that are the same.
      nominal: Krippendorff's alpha of three answers that are only different.
      ordinal: the same where a tie lies between a win and a loss.
    """

    question: str
    method: str
    against: str
    comparisons: int
    ratings: int
    same: Interval
    nominal: Interval
    ordinal: Interval


@dataclasses.dataclass(frozen=True)
class Rater:
    """What shows whether a rater read.

    Attributes:
      rater: number.
      answers: to all questions.
      missing: answers that were not given.
      left: the share of answers that are A, whichever system stood there.
      right: that are B.
      equal: that are equal.
    """

    rater: int
    answers: int
    missing: int
    left: float
    right: float
    equal: float


@dataclasses.dataclass(frozen=True)
class HumanResults:
    """What raters said.

    Attributes:
      schema_version: of the layout.
      outcomes: by split, vote, pair and question.
      agreement: by question, for all pairs and for each.
      raters: whose sheets were read.
      notes: sentences on what is missing.
      statistics: how intervals were computed.
      settings: of the verb.
      versions: of packages.
    """

    schema_version: int
    outcomes: tuple[Outcome, ...]
    agreement: tuple[Agreement, ...]
    raters: tuple[Rater, ...]
    notes: tuple[str, ...]
    statistics: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
