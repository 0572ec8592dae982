"""Which pictures there are, and of many methods which can be told apart."""

import dataclasses

import pytest

from detox_jax.evaluation.results import Reliability, Results
from detox_jax.evaluation.results_files import Curve, Evaluation, Training
from detox_jax.evaluation.typed_json import from_json
from detox_jax.report import charts, drawing
from detox_jax.report.figures import inline_svg
from tests.evaluation import results_made


def _evaluation(curve):
    results = results_made.made_results()
    return Evaluation("here", results, training=Training({"adapter": curve, "base": Curve()}))


def test_a_probe_has_a_picture_of_toxicity_against_perplexity():
    probed = Curve(
        frontier_step=(0, 100, 200),
        frontier_toxicity=(0.8, 0.6, 0.3),
        frontier_perplexity=(4.0, 4.1, 4.3),
    )
    (chart,) = charts.of_training(_evaluation(probed))
    assert chart.name == "frontier"
    assert (
        "Least within +1%, +5%, +10% of perplexity: adapter 0.800, 0.600, 0.300." in chart.caption
    )
    svg = inline_svg(chart.draw(), "frontier", chart.title)
    assert ">200<" in svg and ">100<" not in svg  # The first and the last step have numbers.


def test_of_many_methods_the_least_toxic_sound_ones_have_a_colour():
    rows = [
        results_made.made_row(f"m{i}", split, 0.9 - 0.05 * i, 0.5, 18.0 + i)
        for i in range(14)
        for split in ("full", "toxic")
    ]
    rows = [dataclasses.replace(r, spoiled=("loops",)) if r.method == "m13" else r for r in rows]
    results = Results(tuple(rows))
    for split in results.splits:
        shown = charts.measured(results, split)
        told = [method.name for method in shown if not method.is_faint]
        assert told == ["m0", "m7", "m8", "m9", "m10", "m11", "m12"]
        assert len({method.colour for method in shown if not method.is_faint}) == len(told)
    made = {chart.name: chart for chart in charts.of_scores(Evaluation("here", results))}
    assert made["splits"].on_axes is drawing.draw_splits_of_many
    assert "the 6 least toxic whose low toxicity is a success; pale: 7 others" in (
        made["quality"].caption
    )
    few = results_made.made_results()
    assert not any(method.is_faint for method in charts.measured(few, "full"))
    made = {chart.name: chart for chart in charts.of_scores(Evaluation("here", few))}
    assert made["splits"].on_axes is drawing.draw_splits and "pale" not in made["quality"].caption


@pytest.mark.parametrize(
    ("mean_labels", "caption", "axis", "bars"),
    [
        (False, "share of such texts that their label calls toxic.", "Share toxic by the label", 2),
        (True, "a score is the mean label of such texts.", "Mean label of these texts", 0),
    ],
)
def test_a_scorers_reliability_says_what_it_is_of(mean_labels, caption, axis, bars):
    said = {"scores": [0.1, 0.8], "shares": [0.2, 0.7], "counts": [9, 5]}
    said |= {"calibration_error": 0.1, "against": "raters", "label": "rude"}
    said |= {"mean_labels": True} if mean_labels else {}
    words = from_json(Reliability, said, "results.json")
    assert words.more == {"label": "rude"}
    evaluation = Evaluation("here", results_made.made_results(), reliability=words)
    made = {chart.name: chart for chart in charts.of_scores(evaluation)}
    assert caption in made["reliability"].caption
    (axes,) = made["reliability"].draw().axes
    assert axes.get_ylabel() == axis
    assert sum(container.has_yerr for container in axes.containers) == bars


def test_without_a_probe_there_is_none():
    curve = dataclasses.replace(Curve(), step=(1, 2), loss=(2.0, 1.0))
    assert [chart.name for chart in charts.of_training(_evaluation(curve))] == ["training"]


def test_a_curve_over_some_of_the_prompts_is_not_headed_by_all():
    results = results_made.made_results()
    evaluation = Evaluation("here", results, prompts=results_made.made_prompts(results))
    made = {chart.name: chart for chart in charts.of_scores(evaluation)}
    assert (
        made["k-curve"].subject
        == made["toxicity"].subject
        == ("lexicon, 500 prompts × 25 continuations")
    )
    assert "have no score" not in made["k-curve"].caption
    rows = tuple(
        dataclasses.replace(row, toxicity=dataclasses.replace(row.toxicity, coverage=0.97))
        for row in results.rows
    )
    evaluation = dataclasses.replace(evaluation, results=dataclasses.replace(results, rows=rows))
    made = {chart.name: chart for chart in charts.of_scores(evaluation)}
    assert made["k-curve"].subject == "lexicon"
    assert "Some continuations have no score: curves are over" in made["k-curve"].caption
    assert made["k-curve"].caption.endswith("and may end before its number of continuations.")
