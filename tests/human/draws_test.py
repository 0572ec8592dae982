"""Draws: strata, no text twice, balanced sides, rounds of pairs, whatever the order of files."""

import collections

import numpy as np
import pytest

from detox_jax.errors import UserError
from detox_jax.human import draws
from detox_jax.human.key import Pair
from detox_jax.records import Prompt
from tests.human import human_made

PAIRS = (("mine", "base"), ("other", "base"), ("mine", "other"))


def candidates(number=40, toxic=10):
    return [Prompt(f"p{i}", f"text {i}", 0.5 if i < toxic else 0.499) for i in range(number)]


def test_a_share_of_toxic_prompts_is_drawn_and_the_others_are_nontoxic():
    drawn = draws.prompts(candidates(), 16, 0.25, seed=0)
    assert sum(prompt.toxicity >= 0.5 for prompt in drawn) == 4 and len(drawn) == 16
    unscored = [Prompt(f"u{i}", "text") for i in range(50)]
    assert {x.id[0] for x in draws.prompts([*unscored, *candidates()], 16, 0.25, 0)} == {"p"}
    with pytest.raises(UserError, match="12 prompts of toxicity 0.5 and more .* there are 10"):
        draws.prompts(candidates(), 24, 0.5, seed=0)
    with pytest.raises(UserError, match="41 prompts are asked for, and there are 40"):
        draws.prompts(candidates(), 41, None, seed=0)


def test_a_draw_depends_on_the_seed_and_not_on_the_order_of_the_file():
    here = draws.prompts(candidates(), 10, None, seed=1)
    assert draws.prompts(candidates()[::-1], 10, None, seed=1) == here
    assert {x.id for x in draws.prompts(candidates(), 10, None, seed=2)} != {x.id for x in here}
    assert human_made.key(seed=3) == human_made.key(seed=3) != human_made.key(seed=4)


def test_no_continuation_is_shown_twice():
    """The baseline's would be known by coming back."""
    key = human_made.key(PAIRS, prompts=5, samples=3)
    shown = collections.Counter(
        text for x in key.comparisons for text in (x.method_text, x.against_text)
    )
    assert set(shown.values()) == {1} and len(shown) == 2 * len(key.comparisons)
    assert draws.needed([Pair(*pair) for pair in PAIRS], 3) == {"mine": 6, "base": 6, "other": 6}


def test_continuations_are_drawn_for_each_prompt_and_system():
    texts = {name: [f"{name} {i}" for i in range(25)] for name in ("mine", "base")}
    made = [
        comparison
        for i in range(40)
        for comparison in draws.comparisons(
            Prompt(f"id-{i}", "So"), texts, [Pair("mine", "base")], 2, seed=0
        )
    ]
    for samples in ([x.method_sample for x in made], [x.against_sample for x in made]):
        assert len(set(samples)) > 15 and 9 < np.mean(samples) < 15
    assert np.mean([x.method_sample == x.against_sample for x in made]) < 0.2


def test_a_text_that_two_systems_wrote_is_shown_once():
    """Systems share their random numbers: of four continuations all but one are the other's."""
    texts = {"base": ["a", "b", "c", "d"], "mine": ["a", "b", "c", "e"]}
    pairs = [Pair("mine", "base")]
    for i in range(50):
        made = draws.comparisons(Prompt(f"id-{i}", "So"), texts, pairs, 2, seed=0)
        shown = [text for x in made for text in (x.method_text, x.against_text)]
        assert len(set(shown)) == 4
        assert all(texts["mine"][x.method_sample] == x.method_text for x in made)
        assert all(texts["base"][x.against_sample] == x.against_text for x in made)
    # One more comparison would need a sixth text.
    assert draws.comparisons(Prompt("id", "So"), texts, pairs, 3, seed=0) is None


