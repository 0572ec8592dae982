"""One table of every row under several judges, and when there is one."""

import csv
import dataclasses
import io
import math

import pytest

from detox_jax.report import judge_tables, report
from tests.evaluation import results_made


def shifted(results, by):
    """The same texts under a judge that finds them by so much more toxic."""

    def judged(row):
        emt = row.toxicity.expected_maximum_toxicity
        more = results_made.estimate(emt.value + by, 0.03)
        toxicity = dataclasses.replace(row.toxicity, expected_maximum_toxicity=more)
        return dataclasses.replace(row, toxicity=toxicity)

    of = results_made.of_scorer(results, "other")
    return dataclasses.replace(of, rows=tuple(map(judged, of.rows)))


@pytest.fixture
def both():
    one = results_made.made_results()
    return [one, shifted(one, 0.1)]


def test_every_judge_has_its_interval_beside_what_none_changes(both):
    rows = {row["Method"].split()[0]: row for row in judge_tables.table(both).rows}
    adapter = rows["adapter"]
    assert adapter["EMT, lexicon"] == "0.460 [0.440, 0.480]"
    assert adapter["EMT, other"] == "0.560 [0.530, 0.590]"
    assert adapter["TP, lexicon"] == adapter["TP, other"] == "0.410 [0.370, 0.450]"
    assert adapter["Perplexity"] == "18.40" and adapter["Rise"] == "+1.1 %"
    assert rows["base"]["Rise"] == "–"
    assert adapter["Distinct 1/2/3"] == "0.61 / 0.88 / 0.91" and adapter["Self-BLEU"] == "0.043"
    assert adapter["Words"] == "15.2" and adapter["Stops early"] == "20.0 %"
    text = judge_tables.markdown(both)
    assert text.startswith("### Every row, by every judge, full prompts (500 prompts, ")
    assert "Scorer: lexicon-0123abcd." in text and f"Scorer: {both[1].scorer.fingerprint}." in text
    assert "distinct n-grams of a prompt's continuations" in text


def test_a_mark_of_one_judge_stands_beside_its_figures_alone(both):
    """The first judge's marks stood beside the name, for all of them."""

    def spoiled(results, name, why):
        rows = [
            dataclasses.replace(row, spoiled=why) if row.method == name else row
            for row in results.rows
        ]
        return dataclasses.replace(results, rows=tuple(rows))

    chosen = ("its continuations were chosen by this very scorer",)
    one, other = (spoiled(of, "control: unfiltered", ("it loops",)) for of in both)
    several = [one, spoiled(other, "adapter", chosen)]
    rows = {row["Method"]: row for row in judge_tables.table(several).rows}
    assert rows["SGEAT (standard)"]["EMT, lexicon"].endswith("] †")
    assert rows["SGEAT (standard)"]["TP, lexicon"].endswith("] †")
    assert rows["SGEAT (standard)"]["EMT, other"].endswith("]")
    assert rows["adapter"]["EMT, lexicon"].endswith("]")
    assert rows["adapter"]["EMT, other"].endswith("] §")
    assert rows["control: unfiltered §"]["EMT, lexicon"].endswith("]")
    text = judge_tables.markdown(several)
    assert "A mark beside a figure is of that judge alone." in text


def test_a_rise_is_none_without_perplexity_and_infinite_where_texts_are_impossible(both):
    def with_(change):
        def changed(row):
            if row.method != "adapter":
                return row
            perplexity = change(row.quality.perplexity)
            return dataclasses.replace(
                row, quality=dataclasses.replace(row.quality, perplexity=perplexity)
            )

        several = [dataclasses.replace(r, rows=tuple(map(changed, r.rows))) for r in both]
        rows = {row["Method"].split()[0]: row for row in judge_tables.table(several).rows}
        return rows["adapter"]["Rise"]

    assert with_(lambda of: None) == "–"
    assert with_(lambda of: dataclasses.replace(of, impossible=3)) == "∞"
    assert with_(lambda of: dataclasses.replace(of, value=9.1)) == "−50.0 %"


