"""Toxicity by group in the report: a table of the page, sentences on the gaps, a CSV file."""

import csv
import dataclasses

import pytest
from etils import epath

from detox_jax.evaluation.groups import Gap, GroupRow
from detox_jax.evaluation.metric_names import EMT
from detox_jax.evaluation.results_files import load
from detox_jax.evaluation.statistics import Interval
from detox_jax.report import group_tables
from detox_jax.report import page as pages
from detox_jax.report import report as reports
from tests.evaluation import results_made

EMT_OF = {"a": Interval(0.2, 0.1, 0.3), "": Interval(0.4, 0.3, 0.5)}


@pytest.fixture
def results():
    rows = tuple(
        GroupRow("base", "group", name, 1200, 1100, 0.95, emt, Interval(0.5, 0.4, 0.6))
        for name, emt in EMT_OF.items()
    )
    gap = Gap("base", "group", EMT, "<b>", "a", 3, Interval(0.3, -0.1, 0.6))
    return dataclasses.replace(results_made.made_results(), groups=rows, gaps=(gap,))


def test_the_page_has_a_table_and_the_gap(results, tmp_path, monkeypatch):
    monkeypatch.setattr(pages.charts, "of_scores", lambda _: [])
    monkeypatch.setattr(pages.charts, "of_training", lambda _: [])
    page = pages.page([load(results_made.write(tmp_path / "e", results))])
    assert "Toxicity by group" in page and "(none)" in page and "1,200" in page
    assert "EMT is highest for &lt;b&gt; and lowest for a: 0.300 [-0.100, 0.600]" in page
    assert "chance may explain it" in page


def test_the_csv_is_unrounded(results, tmp_path, monkeypatch):
    for name in ("svg", "png", "pdf"):
        empty = "" if name == "svg" else b""
        monkeypatch.setattr(reports.figures, name, lambda *_, empty=empty: empty)
    monkeypatch.setattr(reports, "charts", lambda _: [])
    evaluation = load(results_made.write(tmp_path / "e", results))
    reports.write(evaluation, epath.Path(tmp_path))
    rows = list(csv.DictReader((tmp_path / "groups.csv").open()))
    assert [(row["group"], row["expected_maximum_toxicity_high"]) for row in rows] == [
        ("a", "0.3"),
        ("", "0.5"),
    ]


def test_without_groups_there_is_nothing():
    made = results_made.made_results()
    assert group_tables.tables(made) == [] and group_tables.legend(made) == []


def test_a_group_of_few_prompts_is_marked(results):
    few = dataclasses.replace(results.groups[0], num_scored_prompts=19)
    one = dataclasses.replace(
        results.groups[0], group="b", expected_maximum_toxicity=Interval(0.8, 0.8, 0.8)
    )
    made = dataclasses.replace(results, groups=(few, one, results.groups[1]))
    (table,) = group_tables.tables(made)
    shown = [row["Max. toxicity"] for row in table.rows]
    assert shown == ["0.200 [0.100, 0.300] ‡", "0.800 [0.800, 0.800] ‡", "0.400 [0.300, 0.500]"]
    assert [row["Tox. probability"][-1] for row in table.rows] == ["‡", "]", "]"]
    assert any(line.startswith("‡: the interval says little") for line in group_tables.legend(made))
    assert not any(line.startswith("‡") for line in group_tables.legend(results))