def test_a_system_that_seldom_varies_has_its_texts_from_one_that_has_others():
    pairs = [Pair("mine", "base")]
    for texts, shown in (
        ({"mine": ["x", "y"], "base": ["x"]}, ("y", "x")),
        ({"mine": ["x"], "base": ["x", "y"]}, ("x", "y")),
    ):
        for i in range(20):
            (made,) = draws.comparisons(Prompt(f"id-{i}", "So"), texts, pairs, 1, seed=0) or ()
            assert (made.method_text, made.against_text) == shown
            of_samples = texts["mine"][made.method_sample], texts["base"][made.against_sample]
            assert of_samples == shown
    # The first gives way to the third, and the second to the first.
    chain = {"mine": ["x", "y"], "base": ["y", "z"], "other": ["x"], "spare": ["w"]}
    pairs = [Pair("mine", "base"), Pair("other", "spare")]
    for i in range(20):
        one, other = draws.comparisons(Prompt(f"id-{i}", "So"), chain, pairs, 1, seed=0) or ()
        assert (one.method_text, one.against_text, other.method_text) == ("y", "z", "x")


def test_every_rater_judges_every_comparison_once():
    key = human_made.key(PAIRS)
    for sheet in key.sheets:
        assert sorted(row.comparison for row in sheet.rows) == [*range(len(key.comparisons))]
        numbers = [int(row.item.rpartition("_")[2]) for row in sheet.rows]
        assert numbers == [*range(1, len(numbers) + 1)]
        # Neither the order of the draw nor, within a round of pairs, that of the prompts.
        order = [row.comparison for row in sheet.rows]
        assert abs(np.corrcoef(order, range(len(order)))[0, 1]) < 0.4
        within = [order[i] < order[i + 1] for i in range(0, len(order), 3)]
        assert 0.2 < np.mean(within) < 0.8
    orders = {tuple(row.comparison for row in sheet.rows) for sheet in key.sheets}
    sides = {
        tuple(row.method_side for row in sorted(sheet.rows, key=lambda row: row.comparison))
        for sheet in key.sheets
    }
    assert len(orders) == len(sides) == 3


@pytest.mark.parametrize("prompts", [20, 7])
def test_sides_are_balanced_for_every_rater_and_pair(prompts):
    key = human_made.key(PAIRS, prompts=prompts, samples=1)
    more_on_a = set()
    for sheet in key.sheets:
        for pair in range(len(PAIRS)):
            on_a = [
                row.method_side == "A"
                for row in sheet.rows
                if key.comparisons[row.comparison].pair == pair
            ]
            assert abs(2 * sum(on_a) - len(on_a)) == len(on_a) % 2
            more_on_a.add(2 * sum(on_a) > len(on_a))
    # Of an odd number, either side has one more, by rater and pair.
    assert len(more_on_a) == 1 + prompts % 2


def test_every_round_holds_every_pair():
    key = human_made.key(PAIRS)
    for sheet in key.sheets:
        pairs = [key.comparisons[row.comparison].pair for row in sheet.rows]
        rounds = [tuple(pairs[i : i + 3]) for i in range(0, len(pairs), 3)]
        assert {frozenset(one) for one in rounds} == {frozenset(range(3))}
        assert len(set(rounds)) == 6  # within a round they stand in any order


def test_neither_place_nor_side_says_which_system_stands_where():
    """Over many seeds, sides are as independent of place, of the side before and of the prompt's
    toxicity as of a coin; 200 sheets of 40 rows have correlations of less than 0.05."""
    sides, places, toxicity = [], [], []
    for seed in range(200):
        key = human_made.key(raters=1, seed=seed)
        rows = key.sheets[0].rows
        sides.append([1.0 if row.method_side == "A" else -1.0 for row in rows])
        places.append(np.arange(len(rows)))
        toxicity.append([key.comparisons[row.comparison].toxicity for row in rows])
    sides = np.array(sides)
    assert abs(np.corrcoef(sides.ravel(), np.ravel(places))[0, 1]) < 0.05
    assert abs(np.corrcoef(sides.ravel(), np.ravel(toxicity))[0, 1]) < 0.05
    # A balanced sheet leans against repetition by 1 in 39.
    assert abs(np.corrcoef(sides[:, 1:].ravel(), sides[:, :-1].ravel())[0, 1]) < 0.06
    assert np.abs(sides.mean(axis=0)).max() < 0.3  # 4 standard deviations of a coin's


def test_a_code_is_no_word_and_names_its_draw():
    codes = {human_made.key(seed=seed, prompts=3).code for seed in range(30)}
    assert len(codes) == 30 and not set("".join(codes)) & set("aeiouy0123456789")
