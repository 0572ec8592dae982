"""The pictures' arithmetic, and that methods can be told apart."""

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


def test_a_long_name_keeps_its_beginning_and_its_end():
    name = "SGEAT with prompts that " + "go on and on and " * 8 + "the second seed"
    label = Measured(name, 1).label
    assert label.startswith("SGEAT with prompts that")
    assert label.endswith("the second seed")
    assert label.count("\n") == 2
