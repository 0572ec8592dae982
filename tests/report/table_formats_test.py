"""Text as LaTeX takes it."""

import pytest

from detox_jax.report import table_formats


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("50 % of $x_1 & #2", r"50 \% of \$x\_1 \& \#2"),
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("[a]\n*", "{[}a{]} {*}"),
        ("−0.1 ~^", r"$-$0.1 \textasciitilde{}\textasciicircum{}"),
    ],
)
def test_latex_text(text, escaped):
    assert table_formats.latex_text(text) == escaped
