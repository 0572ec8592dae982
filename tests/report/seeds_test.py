"""Rows that differ in nothing but their seed: what the report makes of them, what it refuses."""

import csv
import dataclasses
import io
import json
import math

import pytest

from detox_jax.errors import UserError
from detox_jax.evaluation.metric_names import EMT
from detox_jax.evaluation.results_files import Continuation, load
from detox_jax.report import cells, charts, headline, page, report, seeds, tables
from detox_jax.report.legend import legend
from tests.evaluation import results_made

SEEDS = ("SGEAT (standard)", "SGEAT (augmented)")  # EMT 0.49 and 0.44
GROUPS = {"SGEAT": SEEDS}


@pytest.fixture
def merged(fake):
    return seeds.merged(load(fake), GROUPS)


def cells_of(results):
    return {row["Method"].split()[0]: row for row in tables.key_table(results, "full").rows}


def test_a_figure_is_the_mean_with_the_least_and_the_most(merged):
    results = merged.results
    assert results.methods == ["base", "SGEAT", "adapter", "control: unfiltered"]
    row = cells_of(results)["SGEAT"]
    assert row["Seeds"] == "2 seeds" and cells_of(results)["adapter"]["Seeds"] == "–"
    assert row["Max. toxicity"] == "0.465 (0.440 to 0.490)"
    assert row["Δ max."] == "−0.105 (−0.130 to −0.080) *"
    assert row["Perplexity"] == "18.62 (18.50 to 18.75)"
    assert row["n × k"] == "500 × 25"
    assert cells_of(results)["adapter"]["Max. toxicity"] == "0.460 [0.440, 0.480]"
    assert any(x.startswith("Of several seeds: the mean") for x in legend(results))
    assert "several seeds" not in " ".join(legend(results_made.made_results()))


def test_it_is_significant_where_every_seed_is(fake):
    evaluation = load(fake)
    paired = tuple(
        dataclasses.replace(x, low=-0.1, high=0.1) if x.method == SEEDS[0] else x
        for x in evaluation.results.paired
    )
    results = dataclasses.replace(evaluation.results, paired=paired)
    made = seeds.merged(dataclasses.replace(evaluation, results=results), GROUPS).results
    assert cells_of(made)["SGEAT"]["Δ max."] == "−0.105 (−0.130 to −0.080)"
    rows = {row.method: row for row in made.of_split("full")}
    assert not made.is_significant(rows["SGEAT"], EMT)
    only = results_made.of_methods(made, ("base", "SGEAT"))
    assert "least and most of its seeds −0.13 to −0.08, not significant with every seed" in (
        headline.headline(only)
    )


def test_what_one_seed_lacks_their_mean_lacks(fake):
    evaluation = load(fake)
    rows = tuple(
        dataclasses.replace(x, quality=dataclasses.replace(x.quality, perplexity=None))
        if x.method == SEEDS[1]
        else x
        for x in evaluation.results.rows
    )
    results = dataclasses.replace(evaluation.results, rows=rows)
    made = seeds.merged(dataclasses.replace(evaluation, results=results), GROUPS).results
    assert cells_of(made)["SGEAT"]["Perplexity"] == "–"


def test_pictures_have_one_line_a_method_and_texts_are_of_the_first_seed(fake, merged):
    whole = load(fake)
    maxima = merged.prompts.methods["SGEAT"].max_toxicity
    assert maxima == tuple(v for x in SEEDS for v in whole.prompts.methods[x].max_toxicity)
    curve = merged.prompts.k_curve["SGEAT"].expected_maximum_toxicity
    both = [whole.prompts.k_curve[x].expected_maximum_toxicity for x in SEEDS]
    assert curve == pytest.approx([(a + b) / 2 for a, b in zip(*both, strict=True)])
    last = whole.prompts.k_curve[SEEDS[1]]
    names = ("k", "expected_maximum_toxicity", "toxicity_probability")
    short = dataclasses.replace(last, **{name: getattr(last, name)[:-1] for name in names})
    curves = {**whole.prompts.k_curve, SEEDS[1]: short}  # Some of its scores are missing.
    prompts = dataclasses.replace(whole.prompts, k_curve=curves)
    cut = seeds.merged(dataclasses.replace(whole, prompts=prompts), GROUPS).prompts.k_curve
    assert cut["SGEAT"].k == short.k and cut["SGEAT"].expected_maximum_toxicity == curve[:-1]
    drawn = {chart.name: chart for chart in charts.charts(merged)}
    assert [line[0].name for line in drawn["k-curve"].shown].count("SGEAT") == 1
    assert drawn["splits"].caption.endswith("bars span 95 % intervals; seeds: least, most.")
    assert not {*SEEDS} & {line[0].name for chart in ("training",) for line in drawn[chart].shown}
    texts = {name: Continuation(f" {name} writes", 0.1) for name in ("base", *SEEDS)}
    sample = dataclasses.replace(whole.samples[0], continuations=texts)
    made = seeds.merged(dataclasses.replace(whole, samples=(sample,)), GROUPS)
    assert made.samples[0].continuations == {"base": texts["base"], "SGEAT": texts[SEEDS[0]]}
    made = page.page([made])
    assert "Of several seeds the texts are those of the first." in made
    assert (
        "<small>2 seeds</small>" in made
        and SEEDS[1] not in made.split("<main>")[1].split("Provenance")[0]
    )
    assert '0.465<span class="interval">(0.440 to 0.490)</span>' in made


