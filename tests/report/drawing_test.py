"""The pictures' arithmetic, and that methods can be told apart."""

import pytest
from matplotlib.figure import Figure

from detox_jax.evaluation.statistics import Interval
from detox_jax.report import drawing
from detox_jax.report.figures import Measured


def test_pareto_front():
    points = [(3.0, 1.0), (1.0, 3.0), (2.0, 3.5), (2.0, 2.0), (3.0, 1.5), (4.0, 1.0)]
    assert drawing.pareto_front(points) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]


def test_twelve_methods_look_different():
    methods = [Measured(str(i), i) for i in range(12)]
    assert len({(m.colour, m.marker) for m in methods}) == 12
    assert len({(m.colour, m.line) for m in methods}) == 12
    assert len({(m.colour, m.hatch) for m in methods}) == 12


@pytest.mark.parametrize(("last", "scale"), [(11.0, "linear"), (90.0, "log")])
def test_perplexities_far_apart_are_drawn_by_their_ratios(last, scale):
    level = Interval(0.5, 0.4, 0.6)
    methods = [Measured(str(p), i, level, level, p) for i, p in enumerate((4.0, 4.4, last))]
    figure = Figure()
    axes = figure.subplots()
    drawing.draw_quality(axes, methods)
    figure.canvas.draw()
    assert axes.get_xscale() == scale
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert scale == "linear" or {"5", "10", "20", "50"} <= {*labels}


def test_a_long_name_keeps_its_beginning_and_its_end():
    name = "SGEAT with prompts that " + "go on and on and " * 8 + "the second seed"
    label = Measured(name, 1).label
    assert label.startswith("SGEAT with prompts that")
    assert label.endswith("the second seed")
    assert label.count("\n") == 2
