"""Which pictures there are of trainings."""

import dataclasses

from detox_jax.evaluation.results_files import Curve, Evaluation, Training
from detox_jax.report import charts
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


def test_without_a_probe_there_is_none():
    curve = dataclasses.replace(Curve(), step=(1, 2), loss=(2.0, 1.0))
    assert [chart.name for chart in charts.of_training(_evaluation(curve))] == ["training"]