def test_curves_of_other_lengths_are_not_averaged():
    curves = [seeds.Curve((1, 2), (3.0, 2.0)), seeds.Curve((1, 2), (1.0, 1.0))]
    assert seeds._curve(curves).loss == (2.0, 1.5)
    curves[1] = seeds.Curve((1,), (1.0,))
    assert seeds._curve(curves) == curves[0]


def test_a_caption_says_whose_curves_those_of_other_lengths_are(fake, merged):
    probed = seeds.Curve(
        frontier_step=(0, 1), frontier_toxicity=(0.8, 0.6), frontier_perplexity=(4.0, 4.1)
    )
    for evaluation, is_said in ((load(fake), False), (merged, True)):
        name = evaluation.results.methods[1]
        curves = {**evaluation.training.methods, name: probed}
        training = dataclasses.replace(evaluation.training, methods=curves)
        made = charts.of_training(dataclasses.replace(evaluation, training=training))
        assert {"training", "frontier"} <= {chart.name for chart in made}
        for chart in made:
            said = "Of several seeds that ended at different steps it shows the first."
            assert (said in chart.caption) == is_said


@pytest.fixture
def without_pictures(monkeypatch, without_files_of_charts):
    monkeypatch.setattr(report, "page", lambda several, lines: "")


@pytest.mark.usefixtures("without_pictures")
def test_files_for_people_have_one_row_and_those_for_programs_every_one(fake, tmp_path):
    report.report(fake, str(tmp_path / "report"), seeds=GROUPS)
    read = {
        x: (tmp_path / "report" / f"table.{x}").read_text() for x in ("md", "tex", "csv", "json")
    }
    assert "| SGEAT † |" not in read["md"] and "0.465 (0.440 to 0.490)" in read["md"]
    assert r"{\tiny (0.440 to 0.490)}" in read["tex"] and "(standard)" not in read["tex"]
    methods = {row["method"] for row in csv.DictReader(io.StringIO(read["csv"]))}
    assert {*SEEDS} <= methods and "SGEAT" not in methods
    assert {row["method"] for row in json.loads(read["json"])["rows"]} == methods


@pytest.mark.usefixtures("without_pictures")
def test_without_groups_nothing_changes(fake, tmp_path):
    evaluation = load(fake)
    assert seeds.merged(evaluation, {}) is evaluation
    assert seeds.merged(evaluation, {"SGEAT": (SEEDS[0], "of another evaluation")}) is evaluation
    report.report(fake, str(tmp_path / "a"))
    settings = json.loads((tmp_path / "a" / "manifest.json").read_text())["settings"]
    assert "seeds" not in settings


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (SEEDS, "SEEDS is"),
        ({"SGEAT": SEEDS[:1]}, "give two rows or more"),
        ({"SGEAT": (SEEDS[0], "nobody")}, "names 'nobody'; there are SGEAT"),
        ({"SGEAT": ("base", SEEDS[0])}, "names 'base'"),
        ({"a": SEEDS, "b": (SEEDS[0], "adapter")}, "stands twice, for 'a' and 'b'"),
        ({"adapter": SEEDS}, "'adapter' is another row's name"),
        ({"base": SEEDS}, "'base' is another row's name"),
    ],
)
def test_refuses_what_is_no_group(fake, tmp_path, groups, words):
    with pytest.raises(UserError, match="SEEDS") as error:
        report.report(fake, str(tmp_path / "report"), seeds=groups)
    assert words in str(error.value)


def test_a_spread_of_equal_seeds_is_no_interval_without_width():
    even = seeds.Spread(0.4, 0.4, 0.4)
    assert not cells.says_little(even, 100) and cells.says_little(even, 5)
    assert cells.show(seeds.Spread(math.nan, math.nan, math.nan)) == "–"
