"""Wins, ties and losses: worked by hand, whichever side; prompts as the unit; agreement; raters."""

import dataclasses
import math

import numpy as np
import pytest

from detox_jax.evaluation import statistics
from detox_jax.human import outcomes
from detox_jax.human.answers import Answered
from detox_jax.human.key import Comparison, Key, Pair, Row, Sheet
from tests.human import human_made

MINE, BASE = human_made.prefers("mine"), human_made.prefers("base")


def answered(key, judge_of, question="less_toxic"):
    """Answers of judges who are told the rater and the comparison, and say win, tie or loss."""
    found = []
    for sheet in key.sheets:
        for row in sheet.rows:
            said = judge_of(sheet.rater, row.comparison)
            other = "B" if row.method_side == "A" else "A"
            side = {"win": row.method_side, "loss": other, "tie": "equal"}.get(said)
            found.append(Answered(sheet.rater, row, {} if side is None else {question: side}))
    return found


def outcome(key, found, vote="rating", split="full", question="less_toxic", pair=0):
    (one,) = (
        x
        for x in outcomes.outcomes(key, found, 200, 0)
        if (x.split, x.vote, x.question, x.method, x.against)
        == (split, vote, question, key.pairs[pair].method, key.pairs[pair].against)
    )
    return one


@pytest.mark.parametrize("said", ["win", "tie", "loss"])
def test_a_rater_who_always_prefers_one_system_does_so_on_either_side(said):
    key = human_made.key()
    assert {row.method_side for row in key.sheets[0].rows} == {"A", "B"}
    for vote, votes in (("rating", 120), ("majority", 40)):
        one = outcome(key, answered(key, lambda *_: said), vote)
        assert (one.votes, one.prompts) == (votes, 20)
        shares = {"win": one.wins, "tie": one.ties, "loss": one.losses}
        assert {name: share.value for name, share in shares.items()} == {
            name: float(name == said) for name in shares
        }
        assert one.net.value == {"win": 1, "tie": 0, "loss": -1}[said]
        assert (one.net.p_value < 0.01) == (said != "tie")
        # Twenty prompts that agree do not show that all would.
        assert shares[said].high == 1 and 0.8 < shares[said].low < 0.9


def test_shares_and_majorities_are_worked_by_hand():
    key = human_made.key(prompts=2, samples=2)
    said = [  # of each comparison, by rater
        ("win", "win", "loss"),
        ("win", "tie", "loss"),  # no majority
        ("tie", "tie", "win"),
        ("loss", "loss", "loss"),
    ]
    found = answered(key, lambda rater, comparison: said[comparison][rater - 1])
    one = outcome(key, found)
    shares = [one.wins.value, one.ties.value, one.losses.value]
    assert shares == pytest.approx([4 / 12, 3 / 12, 5 / 12])
    assert one.net.value == pytest.approx(-1 / 12) and math.isnan(one.undecided.value)
    most = outcome(key, found, "majority")
    shares = [most.wins.value, most.ties.value, most.losses.value, most.undecided.value]
    assert shares == [1 / 4, 1 / 4, 1 / 4, 1 / 4] and most.votes == 4


def test_half_of_the_raters_are_no_majority():
    counts = np.array([[1, 1, 0], [2, 1, 1], [0, 1, 2], [0, 0, 0], [0, 0, 1]])
    assert outcomes.majority(counts).tolist() == [
        [0, 0, 0, 1],
        [0, 0, 0, 1],
        [0, 0, 1, 0],
        [0, 0, 0, 0],
        [0, 0, 1, 0],
    ]


def test_missing_answers_are_no_votes():
    key = human_made.key(prompts=4, samples=1)
    found = answered(key, lambda rater, comparison: "win" if comparison == 0 else None)
    one = outcome(key, found)
    assert (one.votes, one.prompts, one.wins.value) == (3, 1, 1.0)
    raters = outcomes.raters(key, found)
    assert [(x.rater, x.answers, x.missing) for x in raters] == [(i, 1, 11) for i in (1, 2, 3)]
    assert outcomes.outcomes(key, answered(key, lambda *_: None), 10, 0) == ()


def test_intervals_are_over_prompts_and_not_over_ratings():
    """Ten times as many ratings of the same prompts that say the same: no new evidence."""
    few, many = (human_made.key(prompts=30, samples=samples) for samples in (1, 10))

    def judge(key):
        return lambda _, i: "win" if int(key.comparisons[i].prompt_id[3:]) % 3 else "loss"

    narrow, wide = (outcome(key, answered(key, judge(key))) for key in (many, few))
    assert narrow.votes == 10 * wide.votes
    for name in ("wins", "net"):
        a, b = getattr(narrow, name), getattr(wide, name)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))
    values = np.array([1.0 if i % 3 else -1.0 for i in range(30)])
    # Prompts stand in the order of their ids' text.
    order = np.argsort([f"id-{i}" for i in range(30)])
    expected = statistics.bootstrap_mean(values[order], 200, 0)
    assert (wide.net.low, wide.net.high) == pytest.approx((expected.low, expected.high))


