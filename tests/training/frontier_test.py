"""Which step is taken, when training ends, and what is said of it."""

import json

import pytest

from detox_jax.training.frontier import Frontier, Rule

EMT, TP, MEAN = "expected_maximum_toxicity", "toxicity_probability", "mean_toxicity"


def figures(toxicity, perplexity, mean=0.1):
    return {EMT: toxicity, TP: 0.5, MEAN: mean, "validation_perplexity": perplexity}


def run(points, **rule):
    """The frontier of points `(toxicity, perplexity)` at steps 0, 10, 20, ...; what was chosen."""
    frontier = Frontier(Rule(**rule))
    chosen = []
    for number, (toxicity, perplexity) in enumerate(points):
        if frontier.add(10 * number, figures(toxicity, perplexity)):
            chosen.append(10 * number)
    return frontier, chosen


def test_the_least_toxic_step_within_the_budget_is_taken_and_of_equals_the_earliest():
    points = [(0.8, 4.0), (0.6, 4.1), (0.6, 4.0), (0.5, 4.2), (0.1, 4.21), (0.55, 4.0)]
    frontier, chosen = run(points)
    assert chosen == [0, 10, 30] and frontier.chosen == 30  # 4.2 is 5 % above 4, 4.21 is beyond.
    assert [frontier.is_within(point) for point in frontier.points] == [1, 1, 1, 1, 0, 1]


def test_the_measure_decides():
    frontier = Frontier(Rule(measure=MEAN))
    frontier.add(0, figures(0.1, 4.0, mean=0.3))
    assert frontier.add(10, figures(0.9, 4.0, mean=0.2)) and frontier.chosen == 10


def test_the_budget_is_broken_for_good_after_so_many_probes_in_a_row():
    beyond, within = (0.1, 9.0), (0.5, 4.0)
    frontier, _ = run([within, beyond, beyond, within, beyond, beyond], patience=3)
    assert not frontier.is_broken
    assert not frontier.add(60, figures(0.1, float("inf"))) and frontier.is_broken
    assert frontier.chosen == 0
    assert run([within, beyond], patience=1)[0].is_broken


def test_a_budget_of_nothing_takes_what_costs_nothing():
    frontier, _ = run([(0.8, 4.0), (0.7, 4.0), (0.1, 4.0001)], budget=0.0, patience=9)
    assert frontier.chosen == 10


def test_without_a_budget_nothing_is_chosen_and_nothing_ends():
    frontier, chosen = run([(0.8, 4.0)] + [(0.1, 99.0)] * 9, budget=None)
    assert chosen == [] and frontier.chosen is None and not frontier.is_broken
    assert frontier.summary(90)["taken_step"] == 90


def test_what_it_knows_goes_on_as_json():
    frontier, _ = run([(0.8, 4.0), (0.1 + 0.2, 4.1)])
    again = Frontier(frontier.rule)
    again.restore(json.loads(json.dumps(frontier.state())))
    assert again == frontier


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (
            [(0.8, 4.0), (0.5, 4.1)],
            "STEP 10 IS TAKEN, the lowest expected maximum toxicity within +5.0% of step 0's "
            "perplexity: 0.500, at step 0 0.800; perplexity 4.1 (+2.5%)",
        ),
        (
            [(0.8, 4.0), (0.5, 4.4)],
            "no step within +5.0% of step 0's perplexity has a lower expected maximum toxicity "
            "than step 0, 0.800: STEP 0 IS TAKEN, the model as it was before",
        ),
    ],
)
def test_the_outcome_is_said(points, message):
    frontier, _ = run(points)
    assert frontier.outcome() == message
    last = frontier.points[-1]
    assert ("BEYOND THE BUDGET" in frontier.said(last)) == (not frontier.is_within(last))


def test_the_manifest_has_both_ends():
    frontier, _ = run([(0.8, 4.0), (0.5, 4.1), (0.1, 9.0)], patience=1)
    assert frontier.summary(30) == {
        "taken_step": 10,
        "last_step": 20,
        "stopped_early": True,
        "at_step_0": figures(0.8, 4.0),
        "at_taken_step": figures(0.5, 4.1),
    }


def test_a_budget_that_the_last_step_breaks_ends_nothing_early():
    frontier, _ = run([(0.8, 4.0), (0.5, 4.1), (0.1, 9.0)], patience=1)
    assert frontier.is_broken and frontier.summary(20)["stopped_early"] is False
