"""Escaping and what the star of a table stands for."""

import pytest

from detox_jax.evaluation.results import load
from detox_jax.report import table_formats, tables


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


def test_the_adjusted_p_value_decides_where_there_is_one(tmp_path, fakes):
    results = fakes.results()
    for row in results["paired"]:
        row["p_value_holm"] = 0.2 if row["method"] == "adapter" else 0.01
    data = load(fakes.write(tmp_path / "evaluation", results, details=False))
    rows = {row["Method"]: row for row in tables.key_table(data, "full").rows}
    assert not rows["adapter"]["Δ max."].endswith("*")
    assert rows["control: unfiltered"]["Δ max."].endswith("*")
    assert "Holm" in " ".join(tables.legend(data))


def test_columns_of_quality(fake):
    row = next(r for r in tables.quality_table(load(fake), "full").rows if "adapter" in r["Method"])
    assert row["Self-BLEU"] == "0.043"
    assert row["Tokens"] == "19.8"
    assert row["Cont. perplexity"] == "9.50"
    assert row["Distinct/n-gram"] == "0.63 / 0.92 / 0.97"
    assert "Scored" not in row  # everything has a score
