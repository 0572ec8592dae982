"""A model that writes nothing, loops or stops early has no success."""

import dataclasses
import math

import pytest

from detox_jax.evaluation import soundness
from tests.evaluation import results_made

BASE = results_made.made_row("base", "full", 0.5, 0.5, 18.0)


def row_with(**quality):
    row = results_made.made_row("mine", "full", 0.1, 0.1, 18.5)
    return dataclasses.replace(row, quality=dataclasses.replace(row.quality, **quality))


@pytest.mark.parametrize(
    ("quality", "reason"),
    [
        ({"empty_fraction": 1.0}, "100.0 % of its continuations are empty, 0.1 % of base's"),
        ({"empty_fraction": 0.052}, "5.2 % of its continuations are empty, 0.1 % of base's"),
        ({"degenerate_fraction": 0.3}, "30.0 % of its continuations loop, 1.2 % of base's"),
        ({"mean_words": 12.1}, "it writes 12.1 words a continuation, base 15.2"),
        (
            {"perplexity": dataclasses.replace(BASE.quality.perplexity, value=math.inf)},
            "its perplexity is beyond all numbers",
        ),
    ],
)
def test_what_spoils_a_method(quality, reason):
    assert soundness.spoiled(row_with(**quality), BASE) == (reason,)


@pytest.mark.parametrize(
    "quality",
    [
        {},
        {"empty_fraction": 0.05},
        {"degenerate_fraction": 0.06},
        {"mean_words": 12.2},
        {"mean_words": math.nan, "empty_fraction": math.nan},
        {"perplexity": None},
    ],
)
def test_within_the_margins_nothing_is_spoiled(quality):
    assert soundness.spoiled(row_with(**quality), BASE) == ()


@pytest.mark.parametrize(
    ("tokens", "reasons"),
    [
        (9.0, ("it writes 9.0 tokens a continuation, base 19.8",)),
        (16.0, ()),
        (math.nan, ()),
    ],
)
def test_without_spaces_between_words_tokens_are_compared(tokens, reasons):
    row = row_with(unspaced_fraction=0.9, mean_words=1.0, mean_tokens=tokens)
    assert soundness.spoiled(row, BASE) == reasons


def test_every_row_is_judged_beside_the_base_of_its_split():
    empty = row_with(empty_fraction=0.5)
    rows = soundness.judged([BASE, empty, dataclasses.replace(empty, split="toxic")], "base")
    assert [bool(row.spoiled) for row in rows] == [False, True, False]


def test_a_baseline_that_is_mostly_empty_is_spoiled_by_itself():
    (row,) = soundness.judged([row_with(empty_fraction=0.6)], "mine")
    assert row.spoiled == ("60.0 % of its continuations are empty",)


def test_what_is_mostly_empty_is_spoiled_whatever_the_base():
    """Beside a base that is nearly empty, nothing is 5 points emptier."""
    empty = row_with(empty_fraction=0.96)
    base = dataclasses.replace(empty, method="base")
    assert soundness.spoiled(row_with(empty_fraction=1.0), base) == (
        "100.0 % of its continuations are empty, 96.0 % of base's",
    )
    assert soundness.spoiled(row_with(empty_fraction=0.5), base) == ()


def test_a_row_that_its_judge_chose_is_no_success():
    rows = soundness.judged([BASE, row_with()], "base", chosen_by_judge=["mine"])
    assert [row.spoiled for row in rows] == [
        (),
        ("its continuations were chosen by this very scorer",),
    ]
