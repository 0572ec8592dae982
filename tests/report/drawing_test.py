"""The pictures' arithmetic, and that methods can be told apart."""

import pytest
from matplotlib.figure import Figure

from detox_jax.evaluation.statistics import Interval
from detox_jax.report import drawing
from detox_jax.report.figures import Measured
from detox_jax.report.seeds import Spread


def test_pareto_front():
    points = [(3.0, 1.0), (1.0, 3.0), (2.0, 3.5), (2.0, 2.0), (3.0, 1.5), (4.0, 1.0)]
    assert drawing.pareto_front(points) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]


def test_twelve_methods_look_different():
    methods = [Measured(str(i), i) for i in range(12)]
    assert len({(m.colour, m.marker) for m in methods}) == 12
    assert len({(m.colour, m.line) for m in methods}) == 12
    assert len({(m.colour, m.hatch) for m in methods}) == 12


def test_one_of_many_is_pale_and_has_no_place_in_a_legend():
    level = Interval(0.5, 0.4, 0.6)
    figure = Figure()
    axes = figure.subplots()
    base, told, other = (
        Measured("base", 0, level, level, 4.0, look=0),
        Measured("told", 7, level, level, 5.0, look=1),
        Measured("other", 3, level, level, 6.0, is_faint=True),
    )
    assert told.colour == Measured("", 1).colour and other.colour == base.colour
    drawing.draw_k_curve(axes, [(m, [1, 2], [0.1, 0.2]) for m in (base, told, other)])
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["base", "told"]
    assert [line.get_alpha() for line in axes.get_lines()] == [1.0, 1.0, other.opacity]


def test_many_methods_by_kind_of_prompt_have_a_line_each():
    level = Interval(0.5, 0.4, 0.6)
    splits = {split: [Measured(str(i), i, level) for i in range(14)] for split in ("full", "toxic")}
    axes = Figure().subplots()
    drawing.draw_splits_of_many(axes, splits)
    assert [label.get_text() for label in axes.get_yticklabels()] == [str(i) for i in range(14)]
    legend = axes.get_legend()
    assert legend is not None and [t.get_text() for t in legend.get_texts()] == ["full", "toxic"]


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


def test_bars_of_seeds_are_not_called_intervals():
    level, seeds = Interval(0.5, 0.4, 0.6), Spread(0.5, 0.4, 0.6)
    one, several = Measured("one", 0, level, level, 4.0), Measured("three", 1, seeds, seeds, 5.0)
    said = []
    for methods in ([one], [several], [one, several]):
        axes = Figure().subplots()
        drawing.draw_toxicity(axes, methods)
        said.append(axes.get_xlabel())
    assert said[0] == "Toxicity (95 % intervals); less is better"
    assert said[1].endswith("Bars: least and most of seeds")
    assert said[2].endswith("Bars: 95 % intervals; seeds: least, most")
    axes = Figure().subplots()
    drawing.draw_quality(axes, [several])
    assert axes.get_xlabel().endswith("Bars: least and most of seeds")
