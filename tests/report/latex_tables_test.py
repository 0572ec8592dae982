"""Columns of a paper's tables: what siunitx aligns, what is bold, what is too wide."""

import pytest

from detox_jax.report import latex_tables
from detox_jax.report.tables import Table

EMT = "EMT (mean of maxima)"


def cells_of(name, *texts, methods=("base", "mine", "other")):
    rows = [{"Method": m, name: text} for m, text in zip(methods, texts, strict=True)]
    return latex_tables._cells(name, rows)


def test_the_best_is_bold_and_what_is_spoiled_is_not():
    texts = ("0.570 [0.550, 0.590]", "0.440 [0.420, 0.460] ‡", "0.120")
    column = cells_of(EMT, *texts, methods=("base", "mine", "other §"))
    assert column.values == ["0.570", r"\bfseries 0.440", "0.120"]
    assert column.below[1] == r"{\tiny {[}0.420, 0.460{]} \ddag}".replace(r"\ddag", r"$^\ddagger$")
    assert not any("bfseries" in text for text in cells_of("Words", "1.0", "2.0", "3.0").values)


@pytest.mark.parametrize(
    ("texts", "kind", "values"),
    [
        (("–", "−0.130 [−0.150, −0.110] *", "+0.015"), "+1.3", ["{--}", "-0.130", "+0.015"]),
        (("1,234.50", "∞", "3.25"), "4.2", ["1234.50", r"{$\infty$}", "3.25"]),
        (("0.1 %", "12.0 %", "–"), "2.1", ["0.1", "12.0", "{--}"]),
    ],
)
def test_numbers_stand_by_their_decimal_point(texts, kind, values):
    column = cells_of("any", *texts)
    assert column.kind == f"S[table-format={kind}]"
    assert column.values == values
    assert column.unit == (r" (\%)" if "0.1 %" in texts else "")


def test_what_is_no_number_stays_text():
    column = cells_of("n × k", "500 × 25", "–", "500 × 25")
    assert (column.kind, column.values[0]) == ("l", r"500 $\times$ 25")


def test_wide_tables_are_parted():
    rows = [{"Method": "base", **{f"column {i}": "1" for i in range(12)}}]
    parts = latex_tables._parts(Table("Toxicity", "full", "", rows))
    assert [len(part.rows[0]) for part in parts] == [6, 6, 3]