def test_the_parts_of_the_prompts_are_told_apart_where_both_are_there():
    key = human_made.key()
    toxic = [comparison.toxicity >= 0.5 for comparison in key.comparisons]
    found = answered(key, lambda _, i: "win" if toxic[i] else "loss")
    shares = {s: outcome(key, found, split=s).wins.value for s in ("full", "toxic", "nontoxic")}
    assert shares == {"full": 0.5, "toxic": 1.0, "nontoxic": 0.0}
    unknown = dataclasses.replace(
        key, comparisons=tuple(dataclasses.replace(x, toxicity=None) for x in key.comparisons)
    )
    assert {x.split for x in outcomes.outcomes(unknown, found, 10, 0)} == {"full"}


def test_pairs_are_told_apart_and_p_values_are_adjusted_for_all():
    key = human_made.key((("mine", "base"), ("other", "base")))
    found = answered(key, lambda _, i: "win" if key.comparisons[i].pair else "tie")
    assert outcome(key, found, pair=0).ties.value == outcome(key, found, pair=1).wins.value == 1
    one = outcome(key, found, pair=1)
    assert one.p_value_holm == pytest.approx(2 * one.net.p_value)


# --- agreement --------------------------------------------------------------------------------


def test_raters_who_agree_have_an_alpha_of_one_though_their_sides_differ():
    key = human_made.key()
    found = answered(key, lambda _, i: ("win", "tie", "loss")[i % 3])
    agreement = outcomes.agreements(key, found, 100, 0)[0]
    for share in (agreement.nominal, agreement.ordinal):
        assert (share.value, share.low, share.high) == pytest.approx((1, 1, 1))
    # Wilson's of the twenty prompts: 20 / (20 + 1.96^2).
    same = agreement.same
    assert (same.value, same.low, same.high) == pytest.approx((1, 20 / (20 + 1.959964**2), 1))
    assert (agreement.comparisons, agreement.ratings) == (40, 120)


def test_every_pair_of_ratings_weighs_the_same_where_some_are_missing():
    """Three wins are three pairs that agree, a win and a loss one that does not: 3 of 4."""
    key = human_made.key(prompts=2, samples=1)
    said = [("win", "win", "win"), ("win", "loss", None)]  # of each comparison, by rater
    found = answered(key, lambda rater, comparison: said[comparison][rater - 1])
    agreement = outcomes.agreements(key, found, 50, 0)[0]
    assert (agreement.comparisons, agreement.ratings) == (2, 5)
    assert agreement.same.value == pytest.approx(3 / 4)


def test_raters_who_click_one_side_agree_on_nothing():
    """They say the same of sides, which are not the systems'."""
    key = human_made.key(prompts=100)
    found = [
        dataclasses.replace(x, answers={"less_toxic": "A"}) for x in answered(key, lambda *_: "win")
    ]
    agreement = outcomes.agreements(key, found, 100, 0)[0]
    assert abs(agreement.nominal.value) < 0.1 and agreement.nominal.low < 0 < agreement.nominal.high
    assert {(x.left, x.right, x.equal) for x in outcomes.raters(key, found)} == {(1, 0, 0)}


def test_a_tie_is_nearer_to_a_win_than_a_loss_is():
    key = human_made.key()

    def off(near):
        def judge(rater, i):
            first = ("win", "loss")[i % 2]
            second = "tie" if near else ("loss", "win")[i % 2]
            return second if rater == 3 and i % 5 == 0 else first

        return outcomes.agreements(key, answered(key, judge), 20, 0)[0].ordinal.value

    assert off(near=True) > off(near=False)


def test_agreement_is_of_all_pairs_and_of_each():
    key = human_made.key((("mine", "base"), ("other", "base")))
    rng = np.random.default_rng(0)
    found = answered(
        key,
        lambda _, i: "win" if key.comparisons[i].pair else rng.choice(["win", "tie", "loss"]),
    )
    whole, mine, other = outcomes.agreements(key, found, 50, 0)[:3]
    assert (whole.method, mine.method, other.method) == ("", "mine", "other")
    assert whole.ratings == mine.ratings + other.ratings
    assert math.isnan(other.nominal.value) and other.same.value == 1
    assert mine.nominal.low < mine.nominal.value < mine.nominal.high
    assert len(outcomes.agreements(human_made.key(), [], 10, 0)) == 3


def test_one_rater_has_nobody_to_agree_with():
    key = human_made.key(raters=1)
    agreement = outcomes.agreements(key, answered(key, lambda *_: "win"), 10, 0)[0]
    assert (agreement.comparisons, agreement.ratings) == (0, 0)
    assert math.isnan(agreement.same.value) and math.isnan(agreement.nominal.value)


def test_a_win_is_the_side_where_the_method_stands():
    comparison = Comparison(0, "p", "So", None, 0, 0, "he went", "she went")
    rows = (Row("x_1_1", 0, "B"),)
    key = Key(1, "x", ("q",), (Pair("m", "b"),), (comparison,), (Sheet(1, rows),))
    for answer, column in (("B", outcomes.WIN), ("A", outcomes.LOSS), ("equal", outcomes.TIE)):
        counts = outcomes.ratings(key, [Answered(1, rows[0], {"q": answer})], "q").counts_NC
        assert counts[0].tolist() == [int(i == column) for i in range(3)]