def test_unrounded_every_split_and_every_row(both):
    lines = list(csv.DictReader(io.StringIO(judge_tables.csv_table(both))))
    assert len(lines) == len(both[0].rows)
    line = next(x for x in lines if (x["method"], x["split"]) == ("adapter", "toxic"))
    assert float(line["expected_maximum_toxicity_lexicon"]) == pytest.approx(0.66)
    assert float(line["expected_maximum_toxicity_other_low"]) == pytest.approx(0.73)
    assert float(line["perplexity_rise"]) == pytest.approx(18.4 / 18.2 - 1)
    assert (line["distinct_2"], line["self_bleu"]) == ("0.88", "0.0432")
    base = next(x for x in lines if x["method"] == "base")
    assert base["perplexity_rise"] == "" and "nan" not in {*base.values()}


def test_results_of_other_texts_or_of_one_judge_have_no_such_table(both):
    one, other = both
    assert judge_tables.are_of_one_run(both)
    assert not judge_tables.are_of_one_run([one])
    assert not judge_tables.are_of_one_run([one, one])
    fewer = results_made.of_methods(other, ("base", "adapter"))
    assert not judge_tables.are_of_one_run([one, fewer])
    quality = dataclasses.replace(other.rows[0].quality, mean_words=3.0)
    rows = (dataclasses.replace(other.rows[0], quality=quality), *other.rows[1:])
    assert not judge_tables.are_of_one_run([one, dataclasses.replace(other, rows=rows)])
    # NaN is what it is in both.
    nan = [
        dataclasses.replace(
            of,
            rows=tuple(
                dataclasses.replace(r, quality=dataclasses.replace(r.quality, self_bleu=math.nan))
                for r in of.rows
            ),
        )
        for of in both
    ]
    assert judge_tables.are_of_one_run(nan)


@pytest.mark.usefixtures("without_files_of_charts")
def test_report_writes_it_with_seeds_as_one_and_every_row_in_csv(both, tmp_path):
    places = [
        results_made.write(tmp_path / name, of) for name, of in zip(("a", "b"), both, strict=True)
    ]
    seeds = {"SGEAT": ("SGEAT (standard)", "SGEAT (augmented)")}
    report.report([*map(str, places)], str(tmp_path / "report"), seeds=seeds)
    table = (tmp_path / "report" / "judges.md").read_text()
    assert "0.465 (0.440 to 0.490)" in table and "0.565 (0.540 to 0.590)" in table
    assert "+2.3 %" in table, "of the mean perplexity"
    lines = (tmp_path / "report" / "judges.csv").read_text().splitlines()
    assert len(lines) == 1 + len(both[0].rows)
    report.report(str(places[0]), str(tmp_path / "alone"))
    assert not (tmp_path / "alone" / "judges.md").exists()


def test_prompts_and_coverage_of_every_judge_stand_in_the_table(both):
    assert judge_tables.table(both).rows[0]["n × k"] == "500 × 25"

    def few(row):
        toxicity = dataclasses.replace(row.toxicity, num_scored_prompts=12, coverage=0.97)
        return dataclasses.replace(row, toxicity=toxicity)

    one, other = both
    several = [one, dataclasses.replace(other, rows=tuple(map(few, other.rows)))]
    row = judge_tables.table(several).rows[0]
    assert row["n × k, lexicon"] == "500 × 25" and row["n × k, other"] == "12 × 25"
    assert (row["Scored, lexicon"], row["Scored, other"]) == ("100.0 %", "97.0 %")
    assert row["EMT, lexicon"].endswith("]") and row["EMT, other"].endswith("] ‡")
    text = judge_tables.markdown(several)
    assert "‡: the interval says little" in text and "Scored: continuations that have" in text
    (line, *_) = csv.DictReader(io.StringIO(judge_tables.csv_table(several)))
    assert (line["num_scored_prompts_other"], line["coverage_other"]) == ("12", "0.97")
