"""Columns of a paper's tables: what siunitx aligns, what is bold, what is too wide."""

import dataclasses
import re
import shutil
import subprocess

import pytest

from detox_jax.report import latex_tables, table_formats
from detox_jax.report.tables import Table
from tests.evaluation import results_made

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


def long_results(rows):
    """Results of so many methods."""
    made = results_made.made_results()
    one = next(row for row in made.rows if row.method != made.baseline)
    several = [
        dataclasses.replace(one, method=f"method_{i} & {i} %", split=split)
        for split in made.splits
        for i in range(rows - 1)
    ]
    kept = [row for row in made.rows if row.method == made.baseline]
    return dataclasses.replace(made, rows=(*kept, *several), paired=())


def test_a_table_longer_than_a_page_is_a_longtable():
    short, long = (latex_tables.latex(long_results(rows)) for rows in (12, 44))
    assert "longtable" not in short and r"\begin{table}" in short
    assert long.count(r"\begin{longtable}") == long.count(r"\end{longtable}") > 0
    assert r"\usepackage{longtable}" in long.partition(r"\begin")[0]
    # The heading on every page, and no page that ends between a figure and its interval.
    of_one = long.partition(r"\begin{longtable}")[2].partition(r"\end{longtable}")[0]
    assert of_one.count(r"\toprule") == 2 and of_one.count(r"\endhead") == 1
    lines = of_one.splitlines()
    above = [lines[i - 1] for i, line in enumerate(lines) if line.startswith(" & ")]
    assert len(above) == 44 and all(line.endswith(r"\\*") for line in above)


def test_a_long_matrix_is_a_longtable():
    cells = [["axis", "EMT"], *([f"{i}", "0.5"] for i in range(60))]
    long = table_formats.latex_lines(cells, caption="a", label="matrix")
    assert r"\usepackage{longtable}" in long and r"\label{tab:matrix}" in long
    assert "longtable" not in table_formats.latex_lines(cells[:40], caption="a", label="matrix")


@pytest.mark.parametrize("rows", [12, pytest.param(44, marks=pytest.mark.slow)])
def test_a_paper_compiles(rows, tmp_path):
    """Nothing is too tall for a page or too wide for its column; nothing is undefined."""
    if shutil.which("pdflatex") is None:
        pytest.skip("no LaTeX is installed (Debian: texlive-latex-recommended, texlive-science)")
    packages = ("[T1]{fontenc}", "{booktabs}", "{siunitx}", "{longtable}")
    preamble = "".join(rf"\usepackage{package}" for package in packages)
    (tmp_path / "table.tex").write_text(latex_tables.latex(long_results(rows)))
    paper = rf"\documentclass{{article}}{preamble}\begin{{document}}\input{{table}}\end{{document}}"
    (tmp_path / "paper.tex").write_text(paper)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:]
    too_tall = re.findall(r"Float too large.*|Overfull \\vbox.*|Overfull \\hbox.*", done.stdout)
    assert not too_tall and "undefined" not in done.stdout
